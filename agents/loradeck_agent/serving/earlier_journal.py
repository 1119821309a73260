"""The journal that agents kept before the router's table was the one owner of cursor and pins: read, then removed.

One JSON object a line; the last line of a kind wins, and a torn last line is dropped. Its releases go to the files
of the engines at once. Its cursor and pins count until the router's table has them, also over restarts.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import Pin
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import fsync_folder
from loradeck_agent.router.wire import Cursor
from loradeck_agent.serving.ready_releases import ReadyReleases


@dataclass
class EarlierJournal:
    """What the journal's lines add up to; nothing, where there is none. `ready` is by replica."""

    path: Path
    cursor: Cursor = field(default_factory=Cursor)
    pins: dict[PointerKey, Pin] = field(default_factory=dict)
    ready: dict[str, ReadyReleases] = field(default_factory=dict)
    found: bool = False

    @classmethod
    def read(cls, path: Path) -> EarlierJournal:
        """Reads a journal; an absent one is empty.

        Raises:
            AgentError: `journal_damaged`, when a line other than the last cannot be read.
        """
        journal = cls(path)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return journal
        journal.found = True
        whole, _, _ = raw.rpartition(b"\n")
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
        return journal

    def _fold(self, line: dict[str, Any]) -> None:
        match line["t"]:
            case "cursor":
                self.cursor = max(self.cursor, Cursor(int(line["epoch"]), int(line["rev"]), str(line["hash"])))
            case "pin":
                pin = Pin.model_validate(line["pin"])
                self.pins[pin.tenant, pin.route] = pin
            case "unpin":
                self.pins.pop((line["tenant"], line["route"]), None)
            case "engine":
                self.ready[line["replica"]] = ReadyReleases(
                    boot=line["boot"], loaded=tuple(line["releases"]), merged=tuple(line.get("let_in", ()))
                )

    def end_pin(self, key: PointerKey) -> None:
        """Takes a pin out of the file, so that no later agent puts it back. Blocks for the disk.

        Raises:
            OSError: the disk refused it.
        """
        if key not in self.pins:
            return
        line = json.dumps({"t": "unpin", "tenant": key[0], "route": key[1]}).encode()
        raw = self.path.read_bytes()
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, raw.rfind(b"\n") + 1)  # a torn last line would be glued to this one
            os.write(fd, line + b"\n")
            os.fdatasync(fd)
        finally:
            os.close(fd)
        del self.pins[key]

    def remove(self) -> None:
        """Removes the file: the router's table has everything. Blocks for the disk."""
        self.path.unlink(missing_ok=True)
        self.pins.clear()  # an unpin finds no file to be written to
        fsync_folder(self.path.parent)
        self.found = False
