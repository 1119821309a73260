"""What an executor prints: followed from where one was, bounded, numbered so that what is missing shows."""

from __future__ import annotations

from pathlib import Path

from loradeck.schemas.link import LOG_LINE, LOG_LINES
from loradeck_agent.jobs.events import LogTail


def test_lines_come_once_and_a_half_line_waits_for_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    tail = LogTail(log)
    tail.read()
    assert tail.waiting() == (1, ())
    log.write_text("one\ntwo\nthr")
    tail.read()
    assert tail.waiting() == (1, ("one", "two"))
    tail.sent()
    log.write_text("one\ntwo\nthree\nfour")
    tail.read()
    assert tail.waiting() == (3, ("three",))
    tail.read(ended=True)
    assert tail.waiting() == (3, ("three", "four"))


def test_log_flood_only_the_newest_lines_wait_and_their_numbers_tell_what_is_missing(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"line {i}\n" for i in range(1, 100_001)))
    tail = LogTail(log)
    for _ in range(3):
        tail.read()
    first, lines = tail.waiting()
    assert first == 100_001 - LOG_LINES
    assert lines[0] == f"line {first}"
    assert lines[-1] == "line 100000"
    tail.sent()
    with log.open("a") as file:
        file.write("next\n")
    tail.read()
    assert tail.waiting() == (100_001, ("next",))


def test_a_line_without_end_is_cut_and_held_in_part(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"x" * (5 << 20) + b"\nnext\n")
    tail = LogTail(log)
    for _ in range(4):
        tail.read()
        assert len(tail._rest) <= 2 << 20
    first, lines = tail.waiting()
    assert first == 1
    assert lines[0] == "x" * LOG_LINE
    assert lines[-1] == "next"


def test_a_progress_bar_counts_as_it_stood_last_and_bad_bytes_are_shown_as_such(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"10%\r50%\r100%\r\n\xff\xfe bytes\n")
    tail = LogTail(log)
    tail.read()
    assert tail.waiting() == (1, ("100%", "\ufffd\ufffd bytes"))
