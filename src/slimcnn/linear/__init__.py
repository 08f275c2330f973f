"""Convolutions and linear layers as linear maps: their inputs and outputs on images, and least-squares refits."""
