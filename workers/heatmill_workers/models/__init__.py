"""Classifiers: how they are built, checked, measured and kept."""
