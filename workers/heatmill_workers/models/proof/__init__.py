"""A model is run on a few inputs before it explains anything: what was seen are its facts.

One file a fact: `rows`, `companions`, `counters`, `precision`, `memory_layout`, `gradients`, `slopes`, `activation`.
`prove` finds all but the last, which `models.heads` finds. The other files say on which `inputs` and how a model runs
(`runs`, `calls`, `comparison`), and what the end of a pass holds (`results`, `scripted`, `ranges`, `intervals`).
"""
