"""Rewrites that replace parts of a network: some preserve its outputs, others require training."""

from slimcnn.rewriting.feature_reuse import feature_reuse
from slimcnn.rewriting.materialize import materialize
from slimcnn.rewriting.relations import fold_relations, insert_relations, relations_left_out
from slimcnn.rewriting.rules import Change, RewriteRule, Rewritten, replace, rewrite_named, rewrites, rewritten
from slimcnn.rewriting.scatter import scatter

__all__ = [
    "Change",
    "RewriteRule",
    "Rewritten",
    "feature_reuse",
    "fold_relations",
    "insert_relations",
    "materialize",
    "relations_left_out",
    "replace",
    "rewrite_named",
    "rewrites",
    "rewritten",
    "scatter",
]
