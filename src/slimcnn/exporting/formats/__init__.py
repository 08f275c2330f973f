"""Formats of model files: one file each, found by scanning this folder."""
