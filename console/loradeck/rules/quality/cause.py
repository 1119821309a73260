"""The cause of bad or failed answers, decided from figures of one window, which begins where the share has changed.

The first of these that has enough evidence decides:

1. The concurrent control: what answers beside the release, or has been asked the same.
2. Engines that were away or silent, for requests that failed or ran on while they were.
3. Leaving one node out: without it nothing is wrong.
4. Leaving one caller out, likewise.
5. The neighbours, which are other tenants on the same replicas. Each tenant counts once, by the median, so that nobody
   counts for more by asking more. They are as bad: it is what they share. They are not, and the share has changed
   within ten minutes after a forward move: it is the release.

Else the cause is unknown. Only a release that is the cause is ruled out.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from loradeck.rules.quality.guard import CONFIDENCE_Z, Control
from loradeck.rules.quality.health import ENOUGH, OVERDUE, Units, apart, total
from loradeck.rules.quality.neighbours import Neighbours, merged
from loradeck.rules.quality.statistics import Z95, wilson
from loradeck.schemas.flag import FlagCause
from loradeck.schemas.state import Cause

AFTER_MOVE_S = 600.0
"""Seconds after a forward move in which a change of the share speaks against the release that it brought."""

SETTLED_S = 3.0
"""Seconds after the change before nodes, callers and neighbours are compared: nodes report every second, each at
another time in it.
"""

EARLY_S = 10.0
"""Seconds by which a change point that is estimated may lie before the move that has made the change."""


class CallersShare(NamedTuple):
    """The units of a window by bins of callers. `by_bin`: of those bins with bad units that routers have named.

    `all`: the units of all callers over the same time.
    """

    by_bin: Mapping[int, Units]
    all: Units


@dataclass(frozen=True, kw_only=True)
class Window:
    """What is known of a release and of what is around it since its share has changed.

    Args:
        figure: 'bad', 'errors' or 'overdue'.
        limit: the share (0 to 1) above which it is bad.
        by_node: node -> the release's units.
        placed: the nodes that the pointer is placed on.
        control: what answers beside it (`loradeck.rules.quality.guard.compared`); None: nothing does.
        callers: None: its routers do not count by caller.
        neighbours: node -> other tenant on the same replicas there -> its units.
        age_s: seconds since the change.
        after_move_s: seconds from the last forward move to the change; None: the last move was none.
        away: replica whose engine was away or silent in this time -> the release's units there.
    """

    figure: str
    limit: float
    by_node: Mapping[str, Units]
    placed: Collection[str]
    control: Control | None = None
    callers: CallersShare | None = None
    neighbours: Neighbours = field(default_factory=dict)
    age_s: float = SETTLED_S
    after_move_s: float | None = None
    away: Mapping[str, Units] = field(default_factory=dict)

    @property
    def units(self) -> Units:
        """The release's units on all nodes."""
        return total(self.by_node.values())


_WORDS = {
    "release": "the release",
    "requests": "what is asked: the release beneath does no better on the same",
    "callers": "a caller, not the release",
    "node": "a node, not the release",
    "engine": "engines that were away, not the release",
    "base": "the base, not the release",
    "fine": "nothing wrong here",
    "too_few": "too few answers to tell",
    "unknown": "cannot tell",
}
"""The verdicts of a row in words for a person. The first words, up to a comma or a colon, stand alone."""


def whose(verdict: str, who: str = "") -> str:
    """Says a row's verdict to a person: `a node, not the release: gpu-04`. `who`: as of a `Verdict`."""
    said = _WORDS.get(verdict, verdict)
    return f"{said}: {who}" if who and ":" not in said else said


def of_ten_minutes(cause: Cause) -> str:
    """Says to a person that a flag's figures are of the last ten minutes, where its change point lies before them."""
    if cause.since_ms is None or cause.bad_since_ms is None:
        return ""
    return " in 10 min," if cause.since_ms > cause.bad_since_ms + 1000 else ""


class Verdict(NamedTuple):
    """A cause. `who`: the node, the engines or the caller, in words for a person; '': nobody in particular.

    Of a release it is the node that alone serves the pointer. Where the cause is not known yet, it is the node on whose
    word alone the flag rests so far, though others serve the pointer too.
    """

    cause: FlagCause
    who: str = ""


UNKNOWN = Verdict(FlagCause.UNKNOWN)


def decide(window: Window) -> Verdict:
    """Decides whose doing it is that a release is past its limit."""
    if window.control is not None and window.control.worse:
        return Verdict(FlagCause.RELEASE, node_alone(window))
    if window.figure in ("errors", OVERDUE) and window.away and _is_fine_without(window, total(window.away.values())):
        return Verdict(FlagCause.ENGINE, ", ".join(sorted(window.away)[:3]))
    if window.age_s < SETTLED_S:
        return Verdict(FlagCause.UNKNOWN, _node(window) or "")
    if (node := _node(window)) is not None:
        return Verdict(FlagCause.NODE, node)
    if (verdict := _caller(window)) is not None:
        return verdict
    if _neighbours(window, worst=True, told_apart=False):
        return Verdict(FlagCause.BASE if len(window.by_node) > 1 else FlagCause.NODE, _only_node(window))
    if control_is_as_bad(window):
        return Verdict(FlagCause.REQUESTS)
    if _comes_with_move(window) and _neighbours(window, worst=False, told_apart=True):
        return Verdict(FlagCause.RELEASE, node_alone(window))
    return UNKNOWN


def _neighbours(window: Window, *, worst: bool, told_apart: bool) -> bool:
    """Tells whether the median neighbour is as bad as the release, or told apart from it, whoever is left out.

    That is any one tenant, and any one node with all that it says.

    Args:
        worst: of an even number of tenants the worse median counts, so that one good tenant does not decide.
        told_apart: the release has to be worse, with a confidence of 99.9 %. Otherwise it must not be by 95 %, and the
            median has to be past the limit too.
    """
    nodes = [node for node, by_tenant in window.neighbours.items() if by_tenant]
    views = [("", window.units), *((node, _without(window, node)) for node in nodes if len(nodes) > 1)]
    compared = [
        (live, median)
        for node, live in views
        if live[1]
        for median in _medians(merged(window.neighbours, without=node), worst=worst)
    ]
    if told_apart:
        return bool(compared) and all(apart(live, median, CONFIDENCE_Z) for live, median in compared)
    as_bad = (wilson(*median)[0] > window.limit and not apart(live, median) for live, median in compared)
    return bool(compared) and all(as_bad)


def _without(window: Window, node: str) -> Units:
    bad, n = window.units
    k, m = window.by_node.get(node, (0, 0))
    return bad - k, n - m


def control_is_as_bad(window: Window) -> bool:
    """Tells whether what was asked the same is past the limit too, and no better than the release."""
    control = window.control
    if control is None or control.beside[1] < ENOUGH or apart(control.given, control.beside):
        return False
    return wilson(*control.beside)[0] > window.limit


def _node(window: Window) -> str | None:
    """The node that is worse than the others, and without which nothing is wrong.

    None: there is none, or the pointer is placed nowhere else.
    """
    if len({*window.placed, *window.by_node}) <= 1:
        return None
    bad, n = window.units
    deciding = [
        name
        for name, (k, m) in window.by_node.items()
        if _is_fine_without(window, (k, m)) and (m == n or apart((k, m), (bad - k, n - m)))
    ]
    return max(deciding, key=lambda name: window.by_node[name][0], default=None)


def _is_fine_without(window: Window, part: Units) -> bool:
    """Tells whether the release is not past its limit by its other units, or has none."""
    bad, n = window.units
    return wilson(max(0, min(bad - part[0], n - part[1])), max(0, n - part[1]))[0] <= window.limit


def _caller(window: Window) -> Verdict | None:
    """The verdict where the release is past its limit by one caller's answers alone; None: others have bad ones too."""
    if window.callers is None:
        return UNKNOWN
    by_bin, (bad, n) = window.callers.by_bin, window.callers.all
    if not by_bin or not bad:
        return UNKNOWN
    k, m = max(by_bin.values())
    rest = max(0, bad - k), max(0, n - m)
    if rest[1] and wilson(min(rest), rest[1], z=Z95)[0] > window.limit:
        return None
    # Too few other answers say nothing about the release, and so nothing about the caller.
    if rest[1] < ENOUGH or k / bad <= 0.5:
        return UNKNOWN
    return Verdict(FlagCause.CALLERS, f"one caller makes {k / bad:.0%} of {bad} bad answers")


def _comes_with_move(window: Window) -> bool:
    return window.after_move_s is not None and -EARLY_S <= window.after_move_s <= AFTER_MOVE_S


def node_alone(window: Window) -> str:
    """Names the node that alone serves the pointer, in words for a person: no other bears it out; '': others can."""
    nodes = {*window.placed, *window.by_node}
    return f"by {min(nodes)} alone" if len(nodes) == 1 else ""


def _only_node(window: Window) -> str:
    names = sorted(window.by_node)
    return names[0] if len(names) == 1 else ""


def median_tenant(by_tenant: Mapping[str, Units], *, worst: bool) -> Units | None:
    """Returns the units of the tenant whose share is the median; None: too little is known of any.

    Tenants with fewer than ENOUGH units are put together and count as one tenant.

    Args:
        worst: of an even number of tenants, take the worse one of the two in the middle.
    """
    known = _in_order(by_tenant)
    return known[_middle(len(known), worst=worst)] if known else None


def _medians(by_tenant: Mapping[str, Units], *, worst: bool) -> list[Units]:
    """Lists the median of all tenants, and those that it may become without any one of them."""
    known = _in_order(by_tenant)
    if len(known) < 2:
        return known
    below = _middle(len(known) - 1, worst=worst)  # where the median is without one that stands behind it
    return [known[_middle(len(known), worst=worst)], known[below], known[below + 1]]


def _middle(n: int, *, worst: bool) -> int:
    return n // 2 if worst else (n - 1) // 2


def _in_order(by_tenant: Mapping[str, Units]) -> list[Units]:
    known = [units for units in by_tenant.values() if units[1] >= ENOUGH]
    few = total(units for units in by_tenant.values() if units[1] < ENOUGH)
    if few[1] >= ENOUGH:
        known.append(few)
    return sorted(known, key=lambda units: (units[0] / units[1], units[1]))
