"""Commands that move pointers: their options, heading and request, and how far a move is, replica by replica."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import click

from loradeck.cli.shared.exits import Exit
from loradeck.cli.shared.naming import Pointer, pointer_and_release, release_named
from loradeck.cli.shared.options import (
    break_glass_option,
    incident_option,
    override_option,
    reason_option,
    ticket_option,
    yes_option,
)
from loradeck.cli.shared.output import millis, span, utc
from loradeck.cli.shared.session import Session, writes
from loradeck.client.api import HubApi, PointerRequest
from loradeck.client.calls import Wait
from loradeck.client.errors import ClientError
from loradeck.client.idempotency import new_key
from loradeck.client.job_words import prepare_progress
from loradeck.rules.serving import proof
from loradeck.rules.serving.counting import flip_counts
from loradeck.rules.serving.proof import ORDER, Reached
from loradeck.schemas.ids import short
from loradeck.schemas.jobs import Job
from loradeck.schemas.moves import MoveResult
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.state import ReleaseView, ReplicaRow, TenantRow

_POLL_S = 0.1

WATCH_S = 1.0
"""Seconds between two looks at the prepare of a promote."""

WATCH_EVERY_S = 5.0
"""Seconds after which its progress is printed again, though nothing has changed."""


@dataclass(frozen=True)
class MoveOptions:
    """The options of commands that move pointers, as far as the command has them. `timeout` is in seconds."""

    reason: str
    yes: bool
    wait: Wait
    timeout: float
    ticket: str | None = None
    override: bool = False
    break_glass: str | None = None
    incident: str | None = None

    def on(self, row: TenantRow) -> dict[str, Any]:
        """The fields of every request that moves a pointer whose row was looked at, with a key of its own."""
        return {"expected_generation": row.pointer.generation, "idempotency_key": new_key(), **self.said}

    @property
    def said(self) -> dict[str, Any]:
        """The reason and the change ticket, which every request to move pointers carries."""
        return {"reason": self.reason, "ticket": self.ticket}

    def forward(self, row: TenantRow) -> dict[str, Any]:
        """The fields of a request that moves a pointer to what callers have not had.

        A broken glass is an override, and its reason is the move's.
        """
        broken = self.break_glass is not None
        said = {"override": self.override or broken, "break_glass": broken}
        return self.on(row) | said | ({"reason": self.break_glass} if broken else {})


def move_command(
    *, timeout: float | None, forward: bool = False, incident: bool = False
) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[..., None]]:
    """Makes a command that moves pointers: its `MoveOptions` are --reason, --ticket, --yes, --wait and --timeout.

    Args:
        timeout: the default of the last, in seconds; None: it waits for nothing, and has neither --wait nor --timeout.
        forward: it also has --override and --break-glass.
        incident: it also has --incident.
    """

    def made(body: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @functools.wraps(body)
        async def moving(
            session: Session,
            /,
            *args: Any,
            reason: str,
            ticket: str | None,
            yes: bool,
            wait: Wait = "committed",
            timeout: float = 0,
            override: bool = False,
            break_glass: str | None = None,
            incident: str | None = None,
            **kwargs: Any,
        ) -> None:
            how = MoveOptions(reason, yes, wait, timeout, ticket, override, break_glass, incident)
            await body(session, how, *args, **kwargs)

        command = writes(moving)
        if timeout is not None:
            command = click.option(
                "--timeout",
                type=click.FloatRange(0, 600),
                default=timeout,
                show_default=True,
                metavar="SECONDS",
                help="Longest time to wait.",
            )(command)
            command = click.option(
                "--wait",
                type=click.Choice(get_args(Wait)),
                default="flipped",
                show_default=True,
                help="State to wait for. Not reached in time is exit 5; listed and not proven is exit 7.",
            )(command)
        command = reason_option()(ticket_option(yes_option(command)))
        command = incident_option(command) if incident else command
        return override_option(break_glass_option(command)) if forward else command

    return made


async def watched(session: Session, key: str, sending: Coroutine[Any, Any, MoveResult]) -> MoveResult:
    """Sends a promote, and prints how far its prepare is: a line a second at most, and one every WATCH_EVERY_S seconds.

    `key` is the promote's idempotency key.
    """
    task = asyncio.create_task(sending)
    shown, printed_at = "", time.monotonic()
    try:
        while not (await asyncio.wait({task}, timeout=WATCH_S))[0]:
            job = await _prepare_of(session.api, key)
            if job is None:
                continue
            state = f"{job.step} {job.message}"
            if state != shown or time.monotonic() - printed_at >= WATCH_EVERY_S:
                shown, printed_at = state, time.monotonic()
                session.out.say(f" {prepare_progress(job, int(time.time() * 1000))}")
        return await task
    finally:
        task.cancel()


async def _prepare_of(api: HubApi, key: str) -> Job | None:
    """The prepare that a promote waits for; None: it has none now, or the hub does not answer."""
    try:
        result = await api.move(key)
        return await api.job(result.pending) if result is not None and result.pending is not None else None
    except ClientError:
        return None


async def report(session: Session, pointer: Pointer, result: MoveResult, *, wait: Wait, deadline: float) -> None:
    """Prints the outcome of a move, once it has reached `wait` or at `deadline` (monotonic seconds).

    Raises: click.exceptions.Exit: with status 5 if `wait` was not reached, with 7 if it cannot be.
    """
    out = session.out
    if result.cancelled is not None:
        out.answer(result, f"{pointer}: the pending promote is cancelled (job {result.cancelled}); nothing moved")
        return
    if result.already is not None:
        first = result.already
        by = f"{first.kind.value} by {first.actor} {utc(first.at_ms)}, rev {first.rev}"
        out.answer(result, f"{pointer}: all callers had that release already ({by}); nothing more moved")
        return
    if result.pending is not None and not result.events:
        out.json(result)
        out.alarm(f"{pointer}: NOT YET: still preparing, job {result.pending}; it commits by itself when that is done")
        out.say(f"  follow it: loradeck job follow {result.pending}    stop it: loradeck rollback {pointer}")
        raise click.exceptions.Exit(Exit.NOT_IN_TIME)
    row, reached = await _reached(session.api, pointer, result, wait, deadline)
    out.json(result.model_copy(update={"reached": reached}))
    _print_move(session, result, row)
    if row is None:
        out.alarm("committed; the hub stopped answering before it could say how far it has come")
    in_time(session, reached, wait, row)


def in_time(session: Session, reached: str | None, wait: Wait, row: TenantRow | None = None) -> None:
    """Checks that a committed move has reached `wait`; of one pointer, `row` says why it has not.

    Raises:
        click.exceptions.Exit: with status 5 if it has not, with 7 if it is listed and waiting longer proves nothing.
    """
    if reached not in ORDER or Reached(reached).covers(wait):
        return
    if reached == Reached.LISTED:
        session.out.alarm(f"NOT PROVEN: flipped and listed on {_not_proven(row)}")
        raise click.exceptions.Exit(Exit.NOT_PROVEN)
    session.out.alarm(f"NOT DONE: committed, and not {wait} everywhere in the time given; it goes on by itself")
    raise click.exceptions.Exit(Exit.NOT_IN_TIME)


def _not_proven(row: TenantRow | None) -> str:
    if row is None:
        return "every replica, and not proven on every one; loradeck route show TENANT says why"
    why = next((replica.detail for replica in row.replicas if replica.state is AckState.LISTED), "")
    return f"{row.placed} of {row.placed}, proven on {row.proven}: {why}"


async def _reached(
    api: HubApi, pointer: Pointer, result: MoveResult, wait: Wait, deadline: float
) -> tuple[TenantRow | None, Reached]:
    """The row once `wait` is reached, or cannot be, or the time is over, and the level reached; no row if the hub no
    longer answers.

    The hub has waited already, unless its answer was lost. The move stays committed, whatever happens here.
    """
    generation = max((event.generation or 0 for event in result.events if event.route == pointer.route), default=0)
    reached = Reached(result.reached) if result.reached in ORDER else Reached.COMMITTED
    while True:
        try:
            row = await api.row(pointer.tenant, pointer.route)
        except ClientError:
            return None, reached
        if row.pointer.generation == generation:
            reached = proof.reached(placed=row.placed, flipped=row.flipped, proven=row.proven, listed=row.listed)
        over = row.pointer.generation > generation or time.monotonic() >= deadline
        if over or reached is Reached.LISTED or reached.covers(wait):
            return row, reached
        await asyncio.sleep(_POLL_S)


def _print_move(session: Session, result: MoveResult, row: TenantRow | None) -> None:
    out = session.out
    if out.as_json:
        return
    for event in result.events:
        out.heading(
            f"{event.tenant}/{event.route} gen {event.generation}: {event.kind.value} by {event.actor} "
            f"{utc(event.at_ms)}  rev {event.rev}"
        )
    if result.replayed:
        out.say("this key was used before: this is the result of that move")
    if result.copies == 1:
        out.alarm("1 copy: the database's standby is gone, and one server alone has this move")
    if row is None:
        return
    generation = max((event.generation or 0 for event in result.events), default=0)
    if row.pointer.generation > generation:
        out.alarm(f"it has moved again since: gen {row.pointer.generation}")
    out.say(
        f"COMMITTED {millis(result.commit_ms)}   {flip_counts(row)} {millis(result.flipped_ms)}   "
        f"PROVEN {row.proven}/{row.placed} {millis(result.proven_ms)}"
        + (f"   LISTED {row.listed}/{row.placed}" if row.listed else "")
    )
    replicas(session, row)


def _standing(replica: ReplicaRow) -> str:
    """Says what is wrong with a replica's link or place, before the age of its newest message."""
    if replica.lost:
        return "unheard, may answer "
    if not replica.linked:
        return "LINK LOST "
    return "leaving, may answer " if replica.withdrawn else ""


def replicas(session: Session, row: TenantRow) -> None:
    """Prints one line for each placed replica: its acknowledgement, and its age since the last report."""
    views = (row.live, row.preview.target, *(skipped.release for skipped in row.preview.skipped))
    labels = {view.id: view.label for view in views if view is not None}
    session.out.table(
        ("REPLICA", "STATE", "FLIPPED", "PROVEN", "PROOF AGE", "ADMITTED LEFT", "HEARD", "NOTE"),
        [
            (
                replica.replica,
                (replica.state.value + " cold" * replica.cold) if replica.state else "NO ACK",
                millis(replica.flipped_ms),
                millis(replica.proven_ms if replica.state is AckState.PROVEN else None),
                span(replica.proof_age_s),
                "unknown" if replica.admitted_left is None else replica.admitted_left,
                _standing(replica) + span(replica.heard_age_s),
                " ".join(
                    part
                    for part in (
                        f"PINNED to {labels.get(replica.pinned, replica.pinned[:6])}" if replica.pinned else "",
                        replica.code or "",
                        replica.detail,
                    )
                    if part
                ),
            )
            for replica in row.replicas
        ],
        empty="no replica is placed here",
    )


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
