"""Layers that PyTorch does not have: shifts, padding, feature reuse, scattering, channel relations."""
