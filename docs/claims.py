"""Compare the measured numbers of the pages with the rows of benchmarks/.

    python docs/claims.py --check    # print every number that differs or that no claim covers
    python docs/claims.py --write    # write the numbers of the rows into the pages

The claims are in docs/claimed/, a file for each kind of page. Write after a measurement; a new number needs a claim.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from claimed import CLAIMS
from claimed.claim import Claim
from claimed.exceptions import excepted
from claimed.numbers import numbers

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/*.md", "docs/guides/*.md", "docs/methods/*.md", "docs/coming_from/*.md")
UNCHECKED = {"docs/design.md", "docs/extending.md", "docs/glossary.md", "docs/graph.md"}
"""How slimcnn works, and why: not every number there is a measurement of benchmarks/, but some are claims."""


def pages(root: Path = ROOT) -> list[str]:
    """Return the pages whose numbers need a claim or an exception."""
    found = [str(path.relative_to(root)) for pattern in PAGES for path in sorted(root.glob(pattern))]
    return [page for page in found if page not in UNCHECKED]


def differences(claims: Sequence[Claim] = CLAIMS, root: Path = ROOT) -> Iterator[str]:
    """Yield one line for every number that differs from the rows and every claim whose words are not on its page."""
    for one in claims:
        try:
            yield from one.differences((root / one.page).read_text(encoding="utf-8"))
        except LookupError as error:
            yield str(error)


def unclaimed(page: str, text: str, claims: Sequence[Claim] = CLAIMS) -> Iterator[str]:
    """Yield one line for every number of a page that neither a claim nor an exception covers."""
    covered = [*excepted(page, text), *(span for one in claims if one.page == page for span in one.spans(text))]
    for start, end in numbers(text):
        if not any(first <= start and end <= last for first, last in covered):
            line, around = text.count("\n", 0, start) + 1, " ".join(text[max(0, start - 30) : end + 30].split())
            yield f"{page}:{line}: no claim and no exception for {text[start:end]}: {around}"


def problems(root: Path = ROOT) -> Iterator[str]:
    """Yield everything that is wrong with the pages."""
    yield from differences(root=root)
    for page in pages(root):
        try:
            yield from unclaimed(page, (root / page).read_text(encoding="utf-8"))
        except LookupError as error:
            yield str(error)


def write(root: Path = ROOT, claims: Sequence[Claim] = CLAIMS) -> None:
    """Write the numbers of the rows into the pages."""
    for page in sorted({one.page for one in claims}):
        path = root / page
        text = path.read_text(encoding="utf-8")
        for one in claims:
            if one.page == page:
                text = one.rewritten(text)
        path.write_text(text, encoding="utf-8")


def main() -> None:
    """Check or write."""
    options = argparse.ArgumentParser(description="Compare the numbers of the pages with the rows of benchmarks/.")
    options.add_argument("--check", action="store_true", help="print what differs; exit with 1 if anything does")
    options.add_argument("--write", action="store_true", help="write the numbers of the rows into the pages")
    given = options.parse_args()
    if not given.check and not given.write:
        options.error("pass --check, --write, or both")
    if given.write:
        write()
    if given.check:
        found = list(dict.fromkeys(problems()))
        for line in found:
            print(line)
        sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
