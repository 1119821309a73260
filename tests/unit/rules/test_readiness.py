"""How near a release is on one replica, and what it would take there: only what was said and measured counts."""

from __future__ import annotations

import hashlib

import pytest

from loradeck.rules.serving import readiness
from loradeck.rules.serving.readiness import Wanted
from loradeck.schemas.link import Replica
from loradeck.schemas.manifest import Form
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.state import Readiness, ReplicaReadiness
from loradeck.schemas.table import RouteResidency

ID, ADAPTER = (hashlib.sha256(name.encode()).hexdigest() for name in ("release", "adapter"))
ADAPTED = Wanted(id=ID, form=Form.ADAPTER, adapter=ADAPTER)
UP, DOWN, STARTING, STOPPED = EngineState.UP, EngineState.DOWN, EngineState.STARTING, EngineState.STOPPED


def replica(state: EngineState, *loaded: str, **took: float) -> Replica:
    return Replica(replica="n1", state=state, loaded=loaded, **took)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "loaded", "stored", "near"),
    [
        (UP, (ID,), (ADAPTER,), Readiness.RESIDENT),
        (UP, (), (ADAPTER,), Readiness.WARM),
        (UP, (), (), Readiness.ABSENT),
        (STARTING, (), (ADAPTER,), Readiness.CACHED),
        (DOWN, (), (ADAPTER,), Readiness.CACHED),
        (STOPPED, (), (ADAPTER,), Readiness.CACHED),
        (DOWN, (ID,), (), Readiness.ABSENT),  # what was loaded when it ended is not loaded
    ],
)
def test_an_adapter_is_as_near_as_engine_and_disk_have_it(
    state: EngineState, loaded: tuple[str, ...], stored: tuple[str, ...], near: Readiness
) -> None:
    assert readiness.readiness(ADAPTED, replica(state, *loaded), stored) is near


@pytest.mark.parametrize("form", [Form.BASE, Form.MERGED])
def test_without_an_adapter_to_load_a_release_is_there_with_its_engine(form: Form) -> None:
    wanted = Wanted(id=ID, form=form, adapter=ADAPTER if form is Form.MERGED else None)
    assert readiness.readiness(wanted, replica(UP), ()) is Readiness.RESIDENT
    assert readiness.readiness(wanted, replica(STOPPED), ()) is Readiness.CACHED
    assert readiness.seconds(wanted, replica(STOPPED, start_s=40.0), ()) == 40.0
    assert readiness.seconds(wanted, replica(STOPPED, load_s=1.0), ()) is None


@pytest.mark.parametrize(
    ("state", "stored", "took", "seconds"),
    [
        (UP, True, {"load_s": 1.0, "start_s": 40.0, "fetch_s": 5.0}, 1.0),
        (UP, False, {"load_s": 1.0, "start_s": 40.0, "fetch_s": 5.0}, 6.0),
        (STOPPED, True, {"load_s": 1.0, "start_s": 40.0, "fetch_s": 5.0}, 41.0),
        (STOPPED, False, {"load_s": 1.0, "start_s": 40.0, "fetch_s": 5.0}, 46.0),
        (STOPPED, True, {"load_s": 1.0}, None),
        (UP, False, {"load_s": 1.0}, None),
        (UP, True, {}, None),
    ],
)
def test_the_missing_steps_add_up_and_one_that_was_not_timed_leaves_the_sum_unknown(
    state: EngineState, stored: bool, took: dict[str, float], seconds: float | None
) -> None:
    assert readiness.seconds(ADAPTED, replica(state, **took), (ADAPTER,) if stored else ()) == seconds


def late(name: str, near: Readiness, seconds: float | None = None, *, engine: bool = True) -> ReplicaReadiness:
    return ReplicaReadiness(node=name, replica=name, readiness=near, seconds=seconds, engine=engine)


def test_the_worst_is_of_those_that_are_heard_from() -> None:
    assert readiness.worst([Readiness.WARM, Readiness.UNKNOWN, Readiness.RESIDENT]) is Readiness.WARM
    assert readiness.worst([Readiness.CACHED, Readiness.ABSENT]) is Readiness.ABSENT
    assert readiness.worst([Readiness.UNKNOWN]) is Readiness.UNKNOWN
    assert readiness.worst([]) is Readiness.UNKNOWN


def test_the_slowest_is_waited_for_and_an_unknown_time_makes_the_whole_unknown() -> None:
    fast, slow = late("n1", Readiness.WARM, 1.0), late("n2", Readiness.CACHED, 41.0)
    assert readiness.wait([fast, slow]) == 41.0
    assert readiness.wait([fast, late("n3", Readiness.CACHED)]) is None
    assert readiness.wait([]) is None
    # One that is not heard from, or that has no engine for it, is not waited for: it may never come.
    assert readiness.wait([fast, late("n4", Readiness.UNKNOWN), late("n5", Readiness.ABSENT, engine=False)]) == 1.0


def test_those_without_an_engine_are_named_first_then_the_farthest_and_slowest() -> None:
    warm, cached, untimed = (
        late("n1", Readiness.WARM, 1.0),
        late("n2", Readiness.CACHED, 41.0),
        late("n3", Readiness.CACHED),
    )
    without = late("n9", Readiness.ABSENT, engine=False)
    assert readiness.worst_first([warm, cached, untimed, without]) == (without, untimed, cached, warm)


@pytest.mark.parametrize("found", Readiness)
def test_r_asks_about_a_cold_target_on_an_on_demand_route_alone(found: Readiness) -> None:
    assert readiness.cold_prior(RouteResidency.ALWAYS, found) is None
    assert (readiness.cold_prior(RouteResidency.ON_DEMAND, found) is None) == (found is Readiness.RESIDENT)
