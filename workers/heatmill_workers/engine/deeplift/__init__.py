"""DeepLIFT without hooks: a pair of values runs through the model, and what has no rule is refused.

Shrikumar, Greenside, Kundaje: Learning Important Features Through Propagating Activation Differences (2017).
"""
