"""Docstrings on the reference pages: examples become code, and brackets are text, not links."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Doctests(griffe.Extension):
    """Make the docstring of every object Markdown."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown_of(obj.docstring.value)


def markdown_of(text: str) -> str:
    """Fence examples with their output, and escape brackets outside of code.

    >>> print(markdown_of("Give f[0].\\n\\n>>> 1 + 1\\n2\\n\\nEnd."))
    Give f\\[0].
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    <BLANKLINE>
    End.
    """
    blocks = re.split(r"(\n\s*\n)", text)
    return "".join(_block(block) for block in blocks)


def _block(text: str) -> str:
    start = text.find(">>> ")
    if start < 0:
        parts = re.split(r"(``[^`]*``|`[^`]*`)", text)
        return "".join(
            part if part.startswith("`") else part.replace("[", "\\[").replace("<", "&lt;") for part in parts
        )
    indent = " " * (start - text.rfind("\n", 0, start) - 1)
    return f"{_block(text[:start].rstrip(' '))}{indent}```pycon\n{indent}{text[start:]}\n{indent}```".lstrip("\n")
