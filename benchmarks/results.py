"""All studies together, next to published figures: benchmarks/results.md.

python benchmarks/results.py           # writes the page
python benchmarks/results.py --check   # exit code 1 if the page differs from the rows
"""

from __future__ import annotations

import sys
from pathlib import Path

from slimcnn.errors import StudyError
from slimcnn.files import write_text
from slimcnn.reporting import markdown
from slimcnn.reporting.sections import Column, Section, Table, Text
from slimcnn.studying import read_rows, read_study
from slimcnn.studying.publishing import headline, summary

HERE = Path(__file__).parent
PAGE = HERE / "results.md"

PUBLISHED = (
    ("SFP", "arXiv 1808.06866, from the FPGM paper", "ResNet-56", 93.59, 92.26, 0.474, "from scratch, 200 epochs"),
    ("FPGM", "arXiv 1811.00250", "ResNet-56", 93.59, 93.49, 0.474, "pretrained, 200 epochs"),
    ("HRank", "HRankPlus", "ResNet-56", 93.26, 93.17, 0.500, "fine-tuned, 300 epochs"),
    ("CHIP", "CHIP", "ResNet-56", 93.26, 94.16, 0.526, "fine-tuned, 300 epochs"),
    ("DepGraph", "Torch-Pruning", "ResNet-56", 93.53, 93.77, 0.470, "sparse training and fine-tuning"),
    ("FPGM", "arXiv 1811.00250, from the WHC paper", "ResNet-110", 93.68, 93.74, 0.477, "pretrained, 200 epochs"),
    ("FPDF", "Zhang, Kou, Liu 2022, abstract", "ResNet-110", None, None, 0.38, "not stated"),
)
"""Method, source, network, top-1 before and after, MACs left, protocol. MACs left = 1 - published share of FLOPs cut."""


def page() -> str:
    """Return the page from the rows of all studies."""
    parts = [_published()]
    for file in sorted(HERE.glob("*.toml")):
        parts.append(_of_study(file))
    lead = (
        "Every study of this folder, from its rows. `slimcnn study FILE --out benchmarks/NAME` goes on with one; the page of "
        "each holds all measures, hardware, versions, commits and seeds."
    )
    return markdown("Results", lead, parts)


def _of_study(file: Path) -> Section:
    study = read_study(file)
    try:
        rows = read_rows(file.with_suffix(""))
    except StudyError:
        said = f"Not run yet: {study.runs} runs. slimcnn study benchmarks/{file.name} --out benchmarks/{file.stem}"
        return Section(title=study.study.name, blocks=(Text(text=said),))
    lead = Text(text=f"{headline(rows)}; all measures: {file.stem}/study.md.")
    return Section(title=study.study.name, blocks=(lead, *summary(rows).blocks))


def _published() -> Section:
    columns = (
        Column(title="method"), Column(title="source"), Column(title="network"), Column(title="before", format="percent"),
        Column(title="after", format="percent"), Column(title="MACs left", format="share"), Column(title="protocol"),
    )  # fmt: skip
    words = (
        "Published on CIFAR-10. Protocols differ from ours: 200 epochs and more after or during pruning, where our studies "
        "train for at most 32; other trained networks to start from; and FLOPs that some count with the residual stream's channels "
        "as if they were gone. Compare changes, not absolute figures."
    )
    return Section(title="Published figures", blocks=(Text(text=words), Table(columns=columns, rows=PUBLISHED)))


def main() -> None:
    text = page()
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.exists() and PAGE.read_text() == text else f"{PAGE} differs from the rows: run results.py")
    write_text(PAGE, text)


if __name__ == "__main__":
    main()
