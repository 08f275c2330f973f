"""Augmentations: one file for each kind. Files in this folder are found by the registry."""
