"""The journal: what survives, and what a machine that stops in the middle of a line may cost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loradeck.schemas.release import Form, Release
from loradeck.schemas.table import Pin, ReleaseRef
from loradeck_agent.host.errors import AgentError
from loradeck_agent.uplink import journal as journal_module
from loradeck_agent.uplink.journal import Cursor, Journal


def a_pin(reason: str = "night shift") -> Pin:
    release = Release(tenant="acme", form=Form.BASE, base="a" * 64)
    return Pin(
        tenant="acme",
        route="production",
        release=ReleaseRef(id=release.id, release=release),
        over=(1, 2),
        actor="ann",
        reason=reason,
        at_ms=5,
    )


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j")
    journal.advance(Cursor(1, 7, "c" * 64))
    journal.pin(a_pin())
    journal.engine("gpu-01", "boot1", ("r1", "r2"), ("m1",))
    again = Journal.open(tmp_path / "j")
    assert (again.cursor, again.cursor.hash) == (Cursor(1, 7), "c" * 64)
    assert again.pins == {("acme", "production"): a_pin()}
    assert again.passed == {"gpu-01": ("boot1", ("r1", "r2"))}
    assert again.let_in == {"gpu-01": ("m1",)}


def test_the_cursor_never_goes_back(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j")
    journal.advance(Cursor(2, 5, "a" * 64))
    journal.advance(Cursor(1, 99, "b" * 64))
    journal.advance(Cursor(2, 4, "b" * 64))
    assert Journal.open(tmp_path / "j").cursor == Cursor(2, 5)
    assert len((tmp_path / "j").read_text().splitlines()) == 1


def test_an_unpin_ends_a_pin_for_good(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j")
    journal.pin(a_pin())
    journal.unpin("acme", "production")
    assert Journal.open(tmp_path / "j").pins == {}


def test_what_is_known_is_not_written_again(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j")
    for _ in range(3):
        journal.pin(a_pin())
        journal.engine("gpu-01", "b", ())
        journal.advance(Cursor(1, 1, "a" * 64))
    assert len((tmp_path / "j").read_text().splitlines()) == 3


def test_a_line_torn_at_any_byte_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal.open(path)
    journal.advance(Cursor(1, 1, "a" * 64))
    whole = path.read_bytes()
    journal.pin(a_pin())
    both = path.read_bytes()
    for cut in range(len(whole), len(both), 11):
        path.write_bytes(both[:cut])
        opened = Journal.open(path)
        assert opened.cursor == Cursor(1, 1)
        assert opened.pins == {}
        opened.advance(Cursor(1, 2, "b" * 64))  # the next line must not be glued to the torn one
        assert Journal.open(path).cursor == Cursor(1, 2)


def test_a_damaged_line_in_the_middle_is_refused_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal.open(path)
    journal.advance(Cursor(1, 1, "a" * 64))
    journal.pin(a_pin())
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["{torn", lines[1]]) + "\n")
    before = path.read_bytes()
    with pytest.raises(AgentError, match="line 1 of"):
        Journal.open(path)
    assert path.read_bytes() == before


def test_a_write_that_the_disk_refuses_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "j"
    journal = Journal.open(path)
    journal.advance(Cursor(1, 1, "a" * 64))
    before = path.read_bytes()
    real = os.write
    monkeypatch.setattr(journal_module.os, "write", lambda fd, data: real(fd, data[:10]))
    with pytest.raises(OSError, match="short write"):
        journal.pin(a_pin())
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert journal.pins == {}
    journal.pin(a_pin())
    assert Journal.open(path).pins == {("acme", "production"): a_pin()}


def test_it_is_compacted_without_losing_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "COMPACT_LINES", 20)
    path = tmp_path / "j"
    journal = Journal.open(path)
    journal.pin(a_pin())
    for rev in range(1, 100):
        journal.advance(Cursor(1, rev, "a" * 64))
    assert len(path.read_text().splitlines()) <= 21
    again = Journal.open(path)
    assert (again.cursor, again.pins) == (Cursor(1, 99), {("acme", "production"): a_pin()})
    assert path.stat().st_mode & 0o777 == 0o600
