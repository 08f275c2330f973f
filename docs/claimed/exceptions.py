"""Numbers of the pages that no row backs, each with the reason why it needs none."""

from __future__ import annotations

import re
from collections.abc import Iterator

EXCEPTIONS = {
    "a version or the name of a license": {
        "README.md": [
            "Torch-Pruning 1.6.1, NNCF 3.4, ModelOpt 0.47, torchdistill 1.1.5, Ultralytics 8.4.",
            "removed in 3.0",
            "Apache-2.0",
        ],
        "docs/start.md": ["Python 3.11 or newer"],
        "docs/guides/show.md": ["onnxruntime-web) 1.30.0"],
        "docs/guides/export.md": ["detector of torchvision 0.29"],
        "docs/guides/tasks.md": ["ultralytics 8.4.190"],
        "docs/coming_from/distiller.md": ["Distiller 0.3.2"],
        "docs/coming_from/mmrazor.md": ["MMRazor 1.0.0"],
        "docs/coming_from/nncf.md": ["NNCF 2.19. NNCF 3.0"],
        "docs/coming_from/nni.md": ["NNI 3.0"],
        "docs/coming_from/torch_pruning.md": ["Torch-Pruning 1.6.1"],
        "docs/coming_from/torchdistill.md": ["torchdistill 1.1.5"],
    },
    "a setting of the measurement or of the example": {
        "docs/guides/search.md": ["at most 0.5 percentage points"],
        "docs/guides/tasks.md": ["at 0.6 of the MACs, after least squares"],
        "docs/guides/without_training.md": ["1,024 images for refitting"],
        "docs/coming_from/torch_pruning.md": ["At pruning ratio 0.5 by L1"],
    },
    "a default of an option, or what is recommended": {
        "docs/guides/training.md": [
            "(smoothing 0.9, epsilon 0.0316, as in torchvision's recipes)",
            "`sgd` 0.1 from scratch, `adamw` 0.001, `rmsprop` 0.01, `lamb` 0.005",
        ],
        "docs/guides/quantize.md": ["0.5 unless told otherwise", "in percentage points; 0.5 |"],
        "docs/guides/transfer.md": ["with a new head, 0.01 (adamw: 0.001)"],
        "docs/guides/without_training.md": [
            "(1,024 by default)",
            "learning rate 0.01 with batch norms that update, or 0.002 or 0.0005 with batch norms that keep",
        ],
        "docs/methods/compact_spatial.md": ["the usual learning rate of 0.1"],
        "docs/methods/fpdf.md": ["at 0.5 of the MACs | at 0.38 |"],
        "docs/methods/gfr.md": ["papers: 1e-4 over 160 epochs"],
        "docs/methods/scale_factor.md": [
            "| 0.9 (cross entropy 0.1) |",
            "| `scale_factor` | 0.5 |",
            "| `scale_factor:classes=8` | 0.5 |",
            "| `centered_logit_mse` | 0.1 |",
        ],
    },
    "a definition, or a limit in the code": {
        "docs/guides/benchmark.md": ["1.57 (q3 - q1) / sqrt(n)", "at least 0.02"],
        "docs/guides/export.md": [
            "the error is above 1e-4",
            "scores within 1e-4",
            "moved by 3e-6 of themselves",
            "to 1e-12 in float64",
        ],
        "docs/guides/latency.md": ["within 5 % of the target"],
        "docs/guides/search.md": ["0.05, 0.1 ... 0.95, then steps of 0.01"],
        "docs/guides/quantize.md": ["A difference whose 95 % confidence interval comes within 2 % of zero"],
        "docs/guides/show.md": ["up to 300 MB", "(tested to 1e-4)"],
        "docs/guides/studies.md": ["a 95 % bootstrap interval", "p ≥ 0.05"],
        "docs/guides/tasks.md": [
            "whose loss counts 0.4",
            "loses at most 1 point | is at most 1 % worse than the original",
            "at most 1 point worse than the best | at most 1 % worse than the best",
            "loses over 0.5 points, and over two standard errors | is over 5 % worse",
        ],
        "docs/methods/compact_shift.md": ["normalized to length 1, times 0.01"],
        "docs/methods/gfr.md": ["its moving average (0.1)", "gamma and beta divided by 0.88", "stays below 0.02"],
        "docs/methods/scale_factor.md": ["The objective: 0.1 cross entropy + 0.9 KD + 0.5 L."],
    },
    "a property of something else: its documentation or its files say it": {
        "docs/start.md": ["(1,797 handwritten digits"],
        "docs/guides/data_sources.md": ["Docker limits it to 64 MB"],
        "docs/guides/show.md": ["about 5 MB for the runtime", "(33 MB, with npm if installed"],
    },
    "published: the page names the source": {
        "docs/methods/compact_shift.md": ["belongs to width 1.375"],
        "docs/methods/compact_spatial.md": ["the paper says 6.9 M"],
        "docs/methods/feature_reuse.md": [
            "VGG 75.4 % of the volume and 43.5 % of the time, ResNet 53.1 % and 60.9 %",
        ],
        "docs/methods/fpdf.md": ["more than 62 % of ResNet-110's FLOPs"],
    },
    "counted, not measured: tests/models/test_compact.py": {
        "docs/methods/compact_shift.md": ["MACs agree to 0.1 million", "AS-ResNet's MACs are 0.3 to 2.4 % below"],
        "docs/methods/compact_spatial.md": [
            "MACs agree to 0.1 million",
            "MobileNet v2 at width 1.4 has 6.1 M parameters",
        ],
    },
    "counted, not measured: tests/rewriting/test_feature_reuse.py": {
        "docs/methods/feature_reuse.md": [
            "r = f_1 | 75.36 %,",
            "70.10 %, 34.38 %",
            "78.13 %, 53.11 %",
            "65.04 %, 22.24 %",
            "36.75 % of the parameters",
            "of the parameters instead of 53.91 %",
            "`pair` gives 75.36 % for VGG-16",
        ],
    },
    "counted, not measured: tests/rewriting/test_scatter.py": {"docs/methods/fpdf.md": ["gives 62.83 % at one half"]},
}
"""Reason → page → words around the numbers."""


def excepted(page: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of the exceptions of a page.

    Raises:
        LookupError: the page does not have the words of an exception.
    """
    for pages in EXCEPTIONS.values():
        for words in pages.get(page, []):
            found = list(re.finditer(r"\s+".join(map(re.escape, words.split())), text))
            if not found:
                raise LookupError(f"{page} no longer has the words of an exception: {words}")
            yield from (one.span() for one in found)
