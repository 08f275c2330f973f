"""Rewrites that replace parts of a network: some preserve its outputs, others require training."""

from slimcnn.rewriting.feature_reuse import feature_reuse
from slimcnn.rewriting.head import Head, find_head, replace_head
from slimcnn.rewriting.materialize import materialize
from slimcnn.rewriting.relations import fold_relations, insert_relations, relations_left_out
from slimcnn.rewriting.rules import Change, RewriteRule, Rewritten, replace, rewrite_named, rewrites, rewritten
from slimcnn.rewriting.scatter import scatter

__all__ = [
    "Change",
    "Head",
    "RewriteRule",
    "Rewritten",
    "feature_reuse",
    "find_head",
    "fold_relations",
    "insert_relations",
    "materialize",
    "relations_left_out",
    "replace",
    "replace_head",
    "rewrite_named",
    "rewrites",
    "rewritten",
    "scatter",
]
