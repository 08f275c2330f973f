"""Augmentations, one file for each kind, which the registry finds."""
