"""The peer of the console: the same feed in a plain Textual DataTable, in forty lines that anybody would write."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.widgets import DataTable, Footer, Header

from loradeck.client.config import Context
from loradeck.client.feed import Feed
from loradeck.client.state_list import Listed
from loradeck.schemas.feed import FeedTenants
from loradeck.schemas.state import TenantRow

COLUMNS = ("TENANT", "LIVE", "REQ/S", "ERR%", "BAD% was", "now", "TTFT95", "PROVEN", "R GOES TO", "FLAG")
AROUND = 40
"""Rows around the cursor whose figures it asks for, as the console does."""


class Table(App[None]):
    """One table. `j` and `k` move, `q` leaves."""

    BINDINGS: ClassVar = [("j", "down", "Down"), ("k", "up", "Up"), ("q", "quit", "Quit")]

    def __init__(self, socket: Path) -> None:
        super().__init__()
        self.feed = Feed(Context(name="bench", socket=socket))
        self.asked: tuple[str, ...] = ()

    def compose(self) -> ComposeResult:
        yield Header()
        yield DataTable(cursor_type="row")
        yield Footer()

    def on_mount(self) -> None:
        self.table = self.query_one(DataTable)
        for name in COLUMNS:
            self.table.add_column(name, key=name, width=11)
        self.run_worker(self.follow())
        self.set_interval(0.5, self.ask)

    def action_down(self) -> None:
        self.table.action_cursor_down()

    def action_up(self) -> None:
        self.table.action_cursor_up()

    async def ask(self) -> None:
        at = self.table.cursor_row
        rows = tuple(str(row.key.value) for row in self.table.ordered_rows[max(0, at - AROUND) : at + AROUND])
        if rows != self.asked:
            self.asked = rows
            await self.feed.show(rows)

    async def follow(self) -> None:
        async with contextlib.aclosing(self.feed.follow()) as items:
            async for item in items:
                if isinstance(item, Listed):
                    self.table.clear()
                    for row in item.tenants:
                        self.table.add_row(*cells(row), key="/".join(row.key))
                elif isinstance(item, FeedTenants):
                    for row in item.rows:
                        for column, cell in zip(COLUMNS, cells(row), strict=True):
                            self.table.update_cell("/".join(row.key), column, cell)


def cells(row: TenantRow) -> tuple[str, ...]:
    target = row.preview.target
    return (
        row.tenant,
        row.live.label if row.live else "-",
        f"{row.requests_per_s:.1f}",
        f"{(row.error_share or 0) * 100:.1f}",
        f"{(row.bad_before or 0) * 100:.1f}",
        f"{(row.bad_now or 0) * 100:.1f}",
        f"{row.ttft95_ms or 0:.0f}ms",
        f"{row.proven}/{row.placed}",
        target.label if target else "none",
        " ".join(row.flags),
    )


if __name__ == "__main__":
    Table(Path(sys.argv[1])).run(mouse=False)
