"""Guard: what happens by itself when a release that has just gone out turns out to be bad.

A release that was good for a day does not turn bad by itself: what changed is around it, and going back may change
nothing. So guard moves only soon after a forward move, and only where the release is worse than what answers beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

from loradeck.rules.quality.health import ENOUGH, Units
from loradeck.rules.quality.statistics import wilson
from loradeck.schemas.counts import Counts
from loradeck.schemas.route import Guard

LATEST_S = 24 * 3600.0
"""Seconds after a forward move in which guard may move the pointer. Later it alerts."""

MOST_AN_HOUR = 3
"""Moves of guard in an hour, over the whole fleet."""

FEWEST_CALLERS = 3
"""Callers below which guard only holds: one of them may ask for what no release could answer."""

CONFIDENCE_Z = 3.29
"""Normal quantile (99.9 %) of the intervals that have to lie apart for one release to be worse than another."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What speaks against a release since its move.

    `figure`: 'bad' or 'errors'. `control`: the other arm at the same time; None: nothing answers beside the release.
    `nats`: the evidence (`loradeck.rules.quality.detection`). `alone`: the node on whose word it rests, if others that
    serve it say otherwise.
    """

    figure: str
    votes: Units
    control: Units | None
    callers: int
    nats: float
    alone: str = ""

    @property
    def worse(self) -> bool:
        """Whether the release is worse than what answers beside it."""
        return self.control is not None and (
            wilson(*self.votes, z=CONFIDENCE_Z)[0] > wilson(*self.control, z=CONFIDENCE_Z)[1]
        )

    def __str__(self) -> str:
        """Writes it as it stands in the log: `bad 31.0% of 200 votes of 24 callers, beside it 1.0% of 210`."""
        text = f"{self.figure} {_share(self.votes)} votes of {self.callers} callers"
        return text + (f", beside it {_share(self.control)}" if self.control is not None else "")

    def payload(self) -> dict[str, object]:
        """It as an event of the log carries it."""
        return {
            "figure": self.figure,
            "votes": list(self.votes),
            "control": list(self.control) if self.control is not None else None,
            "callers": self.callers,
            "nats": round(self.nats, 2),
        }


def _share(votes: Units) -> str:
    return f"{votes[0] / votes[1]:.1%} of {votes[1]}" if votes[1] else "nothing"


@dataclass(frozen=True, kw_only=True)
class Around:
    """What guard looks at besides the evidence.

    `since_move_s`: seconds since the forward move. `heard`: the share (0 to 1) of the placed replicas that are heard.
    `neighbours`: other tenants on the same replicas, last minute. `moves`: those that guard has made in the last hour.
    `asks`: why R would ask a person before it moves; '' if it would not.
    """

    since_move_s: float
    settling: bool
    heard: float
    neighbours: Counts
    moves: int
    asks: str = ""


@dataclass(frozen=True)
class Decision:
    """What guard does (`off`: nothing), and in words why it does no more than that."""

    act: Guard
    why: str = ""


NOTHING = Decision(Guard.OFF)


def decide(guard: Guard, evidence: Evidence, around: Around) -> Decision:
    """Decides what guard does about a release against which there is enough evidence since its move."""
    if guard is Guard.OFF or around.settling:
        return NOTHING
    for only, act, why in (
        (evidence.alone, Guard.ALERT, f"{evidence.alone} alone says so"),
        (around.heard <= 0.5, Guard.ALERT, "half of its replicas are not heard"),
        (around.since_move_s > LATEST_S, Guard.ALERT, "it has been live for a day"),
        (_suffer(evidence, around.neighbours), Guard.ALERT, "its neighbours on these replicas are as bad"),
        (evidence.callers < FEWEST_CALLERS, Guard.HOLD, f"only {evidence.callers} callers say so"),
        (evidence.control is None, Guard.HOLD, "nothing answers beside it to compare it with"),
        (not evidence.worse, Guard.HOLD, "it is not worse than what answers beside it"),
        (around.moves >= MOST_AN_HOUR, Guard.HOLD, f"guard has moved {around.moves} pointers within the hour"),
        (around.asks, Guard.HOLD, f"R would ask: {around.asks}"),
    ):
        if only:
            return Decision(min(act, guard, key=_FORCE.index), why)
    return Decision(guard)


_FORCE = (Guard.OFF, Guard.ALERT, Guard.HOLD, Guard.ROLLBACK)


def _suffer(evidence: Evidence, neighbours: Counts) -> bool:
    """Whether a release is not seen to be worse than its neighbours."""
    k, n = (
        (neighbours.bad, neighbours.checked) if evidence.figure == "bad" else (neighbours.failed, neighbours.admitted)
    )
    return n >= ENOUGH and wilson(*evidence.votes)[0] <= wilson(k, n)[1]
