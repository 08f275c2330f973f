"""Hooks of the documentation site: pages of benchmarks/, links that leave docs/, and public names that no page has.

The pages are also read in the repository, so links are paths there; the site rewrites those that leave docs/.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = "results"
EXTRA = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Pages of the project's root that the site shows too."""


def public_names() -> set[str]:
    """The names in `slimcnn.__all__`, read without importing the package."""
    tree = ast.parse((ROOT / "src" / "slimcnn" / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    raise LookupError("slimcnn has no __all__")


def documented_names() -> set[str]:
    """The names that the reference pages document."""
    pages = (ROOT / "docs" / "reference").glob("*.md")
    return {name for page in pages for name in re.findall(r"^::: slimcnn\.(\w+)$", page.read_text("utf-8"), re.M)}


def on_config(config: Any) -> Any:
    """Stop the build if a public name is not documented."""
    if missing := sorted(public_names() - documented_names()):
        raise SystemExit(f"docs: public names without a page in docs/reference: {', '.join(missing)}")
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and pictures of benchmarks/, and those of the project's root."""
    from mkdocs.structure.files import File

    for path in sorted(p for p in (ROOT / "benchmarks").iterdir() if p.suffix in (".md", ".svg", ".html")):
        if not path.stem.endswith("_notes"):  # part of another page
            files.append(File.generated(config, f"{RESULTS}/{path.name}", abs_src_path=str(path)))
    for name in EXTRA:
        files.append(File.generated(config, f"{RESULTS}/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links at files outside of docs/ to their page on the site; keep only the text if there is none."""
    here = page.file.src_uri
    home = "benchmarks" if here.startswith(f"{RESULTS}/") else posixpath.dirname(f"docs/{here}")
    if posixpath.basename(here) in EXTRA:
        home = ""

    def moved(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        uri = site_place(posixpath.normpath(posixpath.join(home, target)))
        if uri is None or files.get_file_from_path(uri) is None:
            return text  # a script or a recipe: the repository has it, the site does not
        return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(here) or '.')}{anchor})"

    return re.sub(r"(?<!!)\[([^\]]*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", moved, markdown)


def site_place(path: str) -> str | None:
    """Return where the site has a file of the repository.

    >>> site_place("docs/guides/export.md"), site_place("benchmarks/gfr.md"), site_place("CHANGELOG.md")
    ('guides/export.md', 'results/gfr.md', 'results/CHANGELOG.md')
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in EXTRA or path.startswith("benchmarks/"):
        return f"{RESULTS}/{posixpath.basename(path)}"
    return None
