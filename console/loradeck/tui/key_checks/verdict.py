"""The gate's verdicts on a key: act, ask or refuse; and the barriers that hold for every selection."""

from dataclasses import dataclass

from loradeck.client.terminal_text import clean
from loradeck.schemas.ids import Role
from loradeck.schemas.replica_state import LINK_TTL_S
from loradeck.schemas.state import TenantRow
from loradeck.tui.keys.action import ORDERS, Action
from loradeck.tui.model.feed_state import Link
from loradeck.tui.model.sent_moves import Move, Order, Signing
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import age

ROLES = {
    Action.ROLLBACK: Role.OPERATOR,
    Action.UNDO: Role.OPERATOR,
    Action.FALLBACK: Role.OPERATOR,
    Action.HOLD: Role.OPERATOR,
    Action.REWIND: Role.OPERATOR,
    Action.ANNOTATE: Role.OPERATOR,
    Action.PROMOTE: Role.RELEASER,
    **dict.fromkeys(ORDERS, Role.OPERATOR),
    Action.GO_ON: Role.RELEASER,
}
"""The least role that an action needs."""

FORWARD = frozenset({Action.PROMOTE, Action.UNDO})
"""Actions that wait for a recover on every row while a node is ahead of the hub's log."""

_REFUSING = {
    "settling": f"the hub has just started and waits for its nodes, {LINK_TTL_S:.0f} s at most",
    "log_behind": "the hub's log lacks what has been seen; loradeck hub recover",
    "disk_full": "the hub's disk is full",
    "one_copy": "the database has lost its standby",
}


@dataclass(frozen=True)
class Act:
    """Do it now. No moves: leave the console."""

    moves: tuple[Move, ...] = ()


@dataclass(frozen=True)
class Ask:
    """Show the line (and the list), then wait for y. With `wants_reason` a reason is typed instead."""

    line: str
    moves: tuple[Move, ...] = ()
    wants_reason: bool = False
    listed: tuple[str, ...] = ()
    order: Order | None = None
    signing: Signing | None = None


@dataclass(frozen=True)
class Refuse:
    """Nothing happens, and the reason is shown."""

    why: str


Verdict = Act | Ask | Refuse


def off(state: ConsoleState, action: Action, why: str) -> Refuse:
    """Refuse an action by its key: 'R off: no row is selected'."""
    return Refuse(f"{state.keys.shown(action)} off: {why}")


def barrier(action: Action, state: ConsoleState) -> Refuse | None:
    """The barrier that stops an action whatever a row is like: read-only, the role, the link, a hub that refuses moves.

    The role is the one at the selected row's tenant.
    """
    if state.read_only:
        return off(state, action, f"read-only ({state.read_only})")
    if state.me is None or state.status is None:
        return off(state, action, "nothing is loaded yet")
    need, row = ROLES[action], state.row
    role = state.me.role if row is None or action in ORDERS else state.me.role_at(row.tenant)
    if not role.covers(need):
        why = f"it needs the role {need.value}; {clean(state.me.actor)} is {role.value}"
        return off(state, action, why)
    if state.link is Link.LOST:
        return off(state, action, f"no link to the hub for {age(state.silent_s)}; on a node: loradeck-agent pin")
    if state.status.refusing and action not in ORDERS:
        why = _REFUSING.get(state.status.refusing, "the hub refuses moves")
        return off(state, action, f"{why} ({state.status.refusing})")
    if state.status.waiting and action in FORWARD:
        why = _REFUSING.get(state.status.waiting, "forward moves wait")
        return off(state, action, f"{why} ({state.status.waiting})")
    return None


def live_by(state: ConsoleState, row: TenantRow) -> str:
    """Says in brackets who put the live release of a row there, and why; '' where that is not known."""
    event = state.last_move(row)
    if event is None:
        return ""
    quoted = f' "{clean(event.reason)}"' if event.reason else ""
    return f" (live by {clean(event.actor)}{quoted})"
