"""Parts of the commands that move one pointer: its heading, names of releases, and sending the move."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import click

from loradeck.cli.shared.naming import Pointer
from loradeck.cli.shared.progress import MoveOptions, report
from loradeck.cli.shared.session import Session
from loradeck.schemas.ids import short
from loradeck.schemas.moves import MoveResult
from loradeck.schemas.state import ReleaseView, TenantRow


def title(s: Session, at: Pointer, row: TenantRow) -> str:
    """The heading of a pointer: where it is, its generation, and on which hub."""
    production = "PRODUCTION " if s.context.production else ""
    held = "  HELD" if row.pointer.held else ""
    return f"{at}  gen {row.pointer.generation}{held}  on {production}{s.context.name} ({s.context.where})"


def full(view: ReleaseView | None) -> str:
    """A release with its base: 'v9 3fa9c1 on B2 7d10aa'."""
    return f"{view.label} {short(view.id)} on {view.base_label} {short(view.base)}" if view else "nothing"


def name(view: ReleaseView | None) -> str:
    """A release in a question: 'v9 (3fa9c1)'."""
    return f"{view.label} ({short(view.id)})" if view else "nothing"


async def move(s: Session, at: Pointer, key: str, sending: Awaitable[MoveResult], how: MoveOptions) -> None:
    """Sends a move of one pointer, and prints how far it gets in the time given."""
    deadline = time.monotonic() + how.timeout
    await report(s, at, await sent(sending, key), wait=how.wait, deadline=deadline)


async def sent(sending: Awaitable[MoveResult], key: str) -> MoveResult:
    """Waits for a move's answer; after an interruption it prints that the move may have been committed."""
    try:
        return await sending
    except asyncio.CancelledError:
        click.echo(f"\ninterrupted: the move may have been committed; see: loradeck move {key}", err=True)
        raise
