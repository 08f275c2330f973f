"""A claim: words of a page whose numbers come from rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from string import Formatter

WORDS = "none one two three four five six seven eight nine ten".split()
FIELD = rf"(?<![\d.,])(-?\d+(?:,\d{{3}})*(?:\.\d+)?|\b(?:{'|'.join(WORDS)})\b)"
"""What the page may say in a field: a number in digits or in words."""


@dataclass(frozen=True)
class Claim:
    """A template with the words of a page, and the values of its fields, in the order of `str.format`."""

    page: str
    """The page, from the root of the repository."""
    template: str
    cells: tuple[float | str, ...]
    """Values of the fields without a name, as in the rows of a table."""
    values: Mapping[str, float | str]

    def fields(self) -> Iterator[tuple[str, str]]:
        """Yield name and text of every field: what the page must say."""
        unnamed = iter(self.cells)
        for _, name, spec, _ in Formatter().parse(self.template):
            if name is not None:
                yield name, format(self.values[name] if name else next(unnamed), spec or "")

    def pattern(self) -> re.Pattern[str]:
        """Match the words with any numbers in the fields; lines may be wrapped anywhere."""
        parts = []
        for literal, name, _, _ in Formatter().parse(self.template.strip()):
            parts.append(r"\s+".join(re.escape(words) for words in re.split(r"\s+", literal)))
            if name is not None:
                parts.append(FIELD)
        return re.compile("".join(parts))

    def found(self, text: str) -> re.Match[str]:
        """Return where the page says this.

        Raises:
            LookupError: the page says it nowhere, or more than once.
        """
        matches = list(self.pattern().finditer(text))
        if len(matches) != 1:
            raise LookupError(f"{self.page} has these words {len(matches)} times instead of once: {self.template}")
        return matches[0]

    def differences(self, text: str) -> list[str]:
        """Return one line for every number of the page that is not that of the rows."""
        match = self.found(text)
        line = text.count("\n", 0, match.start()) + 1
        return [
            f"{self.page}:{line}: the page says {said}, the rows say {expected}{f' ({name})' if name else ''}"
            for said, (name, expected) in zip(match.groups(), self.fields(), strict=True)
            if said != expected
        ]

    def rewritten(self, text: str) -> str:
        """Return the page with the numbers of the rows."""
        match = self.found(text)
        for group, (_, expected) in reversed(list(enumerate(self.fields(), 1))):
            text = text[: match.start(group)] + expected + text[match.end(group) :]
        return text

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the places of the fields."""
        match = self.found(text)
        return [match.span(group) for group in range(1, len(match.groups()) + 1)]


def spelled(number: int) -> str:
    """Spell a small number.

    >>> spelled(0), spelled(3), spelled(11)
    ('none', 'three', '11')
    """
    return WORDS[number] if number < len(WORDS) else str(number)


def claim(page: str, template: str, /, *cells: float | str, **values: float | str) -> Claim:
    """Write a claim as a call of `str.format`.

    >>> one = claim("page.md", "{share:.1f} % of {n} networks", share=62.83, n="three")
    >>> one.differences("It was 62.9 % of three networks.")
    ['page.md:1: the page says 62.9, the rows say 62.8 (share)']
    >>> one.rewritten("It was 62.9 % of three networks.")
    'It was 62.8 % of three networks.'
    """
    return Claim(page, template, cells, values)
