"""The numbers of a page that need a claim."""

from __future__ import annotations

import re
from collections.abc import Iterator

CODE_AND_TARGETS = re.compile(r"^```.*?^```|`[^`]*`|\]\([^)]*\)|\b\d{4}\.\d{5}\b", re.MULTILINE | re.DOTALL)
"""Not prose: code, targets of links, and identifiers of arXiv."""
NUMBER = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\d+e-\d+|\d+(?=\s?(?:%|[kMG]B\b|[mµ]s\b|points?\b))")
"""Decimal numbers, those with a comma or an exponent, and integers before a unit of measurements."""


def numbers(text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of the numbers.

    >>> page = "In `x=0.5`, 1,024 images of 32 pixels take 3 ms ([rows](a_0.1.md)): 92.41 of 93 %."
    >>> [page[start:end] for start, end in numbers(page)]
    ['1,024', '3', '92.41', '93']
    """
    prose = CODE_AND_TARGETS.sub(lambda found: " " * len(found[0]), text)
    yield from (found.span() for found in NUMBER.finditer(prose))
