"""Builds of one version are told apart by their sources."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from loradeck.cli import cli
from loradeck.client.build import build, digest
from loradeck_agent.cli import main


def test_a_build_is_named_by_its_sources_and_by_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.sql").write_text("two")
    before = digest([tmp_path])
    (tmp_path / "b" / "c.pyc").write_text("a cache")
    assert digest([tmp_path]) == before
    (tmp_path / "b" / "c.sql").write_text("three")
    assert digest([tmp_path]) != before


def test_console_and_agent_of_one_installation_name_one_build() -> None:
    said = [CliRunner().invoke(group, ["--version"]).output.split() for group in (cli, main)]
    assert [words[-2:] for words in said] == [["build", build()]] * 2
