"""NNCF settings shared by both engines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from slimcnn.exporting.quantizing.engine import Rows


def nncf_settings(
    calibration: Rows, batch: int | None, keep: Sequence[str], names: Sequence[str] = ()
) -> tuple[Any, dict[str, Any]]:
    """Import NNCF; return it with all arguments of `nncf.quantize` except the model.

    Weights use seven of eight bits (`overflow_fix`): CPUs without VNNI add int8 products in 16 bits, which saturate.
    Measured on such a CPU, ResNet-20 loses 1.6 percentage points of top-1 without it.
    """
    os.environ.setdefault("NNCF_CI", "1")  # the only way to disable NNCF's usage statistics
    import nncf

    size = batch or 1
    starts = range(0, len(calibration[0]), size)

    def sample(start: int) -> Any:
        arrays = [one[start : start + size] for one in calibration]
        if names:
            return dict(zip(names, arrays, strict=True))
        return arrays[0] if len(arrays) == 1 else arrays

    parameters = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    return nncf, {
        "calibration_dataset": nncf.Dataset(list(starts), sample),
        "subset_size": len(starts),
        "ignored_scope": nncf.IgnoredScope(names=list(keep)),
        "advanced_parameters": parameters,
    }
