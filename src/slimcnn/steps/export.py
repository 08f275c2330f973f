"""Export to runtime formats; each file is checked against the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from torch import nn

from slimcnn.errors import ExportError
from slimcnn.exporting import RUNTIMES, ExportedFile, Options, entry_of, export, formats, how_to_run
from slimcnn.manifest import RUN
from slimcnn.reporting.sections import Column, Section, Table, Text
from slimcnn.running.step import Artifact, Context, State, Step, steps
from slimcnn.training.processes import from_rank_zero

AGREEMENT = "top-1 agrees, %"
DETECTIONS_AGREE = "detections agree, %"

Names = Annotated[tuple[str, ...], BeforeValidator(lambda names: (names,) if isinstance(names, str) else names)]


@steps.add("export", source="onnx.ai; the converters of the runtimes")
class Export(Step):
    """Export the network to runtime formats, and compare each file with it on test images."""

    to: Names = ("onnx",)
    """Formats (slimcnn list formats)."""
    bake_normalization: bool = False
    """Include the normalization in the files, which then take uint8 pixels."""
    dynamic_batch: bool = True
    """Allow any batch size, if the runtime supports it; otherwise 1."""
    dynamic_size: bool = False
    """Allow images of any height and width."""
    opset: int = Field(default=18, ge=18, le=25)
    """ONNX opset version."""
    images: int = Field(default=256, ge=1)
    """Number of test images for the comparison; labels are not used."""
    optional: bool = False
    """Continue without a file if a package is missing or the network cannot be exported; the report says why."""

    def rehearse(self, state: State) -> nn.Module:
        """Check that the formats exist and their packages are installed."""
        self._check()
        return state.model

    def run(self, state: State, at: Context) -> tuple[State, Sequence[Section]]:
        """Write all formats into the step's folder."""
        self._check()
        results = from_rank_zero(at.fabric, lambda: [self._written(name, state, at) for name in self.to])
        artifacts = [artifact for artifact, _ in results if artifact is not None]
        reasons = [reason for _, reason in results if reason]
        blocks: list[Any] = [_table(artifacts)] if artifacts else []
        lines = [how_to_run(one.name, Path(one.path).name, one.facts) for one in artifacts[:1]]
        blocks += [Text(text="\n".join(each), tone="code") for each in lines if each]
        blocks += [Text(text=text, tone="bad") for one in artifacts if (text := _unproven(one))]
        blocks += [Text(text=reason, tone="bad") for reason in reasons]
        names = {one.name for one in artifacts}
        others = tuple(one for one in state.artifacts if one.name not in names)
        return replace(state, artifacts=(*others, *artifacts)), [Section(title="Exported files", blocks=tuple(blocks))]

    def _check(self) -> None:
        for name in self.to:
            one = formats[name].value()
            if not self.optional:
                one.check(name, Options(self.dynamic_batch, self.dynamic_size, self.opset), self.bake_normalization)

    def _written(self, name: str, state: State, at: Context) -> tuple[Artifact | None, str]:
        """Export one format; return the artifact, or the reason why there is none."""
        data = state.data
        pixels = None if data.ready else data.test.limit(self.images).in_memory().pixels
        try:
            (found,) = export(
                state.model, state.example, name, out=at.folder, images=pixels,
                compared_on="" if data.ready else f"{data.name}, test",
                classes=data.classes, normalization=data.normalization, scaling=data.scaling.stated(),
                bake_normalization=self.bake_normalization,
                dynamic_batch=self.dynamic_batch, dynamic_size=self.dynamic_size, opset=self.opset, force=True,
                classifies=state.data.task == "classification", say=at.show.say,
            )  # fmt: skip
        except ExportError as error:
            if not self.optional:
                raise
            at.show.say(f"  no file for {name}: {error}")
            return None, f"No file for {name}: {error}."
        return _artifact(found, at.folder), ""


def _artifact(found: ExportedFile, folder: Path) -> Artifact:
    root = next(parent for parent in folder.parents if (parent / RUN).exists())
    return Artifact(found.format, found.path.relative_to(root).as_posix(), entry_of(found))


def _table(artifacts: Sequence[Artifact]) -> Table:
    titles: Mapping[str, Any] = {
        "format": "name", "runs in": "text", "file": "name", "bytes": "exact", "largest relative error": "small",
        AGREEMENT: "percent", DETECTIONS_AGREE: "percent", "images": "exact",
    }  # fmt: skip
    rows = [
        (
            one.name, RUNTIMES[one.facts["runtime"]].title, Path(one.path).name, one.facts["bytes"],
            one.facts["max_error"], one.facts["agreement"], one.facts["detections_agree"], one.facts["images"],
        )
        for one in artifacts
    ]  # fmt: skip
    table = Table(columns=tuple(Column(title=title, format=kind) for title, kind in titles.items()), rows=tuple(rows))
    return _without_empty_agreement(table)


def _unproven(artifact: Artifact) -> str:
    """Return why nothing is proven about a detector's file; empty for other files."""
    if artifact.facts["status"] != "unproven":
        return ""
    return f"It is unproven that {Path(artifact.path).name} detects what the network does: {artifact.facts['why']}."


def _without_empty_agreement(table: Table) -> Table:
    """Leave out the columns of top-1 and of detections for networks that do not have them."""
    empty = {
        column.title for index, column in enumerate(table.columns) if all(row[index] is None for row in table.rows)
    }
    kept = [
        index for index, column in enumerate(table.columns) if column.title not in empty & {AGREEMENT, DETECTIONS_AGREE}
    ]
    rows = tuple(tuple(row[index] for index in kept) for row in table.rows)
    return Table(columns=tuple(table.columns[index] for index in kept), rows=rows)
