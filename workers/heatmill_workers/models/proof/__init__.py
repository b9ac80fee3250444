"""A model is run on a few inputs before it explains anything: what was seen are its facts. One file a fact."""
