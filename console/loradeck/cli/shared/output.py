"""Output of commands: aligned plain text for people, the schemas' JSON for programs.

Names, reasons and errors are data: control characters in them never reach the terminal. Colour only repeats what a word
says already, and is left out if stdout is no terminal or NO_COLOR is set.
"""

import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO, TypeVar

from pydantic import BaseModel

from loradeck.client.terminal_text import clean
from loradeck.client.times import stamp
from loradeck.schemas.moves import MoveResult
from loradeck.schemas.state import Preview, Readiness

M = TypeVar("M", bound=BaseModel)

_BOLD, _RED, _PLAIN = "\x1b[1m", "\x1b[31m", "\x1b[0m"


class Output:
    """Writes a command's output. `say` and the like are for people, silent with --json; `json` prints only with it."""

    def __init__(self, *, as_json: bool, stream: TextIO | None = None) -> None:
        self.as_json = as_json
        self._stream = stream or sys.stdout
        self._colour = self._stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def say(self, line: str = "") -> None:
        """Prints one line for people."""
        if not self.as_json:
            self._write(clean(line))

    def answer(self, value: BaseModel | Sequence[BaseModel] | dict[str, Any], line: str) -> None:
        """Prints what a command has done: the value as JSON, or the line that says it."""
        self.json(value)
        self.say(line)

    def moved(self, result: MoveResult, line: str) -> None:
        """Prints what a command has done to the log: the result as JSON, or the line that says it with the rev."""
        self.answer(result, f"{line}   rev {result.rev}")

    def heading(self, line: str) -> None:
        """Prints one line for people, in bold."""
        if not self.as_json:
            self._write(self._styled(_BOLD, clean(line)))

    def alarm(self, line: str) -> None:
        """Prints a line for people that must not be overlooked, in red."""
        if not self.as_json:
            self._write(self._styled(_RED, clean(line)))

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
        """Prints aligned columns, or the line `empty` if there are no rows."""
        if self.as_json:
            return
        cells = [[clean(str(cell)) for cell in row] for row in rows]
        if not cells:
            self._write(empty)
            return
        widths = [max(width(line[i]) for line in [list(headers), *cells]) for i in range(len(headers))]
        self._write(self._styled(_BOLD, _aligned(headers, widths)))
        for line in cells:
            self._write(_aligned(line, widths))

    def listed(
        self, values: Sequence[M], headers: Sequence[str], cells: Callable[[M], Sequence[object]], *, empty: str
    ) -> None:
        """Prints values: as JSON, or as a table with a line of cells for each, or `empty` if there are none."""
        self.json(values)
        self.table(headers, map(cells, values), empty=empty)

    def json(self, value: BaseModel | Sequence[BaseModel] | dict[str, Any]) -> None:
        """Prints the document, with --json."""
        if self.as_json:
            self._write(json.dumps(_plain(value), indent=2, ensure_ascii=False))

    def json_line(self, value: BaseModel) -> None:
        """Prints one document on one line, with --json; for followed output."""
        if self.as_json:
            self._write(value.model_dump_json())

    def raw(self, text: str) -> None:
        """Prints a secret or a script unchanged, with and without --json."""
        self._write(text)

    def _write(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()

    def _styled(self, style: str, text: str) -> str:
        return f"{style}{text}{_PLAIN}" if self._colour else text


def cut(text: str, most: int) -> str:
    """A text on one line of so many characters at most."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def nearness(preview: Preview) -> str:
    """Says how near R's target is to serving, as measured: `resident 2/2   est 6 ms`, `warm 1/2   load, 0.4 s`."""
    text = f"{preview.readiness.value} {preview.ready}/{preview.placed}"
    if preview.readiness is Readiness.RESIDENT:
        return text + (f"   est {preview.estimate_ms:.0f} ms" if preview.estimate_ms is not None else "")
    without = [one.replica for one in preview.behind if not one.engine]
    if without:
        text += f"   no engine of its base on {', '.join(without)}"
    late = [one for one in preview.behind if one.engine and one.readiness is not Readiness.UNKNOWN]
    if late:
        warm = all(one.readiness is Readiness.WARM for one in late)
        took = f"{preview.wait_s:.1f} s" if preview.wait_s is not None else "never timed"
        text += f"   {'load' if warm else 'cold'}, {took}"
        text += f", first answer in {preview.answer_s:.1f} s" if preview.answer_s is not None else ""
    return text


def utc(ms: int | None) -> str:
    """Formats a time as `2026-03-01 03:12:44Z`; `-` for None."""
    return "-" if ms is None else stamp(ms)


def span(seconds: float | None) -> str:
    """Formats seconds as a duration of at most two units: `41s`, `14m02s`, `13h04m`, `2d11h`; `-` for None."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def ago(ms: int | None, now_ms: int | None = None) -> str:
    """Formats how long ago a time was, by this machine's clock unless the hub's is given; `-` for None."""
    if ms is None:
        return "-"
    now = now_ms if now_ms is not None else int(time.time() * 1000)
    return f"{span((now - ms) / 1000)} ago"


def millis(ms: float | None) -> str:
    """Formats milliseconds as `+6.2 ms` or `+1.9 s`; `-` for None."""
    if ms is None:
        return "-"
    return f"+{ms:.1f} ms" if ms < 1000 else f"+{ms / 1000:.2f} s"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (widths[i] - width(cell)) for i, cell in enumerate(cells)]
    return "  ".join(padded).rstrip()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
