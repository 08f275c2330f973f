"""Verify the claims of a run from its files alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from slimcnn.datasets import Dataset, load_dataset
from slimcnn.datasets.cache import fingerprint
from slimcnn.errors import RunError
from slimcnn.exporting import PARITY, source_digest
from slimcnn.files import kind_of
from slimcnn.manifest import MANIFEST, RUN, Manifest, differences, digest_of_file, files_in, read_manifest
from slimcnn.measuring import environment
from slimcnn.reporting import CurveReport, Report, read_report
from slimcnn.running.folder import COMPRESSED, OLD, REPORTS
from slimcnn.running.normalization import stored_in
from slimcnn.show import SILENT, Show
from slimcnn.verifying.certificate import Certificate, Check, Refuted, attempt
from slimcnn.verifying.claimed_files import ClaimedFiles, steps_of
from slimcnn.verifying.cuts import check_cuts, check_results
from slimcnn.verifying.exports import Source, check_exports, runtime_versions, source_of
from slimcnn.verifying.numbers import TestImages, check_metric, check_numbers, find_images


def _not_repeated(metric: str) -> Check:
    """State which numbers of a report are not measured again."""
    return Check(
        what=f"times and validation {metric}",
        where=REPORTS[0],
        status="not checked",
        why=f"latency and duration depend on the machine and are not repeated; {metric} after each step, and the "
        "steps' tables and figures, are covered only by the digests",
    )


@dataclass(frozen=True)
class Asked:
    """Arguments of `verify` besides the folder."""

    data: Dataset | str | None = "auto"
    model: nn.Module | str | None = None
    source: Path | None = None
    manifest: str = ""
    show: Show = SILENT


def verify(
    path: Path | str, *, data: Dataset | str | None = "auto", model: nn.Module | str | None = None,
    source: Path | str | None = None, manifest: str = "", out: Path | str | None = None, show: Show = SILENT,
) -> Certificate:  # fmt: skip
    """Verify the claims of a finished run from its files alone, and write certificate.json.

    The checks are: the digest of every file, `prune == mask` for every cut, the networks against the plans, the sizes
    and the test accuracy in the report, and the outputs of exported files. Claims that cannot be checked are listed
    with the reason. Nothing is unpickled, and no user code runs because a file names it.

    Args:
        path: the folder of a run, or a folder of exported files (with parity.json).
        data: the test images: "auto" for those of the recipe, the name or folder of a dataset, a dataset, or None to
            skip the accuracy checks.
        model: a newly built network, if the run's checkpoints do not state how to build theirs; or the name of the user
            function that they name (package.module:function), which is then allowed to run.
        source: the checkpoint of the exported files' source network, if it is not in the folder.
        manifest: expected SHA-256 of manifest.json, recorded when the run ended.
        out: the folder for certificate.json; default: the run's folder.
        show: how progress is shown.

    Raises:
        RunError: the folder holds no finished run and no exported files.
    """
    root = Path(path)
    asked = Asked(data, model, Path(source) if source is not None else None, manifest, show)
    if kind_of(root) != "folder":
        raise RunError(f"no folder {root}: give the folder of a finished run, or of exported files")
    exports = (root / PARITY).exists() and not (root / MANIFEST).exists() and not (root / RUN).exists()
    certificate = _verify_exports(root, asked) if exports else _verify_run(root, asked)
    certificate.write(Path(out) if out is not None else root)
    return certificate


def _verify_exports(root: Path, asked: Asked) -> Certificate:
    """Check a folder that holds only exported files."""
    data = asked.data if isinstance(asked.data, Dataset) else None
    if isinstance(asked.data, str) and asked.data != "auto":
        data = load_dataset(asked.data)
    sources = dict([source_of(asked.source, asked.model)]) if asked.source is not None else {}
    asked.show.say("running the exported files in fresh processes")
    images = TestImages(data, fingerprint((data.test.to("cpu"),))) if data is not None else TestImages(None)
    name = root.resolve().name
    checks = tuple(check_exports(root, "", sources, data, alone=True))
    return Certificate(
        title=f"exported files in {name}", folder=name, images=images.described, checks=checks,
        environment=environment() | runtime_versions(),
    )  # fmt: skip


def _verify_run(root: Path, asked: Asked) -> Certificate:
    _require_run(root)
    digest, name = digest_of_file(root / MANIFEST), root.resolve().name
    found: list[Check] = []
    if asked.manifest and asked.manifest != digest:
        why = f"{digest}, expected {asked.manifest}"
        found.append(Check(what="expected digest", where=MANIFEST, status="failed", why=why))
    readable = attempt("digest", MANIFEST, lambda: f"{len(read_manifest(root).files)} files")
    if readable.status != "passed":
        return Certificate(title=name, folder=name, manifest_sha256=digest, checks=(*found, readable))
    known = read_manifest(root)
    asked.show.say(f"comparing {len(known.files)} files with the manifest")
    different = differences(root, known)
    found += _digests(root, known, different)
    files, title, images = ClaimedFiles(root, known, different, asked.model), name, TestImages(None)
    metric = "top-1"
    readable = attempt("can be read", REPORTS[0], lambda: read_report(files.path(REPORTS[0])).title)
    if readable.status == "passed":
        title, report = readable.why, read_report(files.path(REPORTS[0]))
        metric = report.metric.name
        images, checks = _verify_report(files, report, asked)
        found += checks
    else:
        found.append(readable)
    exports = _exports_of_run(files, images, asked)
    return Certificate(
        title=title, folder=name, manifest_sha256=digest, images=images.described,
        checks=(*found, *exports, _not_repeated(metric)),
        environment=environment() | (runtime_versions() if exports else {}),
    )  # fmt: skip


def _exports_of_run(files: ClaimedFiles, images: TestImages, asked: Asked) -> list[Check]:
    """Check exported files in a run's folder against the run's networks and the caller's `source`."""
    folders = [Path(name).parent for name in files_in(files.root) if Path(name).name == PARITY]
    folders = [folder for folder in folders if folder.parts[:1] != (OLD,)]
    if not folders:
        return []
    asked.show.say("running the exported files in fresh processes")
    # The run's final files come last, so that they take precedence in `sources`.
    names = sorted(files.networks, key=lambda name: name.count("/"), reverse=True)
    sources = {
        source_digest(files.networks[name]): Source(name, files.networks[name], stored_in(files.information(name)))
        for name in names
    }
    if asked.source is not None:
        sources |= [source_of(asked.source, asked.model)]
    return [
        check
        for folder in folders
        for check in check_exports(
            files.root / folder, f"{folder.as_posix()}/" if folder.parts else "", sources, images.data
        )
    ]


def _require_run(root: Path) -> None:
    if kind_of(root / MANIFEST) == "file":
        return
    if kind_of(root.parent / MANIFEST) == "file" and (root / REPORTS[0]).exists():
        raise RunError(f"{root} is one size of the run in {root.parent}: verify that folder")
    if kind_of(root / RUN) == "file":
        raise RunError(f"{root} holds a run without {MANIFEST}: it is not finished; run the same command to finish it")
    raise RunError(f"{root} holds no run: give the folder of a finished run")


def _digests(root: Path, manifest: Manifest, different: dict[str, str]) -> list[Check]:
    what = "digest"
    found = [Check(what=what, where=name, status="failed", why=how) for name, how in different.items()]
    size = sum(one.bytes for one in manifest.files.values())
    if not different:
        why = f"{len(manifest.files)} files, {size:,} bytes: all with the SHA-256 in the manifest"
        found.append(Check(what=what, where="all files", status="passed", why=why))
    more = [name for name in files_in(root) if name not in manifest.files]
    if more:
        why = "this file is not in the manifest"
        found += [Check(what=what, where=name, status="not checked", why=why) for name in more]
    return found


def _verify_report(files: ClaimedFiles, report: Report | CurveReport, asked: Asked) -> tuple[TestImages, list[Check]]:
    """Check a run, or each size of a curve."""
    folders = [f"macs-{point.label}" for point in report.points] if isinstance(report, CurveReport) else [""]
    asked.show.say("loading the test images")
    first = f"{folders[0]}/{COMPRESSED}" if folders[0] else COMPRESSED
    images = find_images(files, asked.data, first)
    found = [check for folder in folders for check in _verify_size(files, images, folder, asked.show)]
    if isinstance(report, CurveReport):
        found.append(attempt("matches the reports of its sizes", REPORTS[0], partial(_curve, files, report)))
    return images, list({(check.what, check.where): check for check in found}.values())  # sizes share their first steps


def _verify_size(files: ClaimedFiles, images: TestImages, size: str, show: Show) -> list[Check]:
    """Check one chain of steps and its report."""
    folder = f"{size}/" if size else ""
    name = folder + REPORTS[0]
    readable = attempt(
        "can be read", name, lambda: f"{_report_of_run(files, name).title}: {len(steps_of(files, size))} states"
    )
    if readable.status != "passed":
        return [readable]
    report, steps = _report_of_run(files, name), steps_of(files, size)
    show.say(f"checking prune == mask again ({size or report.title})")
    found = check_cuts(files, steps) + check_results(files, steps, folder)
    show.say("measuring both networks and evaluating the test images")
    return found + check_numbers(files, report, steps, folder) + check_metric(files, report, images, folder)


def _report_of_run(files: ClaimedFiles, name: str) -> Report:
    report = read_report(files.path(name))
    if not isinstance(report, Report):
        raise Refuted(f"{name} is not the report of a run")
    return report


def _curve(files: ClaimedFiles, report: CurveReport) -> str:
    wrong = []
    for point in report.points:
        own = _report_of_run(files, f"macs-{point.label}/{REPORTS[0]}")
        same = (own.before, own.after, own.steps, own.verdict) == (
            report.reference, point.after, point.steps, point.verdict
        )  # fmt: skip
        wrong += [] if same else [point.label]
    if wrong:
        raise Refuted(f"differs from the report of size {', '.join(wrong)}")
    return f"{len(report.points)} sizes"
