"""Measurements: parameters, MACs, bytes, latency, energy, and the environment they were taken in."""

from slimcnn.measuring.counts import LayerCounts, Measurement, file_bytes, measure, state_bytes
from slimcnn.measuring.energy import energy, why_no_energy
from slimcnn.measuring.environment import environment
from slimcnn.measuring.examples import Example, Inputs
from slimcnn.measuring.latency import Latency, latency

__all__ = [
    "Example",
    "Inputs",
    "Latency",
    "LayerCounts",
    "Measurement",
    "energy",
    "environment",
    "file_bytes",
    "latency",
    "measure",
    "state_bytes",
    "why_no_energy",
]
