"""Numbers with units: parameters, MACs, bytes, latency, and the machine they were measured on."""

from slimcnn.measuring.counts import Layer, Measurement, file_bytes, measure, state_bytes
from slimcnn.measuring.environment import environment
from slimcnn.measuring.latency import Latency, latency
from slimcnn.measuring.running import Example

__all__ = [
    "Example",
    "Latency",
    "Layer",
    "Measurement",
    "environment",
    "file_bytes",
    "latency",
    "measure",
    "state_bytes",
]
