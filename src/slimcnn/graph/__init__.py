"""Find which channels must be pruned together: run the network once with a channel id on every value."""

from slimcnn.graph.channels import Axis, ChannelGraph, ChannelGroup, Contraction, Locked
from slimcnn.graph.operations import rule
from slimcnn.graph.tracing import trace

__all__ = ["Axis", "ChannelGraph", "ChannelGroup", "Contraction", "Locked", "rule", "trace"]
