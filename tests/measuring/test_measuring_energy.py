"""Energy is read from the counters that Linux shows, here from files that look like them."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimcnn.measuring import energy, why_no_energy

HIGHEST = 1_000_000


def counters(root: Path, *values: int) -> list[Path]:
    """Counters of so many packages, and one of a part of the first, which must not be added."""
    files = []
    for number, value in enumerate(values):
        for folder, name in ((f"intel-rapl:{number}", f"package-{number}"), (f"intel-rapl:{number}:0", "core")):
            (root / folder).mkdir()
            (root / folder / "name").write_text(f"{name}\n")
            (root / folder / "energy_uj").write_text(f"{value}\n")
            (root / folder / "max_energy_range_uj").write_text(f"{HIGHEST}\n")
        files.append(root / f"intel-rapl:{number}" / "energy_uj")
    return files


def test_the_growth_of_all_packages_is_shared_among_the_calls(tmp_path: Path) -> None:
    files = counters(tmp_path, 500, 900)

    def call() -> None:
        for file in files:
            file.write_text(str(int(file.read_text()) + 1000))

    assert energy(call, seconds=0.02, root=tmp_path) == pytest.approx(2000 / 1e6)


def test_a_counter_that_begins_again_at_zero_is_read_rightly(tmp_path: Path) -> None:
    (file,) = counters(tmp_path, HIGHEST - 100)
    assert energy(lambda: file.write_text("200"), seconds=0, root=tmp_path) == pytest.approx(300 / 1e6)


def test_without_counters_or_rights_there_is_no_energy_but_a_reason(tmp_path: Path) -> None:
    calls: list[int] = []
    assert energy(lambda: calls.append(1), seconds=0, root=tmp_path) is None
    assert not calls
    assert "no RAPL" in why_no_energy(tmp_path)
    (file,) = counters(tmp_path, 1)
    assert why_no_energy(tmp_path) == ""
    file.write_text("secret")
    assert "cannot be read" in why_no_energy(tmp_path)
    assert energy(lambda: None, seconds=0, root=tmp_path) is None
