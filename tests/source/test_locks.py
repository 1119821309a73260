"""The locks of the shipped environments: each holds what pyproject.toml asks for, within its ranges, with hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"console": (), "hub": ("hub", "data", "sign"), "agent": ("agent",), "train": ("agent", "train")}
PLATFORMS = [
    {"sys_platform": "linux", "platform_machine": machine, "python_full_version": "3.11.7", "python_version": "3.11"}
    for machine in ("x86_64", "aarch64")
]


def locked(name: str) -> list[tuple[Requirement, list[str]]]:
    text = (ROOT / "docs" / "locks" / f"{name}.txt").read_text().replace("\\\n", " ")
    lines = [line.split("--hash=") for line in text.splitlines() if line.strip()]
    return [(Requirement(line[0].strip()), [value.strip() for value in line[1:]]) for line in lines]


def asked(name: str) -> list[Requirement]:
    extras = [PROJECT["optional-dependencies"][extra] for extra in EXTRAS[name]]
    return [Requirement(text) for text in (*PROJECT["dependencies"], *(text for extra in extras for text in extra))]


def holds(marker: Marker | None, platform: dict[str, str]) -> bool:
    return marker is None or marker.evaluate(platform)


@pytest.mark.parametrize("name", EXTRAS)
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform["platform_machine"])
def test_a_lock_holds_each_dependency_within_its_range(name: str, platform: dict[str, str]) -> None:
    versions = {
        canonicalize_name(line.name): Version(next(iter(line.specifier)).version)
        for line, _ in locked(name)
        if holds(line.marker, platform)
    }
    for wanted in asked(name):
        if holds(wanted.marker, platform):
            version = versions[canonicalize_name(wanted.name)]
            assert wanted.specifier.contains(version), f"{wanted} is locked at {version}: run make lock"


@pytest.mark.parametrize("name", EXTRAS)
def test_each_line_of_a_lock_is_one_version_with_its_hashes(name: str) -> None:
    for line, hashes in locked(name):
        assert [part.operator for part in line.specifier] == ["=="], line
        assert hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), line
