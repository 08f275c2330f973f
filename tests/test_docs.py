"""The documentation, checked without building it (`make docs` does): navigation, links, public names, pictures."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import slimcnn

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / "benchmarks").glob("*.md"), *ROOT.glob("*.md")])
LINK = re.compile(r"\[[^\]]*\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)")


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(page: Path) -> str:
    """The text without its code."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as the site makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_the_navigation_covers_all_pages_and_names_no_others() -> None:
    listed = re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2])
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in LINK.findall(prose(page)):
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{page}: no {target}"
        assert not anchor or anchor in anchors(place), f"{page}: no heading #{anchor} in {target or 'the page'}"


def test_every_public_name_is_on_exactly_one_page_of_the_reference() -> None:
    pages = (DOCS / "reference").glob("*.md")
    listed = [name for page in pages for name in re.findall(r"^::: slimcnn\.(\w+)$", page.read_text("utf-8"), re.M)]
    assert sorted(listed) == sorted(slimcnn.__all__)


def test_the_hooks_of_the_site_know_the_public_names() -> None:
    site = loaded(DOCS / "hooks.py")
    assert site.public_names() == site.documented_names() == set(slimcnn.__all__)
    assert site.site_place("benchmarks/gfr.md") == "results/gfr.md"


def test_the_pictures_of_the_methods_are_those_of_their_script() -> None:
    for name, draw in loaded(DOCS / "pictures" / "methods.py").PICTURES.items():
        assert (DOCS / "pictures" / f"{name}.svg").read_text(encoding="utf-8") == draw(), name


def test_every_method_page_says_what_is_whose_and_when_not_to_use_it() -> None:
    for page in set((DOCS / "methods").glob("*.md")) - {DOCS / "methods" / "index.md"}:
        text = page.read_text(encoding="utf-8")
        for part in ("**Use.**", "**Sources.**", "**When not to use it.**", "**Measurements.**", "](../pictures/"):
            assert part in text, f"{page.name}: {part}"
