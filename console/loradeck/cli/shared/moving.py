"""Parts of the commands that move one pointer: its heading, names of releases, and sending the move."""

import asyncio
import time
from collections.abc import Awaitable, Sequence

import click

from loradeck.cli.shared.naming import Pointer, pointer_and_release, release_named
from loradeck.cli.shared.progress import MoveOptions, report, watched
from loradeck.cli.shared.session import Session
from loradeck.client.api import PointerRequest
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


def changes(before: ReleaseView | None, after: ReleaseView | None, *, override: bool = False) -> str:
    """Writes what a pointer serves before and after a move, in one line."""
    return f" {full(before)} -> {full(after)}" + ("   OVERRIDE" if override else "")


def because(asks: str | None) -> str:
    """Why a question is asked, after it; '' if nothing is known to speak against the move."""
    return f" It asks because: {asks}." if asks else ""


async def to_place(s: Session, words: Sequence[str]) -> tuple[Pointer, TenantRow, ReleaseView]:
    """The pointer that `TENANT [ROUTE] RELEASE` names, its row, and the release.

    Raises: CliError: too few or too many words, or no such release.
    """
    at, text = pointer_and_release(words)
    release = await release_named(s.api, at.tenant, text)
    return at, await s.api.row(at.tenant, at.route, promote=release.id), release


async def move(s: Session, at: Pointer, how: MoveOptions, request: PointerRequest, *, prepares: bool = False) -> None:
    """Sends a move of one pointer, and prints how far it gets in the time given.

    `prepares`: the hub prepares a release first; meanwhile it is printed how far that is.
    """
    deadline, key = time.monotonic() + how.timeout, request.idempotency_key
    sending = s.api.send(at.tenant, at.route, request, wait=how.wait, timeout=how.timeout)
    result = await sent(watched(s, key, sending) if prepares else sending, key)
    await report(s, at, result, wait=how.wait, deadline=deadline)


async def sent(sending: Awaitable[MoveResult], key: str) -> MoveResult:
    """Waits for a move's answer; after an interruption it prints that the move may have been committed."""
    try:
        return await sending
    except asyncio.CancelledError:
        click.echo(f"\ninterrupted: the move may have been committed; see: loradeck move {key}", err=True)
        raise
