"""Forwarding the audit trail: a hub that is restored while it goes on loses no line unnoticed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loradeck.cli.commands.audit_forward import Cursor, _newer
from loradeck.cli.shared.exits import CliError
from loradeck.schemas.audit import AuditLine
from loradeck.schemas.ids import digest_of


def trail(*calls: str) -> Any:
    lines = [AuditLine(actor="ann", call=call, seq=at, at_ms=0) for at, call in enumerate(calls, 1)]

    async def audit_trail(*, after: int) -> list[AuditLine]:
        return lines[after:]

    return SimpleNamespace(audit_trail=audit_trail, lines=lines)


async def test_the_lines_after_a_cursor_come_from_the_trail_that_it_is_of_alone() -> None:
    hub, file = trail("a", "b", "c"), Path("cursor")
    assert await _newer(hub, Cursor(), file) == hub.lines
    cursor = Cursor(line=2, digest=digest_of(hub.lines[1]))
    assert await _newer(hub, cursor, file) == hub.lines[2:]
    for restored in (trail("a"), trail("a", "x", "c")):
        with pytest.raises(CliError, match="is not the one that this cursor is of"):
            await _newer(restored, cursor, file)
