"""Make trained CNNs smaller."""
