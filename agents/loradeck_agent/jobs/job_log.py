"""Follows what an executor prints into its log.txt, and keeps the newest lines until the hub has them."""

from collections import deque
from pathlib import Path

from loradeck.schemas.link import LOG_LINE, LOG_LINES

_CHUNK = 1 << 20
_AT_ONCE = 4
"""Chunks read in one call: a flood is caught up with over several calls, and never held in memory."""


class LogTail:
    """Lines of one log, numbered from 1. More than LOG_LINES that wait push out the oldest; the numbers show it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._rest = b""
        self._number = 0
        self._waiting: deque[str] = deque(maxlen=LOG_LINES)

    def read(self, *, ended: bool = False) -> None:
        """Reads the lines written since the last call. `ended`: nobody writes any more, so a last half line counts."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                for _ in range(_AT_ONCE):
                    data = file.read(_CHUNK)
                    if not data:
                        break
                    self._at += len(data)
                    *lines, self._rest = (self._rest + data).split(b"\n")
                    if len(self._rest) > _CHUNK:  # no line at all: keep its beginning
                        self._rest = self._rest[: 4 * LOG_LINE]
                    self._number += len(lines)
                    self._waiting.extend(_text(line) for line in lines[-LOG_LINES:])
        except FileNotFoundError:
            return
        if ended and self._rest:
            self._number += 1
            self._waiting.append(_text(self._rest))
            self._rest = b""

    def waiting(self) -> tuple[int, tuple[str, ...]]:
        """Number of the first line that was not sent yet, and those lines."""
        return self._number - len(self._waiting) + 1, tuple(self._waiting)

    def sent(self) -> None:
        """The waiting lines have been sent."""
        self._waiting.clear()


def _text(line: bytes) -> str:
    """Decodes one line. A progress bar that overwrites itself counts as it stood last."""
    last = line.rstrip(b"\r").rpartition(b"\r")[2]
    return last[: 4 * LOG_LINE].decode("utf-8", "replace")[:LOG_LINE]
