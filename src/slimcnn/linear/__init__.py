"""Convolutions and linear layers as linear maps: what they read and make on images, and what would do better."""
