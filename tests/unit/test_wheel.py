"""What is in the wheel that people install: both packages, typed, with the files they read at run time."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files in a wheel of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = out.glob("loradeck-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("package", ["loradeck", "loradeck_agent"])
def test_a_package_says_that_it_is_typed(package: str, names: set[str]) -> None:
    assert f"{package}/py.typed" in names


@pytest.mark.parametrize(("source", "package"), [("console", "loradeck"), ("agents", "loradeck_agent")])
def test_every_module_and_migration_is_in_the_wheel(source: str, package: str, names: set[str]) -> None:
    folder = ROOT / source
    kinds = ("*.py", "*.sql")
    files = {str(file.relative_to(folder)) for kind in kinds for file in (folder / package).rglob(kind)}
    assert files
    assert files <= names


def test_nothing_of_the_tests_or_scripts_is_in_the_wheel(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"loradeck", "loradeck_agent"}
