"""Which channels live and die together: run the network once, with a channel id on every number."""

from slimcnn.graph.channels import Axis, ChannelGraph, ChannelGroup, Contraction, Locked
from slimcnn.graph.operations import rule
from slimcnn.graph.tracing import trace

__all__ = ["Axis", "ChannelGraph", "ChannelGroup", "Contraction", "Locked", "rule", "trace"]
