"""Networks that do the same, built otherwise."""

from slimcnn.rewriting.scatter import scatter

__all__ = ["scatter"]
