"""The session of a console that was cut off, which the next one on that hub continues.

A console that was left with q leaves only its typed lines: a filter of yesterday would hide a tenant of tonight.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from loradeck.client.config import Context, state_path
from loradeck.rules.clocks import HOUR_MS
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.moves import MoveResult
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.model.lists import FilterError, RowFilter, Sort
from loradeck.tui.model.sent_moves import OPEN, Move, OwnMove, Phase, Request
from loradeck.tui.model.state import ConsoleState

log = logging.getLogger("loradeck.console")

FRESH_MS = HOUR_MS
"""Milliseconds after it was cut off for which a session is continued."""

_REQUESTS: dict[str, type[BaseModel]] = {kind.__name__: kind for kind in get_args(Request)}


class SentMove(BaseModel):
    """A move whose result was on the screen, as far as it was known. Its key finds its outcome at the hub."""

    kind: Action
    tenant: str
    route: str
    says: str
    sent_ms: int
    form: str
    request: dict[str, Any]
    phase: Phase = Phase.UNKNOWN
    result: MoveResult | None = None
    trouble: str = ""

    @classmethod
    def of(cls, own: OwnMove) -> SentMove:
        """A move in the form that is written to the file."""
        move = own.move
        return cls(
            kind=move.kind,
            tenant=move.tenant,
            route=move.route,
            says=move.says,
            sent_ms=own.sent_ms,
            form=type(move.request).__name__,
            request=move.request.model_dump(mode="json"),
            phase=own.phase,
            result=own.result,
            trouble=own.trouble,
        )

    def own(self, now: float, now_ms: int) -> OwnMove:
        """The move as the next console has it: without an answer until then, its outcome is unknown.

        `now`: monotonic seconds at `now_ms`, wall-clock milliseconds.

        Raises: ValidationError, KeyError: it was written by another version.
        """
        request: Any = _REQUESTS[self.form].model_validate(self.request)
        move = Move(self.kind, self.tenant, self.route, request, self.says)
        sent_at = now - max(0, now_ms - self.sent_ms) / 1000
        phase = Phase.UNKNOWN if self.phase in OPEN else self.phase
        return OwnMove(move, sent_at, self.sent_ms, phase=phase, result=self.result, trouble=self.trouble)


class Session(BaseModel):
    """`cut`: the console was ended by a signal or a fault and not by q. Times are wall-clock milliseconds."""

    at_ms: int = 0
    cut: bool = False
    screen: Screen = Screen.TENANTS
    sort: Sort = Sort.ATTENTION
    filter: str = ""
    """Filter of the tenants' list."""

    row: PointerKey | None = None
    sent: tuple[SentMove, ...] = ()
    """The moves that the TELL line reports."""

    commands: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    """Lines typed after `:` and `/`, oldest first."""

    def goes_on(self, now_ms: int) -> bool:
        """Tells whether the next console begins where this one was cut off."""
        return self.cut and 0 <= now_ms - self.at_ms < FRESH_MS

    def moves(self, now: float, now_ms: int) -> Iterable[OwnMove]:
        """The moves of the TELL line, as `SentMove.own` gives them; moves of another version are left out."""
        for sent in self.sent:
            with contextlib.suppress(ValidationError, KeyError):
                yield sent.own(now, now_ms)


def restore(session: Session, state: ConsoleState) -> None:
    """Put the sort, filter and row of a session back."""
    state.sort = session.sort
    with contextlib.suppress(FilterError):
        state.tenant_list.filter = RowFilter.parse(session.filter)
    state.arrange(force=True)
    if session.row is not None:
        state.tenant_list.choose(session.row)


def path_of(context: Context) -> Path:
    """Returns where the session on a hub is kept (0600). Hubs that are given by their address all have one name."""
    address = hashlib.sha256(context.where.encode()).hexdigest()[:12]
    return state_path() / "sessions" / f"{quote(context.name, safe='')}-{address}.json"


def read(path: Path) -> Session:
    """The last session; an empty one where there is none that can be read."""
    try:
        return Session.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Session()
    except (OSError, ValidationError) as error:
        log.warning("session not read: %s: %s", path, type(error).__name__)
        return Session()


def write(path: Path, session: Session) -> None:
    """Write a session to its file. If that fails, the next console begins anew, and the log says so."""
    staged = path.with_suffix(".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(session.model_dump_json().encode())
        staged.replace(path)
    except OSError as error:
        log.warning("session not kept: %s: %s", path, error.strerror)
