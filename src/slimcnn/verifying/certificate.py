"""The result of a verification, stored as certificate.json."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from slimcnn.errors import SlimcnnError
from slimcnn.files import write_text
from slimcnn.manifest import CERTIFICATE
from slimcnn.measuring import environment
from slimcnn.reporting.sections import Column, Part, Section, Table, Text

FORMAT = 1
STATES = ("failed", "not checked", "passed")
"""In display order."""


class Check(Part):
    """The check of one claim."""

    what: str
    """The claim, such as prune == mask."""
    where: str
    """The file or step of the claim."""
    status: Literal["passed", "failed", "not checked"]
    why: str
    """What was found, or why the claim was not checked."""
    error: float | None = None
    """The largest relative error, if the check measures one."""


class NotCheckable(Exception):
    """A check lacks something; the message states what."""


class Refuted(Exception):
    """A claim is false; the message states what was found."""


def attempt(what: str, where: str, check: Callable[[], str | tuple[str, float]]) -> Check:
    """Check a claim.

    Args:
        what: the claim.
        where: the file or step of the claim.
        check: returns what was found, with the error if it measures one. It raises `NotCheckable` if something is
            missing, and `Refuted` or any `SlimcnnError` if the claim is false.

    >>> attempt("prune == mask", "2-prune", lambda: ("relative error 1e-16", 1e-16)).status
    'passed'
    """
    try:
        found = check()
    except NotCheckable as reason:
        return Check(what=what, where=where, status="not checked", why=str(reason))
    except (Refuted, SlimcnnError) as reason:
        return Check(what=what, where=where, status="failed", why=str(reason))
    why, error = (found, None) if isinstance(found, str) else found
    return Check(what=what, where=where, status="passed", why=why, error=error)


class Certificate(Part):
    """All checks of a folder by `verify`, with outcomes, images and versions.

    >>> one = Check(what="digest", where="plan.json", status="failed", why="has changed")
    >>> Certificate(title="resnet8 on digits", folder="x", checks=(one,))
    Certificate(resnet8 on digits: FAILED, 1 of 1 checks: digest (plan.json))
    """

    format: int = FORMAT
    title: str
    folder: str
    """The folder's name."""
    made: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """Time in UTC."""
    manifest_sha256: str = ""
    """Digest of manifest.json; it covers every file of the run."""
    images: dict[str, Any] = Field(default_factory=dict)
    """The test images used: dataset, part, n, sha256 of pixels and labels; empty if none."""
    checks: tuple[Check, ...]
    environment: dict[str, str] = Field(default_factory=environment)
    """Versions and machine of the verification."""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == "failed")

    @property
    def headline(self) -> str:
        """The outcome in one sentence."""
        counts = {state: sum(check.status == state for check in self.checks) for state in STATES}
        if self.failed:
            names = "; ".join(f"{check.what} ({check.where})" for check in self.failed[:3])
            more = f"; and {len(self.failed) - 3} more" if len(self.failed) > 3 else ""
            return f"FAILED, {len(self.failed)} of {len(self.checks)} checks: {names}{more}"
        return f"verified: {counts['passed']} checks passed, {counts['not checked']} not checked, none failed"

    @property
    def section(self) -> Section:
        """All checks as a table, failed ones first."""
        rows = sorted(self.checks, key=lambda check: STATES.index(check.status))
        table = Table(
            columns=(
                Column(title="status"),
                Column(title="where", format="name"),
                Column(title="claim: what was found"),
            ),
            rows=tuple((check.status, check.where, f"{check.what}: {check.why}") for check in rows),
        )
        note = f"Made {self.made} with {', '.join(f'{name} {value}' for name, value in self.environment.items())}."
        if self.manifest_sha256:
            note += f" SHA-256 of the manifest: {self.manifest_sha256}."
        return Section(title="Certificate", blocks=(table, Text(text=note, tone="note")))

    def write(self, folder: Path) -> Path:
        """Write certificate.json into a folder atomically."""
        write_text(folder / CERTIFICATE, self.model_dump_json(indent=1) + "\n")
        return folder / CERTIFICATE

    def __repr__(self) -> str:
        return f"Certificate({self.title}: {self.headline})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        from slimcnn.reporting import fragment

        return fragment(self.title, self.headline, [self.section])
