"""Render sections as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable

from slimcnn.reporting import formatting
from slimcnn.reporting.sections import Section, Table, Text

_SPECIAL = re.compile(r"([\\|*<>\[\]]|(?<!\w)_|_(?!\w))")
"""What Markdown would read as markup; an underscore inside a word is none."""


def markdown(title: str, headline: str, sections: Iterable[Section]) -> str:
    """Render a page as Markdown; figures are left out.

    The same sections give the same text.

    >>> from slimcnn.reporting.sections import Column
    >>> columns = (Column(title="criterion"), Column(title="top-1", format="percent"))
    >>> table = Table(columns=columns, rows=(("l2", 91.0),))
    >>> print(markdown("Criteria", "1 point", [Section(title="Results", blocks=(table,))]))
    # Criteria
    <BLANKLINE>
    1 point
    <BLANKLINE>
    ## Results
    <BLANKLINE>
    | criterion | top-1 |
    |---|---:|
    | l2 | 91.00 |
    <BLANKLINE>
    """
    parts = [f"# {_plain(title)}", _plain(headline)]
    for section in sections:
        blocks = [_block(block) for block in section.blocks if isinstance(block, Text | Table)]
        if blocks:
            parts += [f"## {_plain(section.title)}", *blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Text | Table) -> str:
    if isinstance(block, Text):
        return f"```\n{block.text}\n```" if block.tone == "code" else _plain(block.text)
    words = [column.format in ("text", "name") for column in block.columns]
    lines = [
        "| " + " | ".join(_plain(column.title) for column in block.columns) + " |",
        "|" + "|".join("---" if word else "---:" for word in words) + "|",
        *(
            "| "
            + " | ".join(_plain(formatting.write(v, c.format)) for v, c in zip(row, block.columns, strict=True))
            + " |"
            for row in block.rows
        ),
    ]
    return (f"{_plain(block.title)}\n\n" if block.title else "") + "\n".join(lines)


def _plain(text: str) -> str:
    """Escape markup, except code in backticks.

    >>> _plain("prune.macs_left _x_ [1] `a|b`")
    'prune.macs_left \\\\_x\\\\_ \\\\[1\\\\] `a\\\\|b`'
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
