"""Readiness: how near a release is to serving on one replica, and how long that would take by measured times.

Only reported facts count: what a node did not report is absent, and a time that it has not measured is unknown.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from loradeck.rules.serving.residency import PRIOR_COLD
from loradeck.schemas.link import Replica
from loradeck.schemas.manifest import Form
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.state import Readiness, ReplicaReadiness
from loradeck.schemas.table import RouteResidency

_NEAREST_LAST = (Readiness.UNKNOWN, Readiness.ABSENT, Readiness.CACHED, Readiness.WARM, Readiness.RESIDENT)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A release as an engine needs it. `adapter`: the one to load; None for a base alone or merged weights."""

    id: str
    form: Form
    adapter: str | None


def readiness(wanted: Wanted, replica: Replica, stored: Collection[str]) -> Readiness:
    """Readiness of a release on a replica of its base, running or stopped. `stored`: adapters on the disk of its node.

    A base's own weights lie on every node that has an engine of it, so a release without an adapter to load is resident
    or cached.
    """
    up = replica.state is EngineState.UP
    if wanted.form is not Form.ADAPTER:
        return Readiness.RESIDENT if up else Readiness.CACHED
    if up and wanted.id in replica.loaded:
        return Readiness.RESIDENT
    if wanted.adapter not in stored:
        return Readiness.ABSENT
    return Readiness.WARM if up else Readiness.CACHED


def seconds(wanted: Wanted, replica: Replica, stored: Collection[str]) -> float | None:
    """Estimates the seconds that a replica without the release needs until it can answer with it.

    The sum of the last measured times of each missing step: the engine's start, the fetch, the load. None if one of
    them was never measured there.
    """
    steps: list[float | None] = []
    if replica.state is not EngineState.UP:
        steps.append(replica.start_s)
    if wanted.form is Form.ADAPTER:
        if wanted.adapter not in stored:
            steps.append(replica.fetch_s)
        steps.append(replica.load_s)
    known = [step for step in steps if step is not None]
    return sum(known) if len(known) == len(steps) else None


def cold_prior(residency: RouteResidency, found: Readiness) -> str | None:
    """Why R or an undo asks first on an on-demand route: it flips at once, and the target may yet have to be loaded.

    None: it need not ask. On an `always` route the target has a slot, and a flip waits for its load.
    """
    cold = residency is RouteResidency.ON_DEMAND and found is not Readiness.RESIDENT
    return PRIOR_COLD if cold else None


def worst(found: Iterable[Readiness]) -> Readiness:
    """The farthest from serving of the replicas that report; UNKNOWN if none does."""
    reported = [one for one in found if one is not Readiness.UNKNOWN]
    return min(reported, key=_NEAREST_LAST.index, default=Readiness.UNKNOWN)


def worst_first(behind: Iterable[ReplicaReadiness]) -> tuple[ReplicaReadiness, ...]:
    """Sorts replicas: those without an engine, then the farthest from serving, then the slowest or unmeasured."""
    return tuple(
        sorted(
            behind,
            key=lambda one: (
                one.engine,
                _NEAREST_LAST.index(one.readiness),
                -(one.seconds if one.seconds is not None else float("inf")),
                one.replica,
            ),
        )
    )


def wait(
    behind: Iterable[ReplicaReadiness], first_token: Callable[[str], float | None] = lambda replica: 0.0
) -> float | None:
    """Seconds until the slowest replica could answer, of those that report and have an engine for the release.

    None if there is nothing to wait for, or one of them has not measured it.

    Args:
        first_token: seconds from a replica's admitting a request to its first token, to be added; None: not measured.
    """
    late = [one for one in behind if one.engine and one.readiness is not Readiness.UNKNOWN]
    times = [
        one.seconds + first
        for one in late
        if one.seconds is not None and (first := first_token(one.replica)) is not None
    ]
    return max(times) if times and len(times) == len(late) else None
