"""Operations that lock their inputs, and whose values a shape-only run must compute."""

from __future__ import annotations

from slimcnn.graph.operations import Labels, aten, rule
from slimcnn.graph.trace_record import Call
from slimcnn.graph.tracer import Tracer

STEERING = """_local_scalar_dense is_nonzero nonzero equal masked_select _unique2 unique_dim multinomial poisson
    binomial scatter scatter_ index_put index_put_ index_add index_add_ repeat_interleave histc bincount
    embedding"""

LINEAR_ALGEBRA = """_linalg_det _linalg_eigh _linalg_eigvals _linalg_slogdet _linalg_solve_ex _linalg_svd
    linalg_cholesky_ex linalg_cross linalg_det linalg_eig linalg_eigh linalg_eigvals linalg_inv linalg_inv_ex
    linalg_ldl_factor_ex linalg_ldl_solve linalg_lstsq linalg_lu linalg_lu_factor_ex linalg_lu_solve linalg_matrix_exp
    linalg_qr linalg_slogdet linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals"""
"""Linear algebra, which fails on meaningless values."""


@rule(*aten(STEERING), *aten(LINEAR_ALGEBRA), values="needed")
def lock_inputs(tracer: Tracer, call: Call) -> Labels:
    """Lock all input channels."""
    for tensor in call.tensors:
        tracer.lock_label(tracer.label(tensor), "its values are read by the code or used in unsupported indexing", call)
    return []
