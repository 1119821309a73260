"""What the agent durably holds: the last (epoch, rev, hash), pins, and which releases passed on which engine.

One JSON object a line, appended and fdatasynced; the last line of a kind wins. A torn last line (the machine
stopped while it was written) is dropped. The router's table is the other half: on a start the newer of the
two cursors counts.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loradeck.schemas.log import GENESIS
from loradeck.schemas.table import Pin
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import write_durably

COMPACT_LINES = 2000


@dataclass(frozen=True, order=True)
class Cursor:
    """How far a node has followed its hub. Compared by epoch, then rev."""

    epoch: int = 0
    rev: int = 0
    hash: str = field(default=GENESIS, compare=False)


@dataclass
class Journal:
    """The file and what its lines add up to. Its methods block for one fdatasync: call them in a thread."""

    path: Path
    cursor: Cursor = field(default_factory=Cursor)
    pins: dict[tuple[str, str], Pin] = field(default_factory=dict)
    passed: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    """Replica -> (boot of its engine, releases that were loaded and verified in that lifetime)."""
    let_in: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Replica -> merged releases that the router may ask it for, in that same lifetime."""
    _lines: int = 0

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Reads a journal; an absent one is empty.

        Raises:
            AgentError: `journal_damaged`, when a line other than the last cannot be read.
        """
        journal = cls(path)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return journal
        whole, _, torn = raw.rpartition(b"\n")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                journal._fold(json.loads(line))
            except (ValueError, KeyError, TypeError, ValidationError) as error:
                raise AgentError(
                    "journal_damaged",
                    f"line {number} of {path} cannot be read",
                    str(error)[:200],
                    "move the file away: the router's table is kept, pins made without the hub must be made again",
                ) from error
            journal._lines += 1
        if torn:
            journal._rewrite()
        return journal

    def advance(self, cursor: Cursor) -> None:
        """Notes how far this node has followed the hub. Never goes back."""
        if cursor > self.cursor:
            self._append({"t": "cursor", "epoch": cursor.epoch, "rev": cursor.rev, "hash": cursor.hash})

    def pin(self, pin: Pin) -> None:
        if self.pins.get((pin.tenant, pin.route)) != pin:
            self._append({"t": "pin", "pin": pin.model_dump(mode="json")})

    def unpin(self, tenant: str, route: str) -> None:
        if (tenant, route) in self.pins:
            self._append({"t": "unpin", "tenant": tenant, "route": route})

    def engine(self, replica: str, boot: str, releases: tuple[str, ...], let_in: tuple[str, ...] = ()) -> None:
        """Notes which releases this lifetime of an engine may be asked for: those loaded, and those merged."""
        if (self.passed.get(replica), self.let_in.get(replica, ())) != ((boot, releases), let_in):
            self._append(_engine_line(replica, boot, releases, let_in))

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            before = os.fstat(fd).st_size
            try:
                if os.write(fd, data) != len(data):
                    raise OSError(errno.ENOSPC, f"short write to {self.path}")
                os.fdatasync(fd)
            except OSError:
                os.ftruncate(fd, before)  # half a line in the middle would damage the whole journal
                raise
        finally:
            os.close(fd)
        self._fold(line)
        self._lines += 1
        if self._lines > COMPACT_LINES:
            self._rewrite()

    def _fold(self, line: dict[str, Any]) -> None:
        kind = line["t"]
        if kind == "cursor":
            self.cursor = max(self.cursor, Cursor(int(line["epoch"]), int(line["rev"]), str(line["hash"])))
        elif kind == "pin":
            pin = Pin.model_validate(line["pin"])
            self.pins[(pin.tenant, pin.route)] = pin
        elif kind == "unpin":
            self.pins.pop((line["tenant"], line["route"]), None)
        elif kind == "engine":
            self.passed[line["replica"]] = (line["boot"], tuple(line["releases"]))
            self.let_in[line["replica"]] = tuple(line.get("let_in", ()))

    def _rewrite(self) -> None:
        """The same content in as few lines as it needs."""
        lines: list[dict[str, Any]] = [
            {"t": "cursor", "epoch": self.cursor.epoch, "rev": self.cursor.rev, "hash": self.cursor.hash}
        ]
        lines += [{"t": "pin", "pin": pin.model_dump(mode="json")} for pin in self.pins.values()]
        lines += [
            _engine_line(replica, boot, releases, self.let_in.get(replica, ()))
            for replica, (boot, releases) in self.passed.items()
        ]
        write_durably(self.path, b"".join(json.dumps(x, separators=(",", ":")).encode() + b"\n" for x in lines))
        self._lines = len(lines)


def _engine_line(replica: str, boot: str, releases: tuple[str, ...], let_in: tuple[str, ...]) -> dict[str, Any]:
    line = {"t": "engine", "replica": replica, "boot": boot, "releases": list(releases)}
    return line | ({"let_in": list(let_in)} if let_in else {})
