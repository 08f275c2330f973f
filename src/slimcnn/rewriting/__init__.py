"""Networks that do the same, built otherwise."""

from slimcnn.rewriting.relations import fold_relations, insert_relations, relations_left_out
from slimcnn.rewriting.scatter import scatter

__all__ = ["fold_relations", "insert_relations", "relations_left_out", "scatter"]
