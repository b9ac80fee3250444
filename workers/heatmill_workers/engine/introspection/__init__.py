"""What the parts of a model do, seen from outside: which axis is which, and what mixes positions."""
