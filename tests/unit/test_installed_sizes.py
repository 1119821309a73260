"""The README's sizes and times are what its script makes of the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripts.installed_sizes import README, installs, length, set_up, steps, with_figures
from scripts.torch_build import BUILDS, SIZES

RECORDS = json.loads(SIZES.read_text(encoding="utf-8"))


def test_the_readme_has_the_figures_of_the_record() -> None:
    readme = README.read_text(encoding="utf-8")
    assert with_figures(readme, RECORDS) == readme
    with pytest.raises(ValueError, match="the README needs"):
        with_figures(readme.replace("<!-- /sizes -->", ""), RECORDS)


def test_a_build_that_was_not_measured_has_no_figures() -> None:
    (kept, *_) = RECORDS
    column = list(BUILDS).index(kept)
    for table in (set_up({kept: RECORDS[kept]}), installs({kept: RECORDS[kept]})):
        rows = [line.strip("| ").split(" | ")[-2:] for line in table.splitlines()[2:] if line.startswith("|")]
        assert rows
        assert all(row[1 - column] == "not measured" != row[column] for row in rows)


def test_the_seconds_of_set_up_are_read_from_what_it_prints() -> None:
    printed = "Setting up\n  venv\n.venv took 12 s: venv 4, all packages 8\nmake: done\n"
    assert steps(printed) == {"all": 12, "venv": 4, "all packages": 8}
    with pytest.raises(ValueError, match="did not say"):
        steps("venv\n")


def test_a_folders_length_counts_each_file_once_and_no_links(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"x" * 5)
    (tmp_path / "a" / "b" / "two").write_bytes(b"x" * 7)
    (tmp_path / "again").hardlink_to(tmp_path / "a" / "one")
    (tmp_path / "linked").symlink_to(tmp_path / "a" / "one")
    assert length(tmp_path) == 12
