"""Which engines run: what is live first, the engine that a move left for as long as it is held, memory permitting."""

from __future__ import annotations

import hashlib

import pytest

from loradeck.rules.serving.engines import Engine, to_run, wanted_bases
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry

DAY_S = 86_400.0
MOVED_MS = 1_000_000


def base(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def ref(label: str, on: str) -> ReleaseRef:
    made = Release(tenant="acme", form=Form.ADAPTER, base=base(on), adapter=base(f"adapter {label}"), label=label)
    return ReleaseRef(id=made.id, release=made, label=label)


def entry(
    current: ReleaseRef | None,
    *,
    route: str = "production",
    beneath: tuple[ReleaseRef, ...] = (),
    preparing: ReleaseRef | None = None,
    left: ReleaseRef | None = None,
) -> TableEntry:
    return TableEntry(
        tenant="acme",
        route=route,
        epoch=1,
        generation=1,
        current=current,
        beneath=beneath,
        preparing=preparing,
        left=left,
        moved_ms=MOVED_MS,
    )


def wanted(*entries: TableEntry, after_s: float = 0, **more: object) -> list[str]:
    names = {base(name): name for name in "ABCD"}
    found = wanted_bases(entries, now_ms=MOVED_MS + int(after_s * 1000), hold_prior_s=DAY_S, **more)  # type: ignore[arg-type]
    return [names[digest] for digest in found]


V1, X1, X2, Y1 = ref("v1", "A"), ref("x1", "B"), ref("x2", "B"), ref("y1", "C")


def test_the_engine_of_the_left_base_is_held_for_its_time_and_not_longer() -> None:
    moved = entry(X1, beneath=(V1,), left=V1)
    assert wanted(moved) == ["B", "A"]
    assert wanted(moved, after_s=DAY_S - 1) == ["B", "A"]
    assert wanted(moved, after_s=DAY_S) == ["B"]


def test_after_a_rollback_the_left_engine_is_held_though_it_is_no_way_back() -> None:
    back = entry(V1, left=X1)
    assert wanted(back, after_s=DAY_S - 1) == ["A", "B"]
    assert wanted(back, after_s=DAY_S) == ["A"]


def test_a_later_move_within_the_new_base_does_not_end_the_hold_of_the_left_one() -> None:
    assert wanted(entry(X2, beneath=(X1, V1), left=X1)) == ["B", "A"]


def test_live_comes_before_prepared_and_prepared_before_held() -> None:
    first = entry(X1, beneath=(V1,), left=V1, preparing=Y1)
    other = entry(ref("d1", "D"), route="staging")
    assert wanted(first, other) == ["B", "D", "C", "A"]


def test_a_pinned_release_is_live_however_long_ago_its_base_was_left() -> None:
    pin = Pin(tenant="acme", route="production", release=V1, over=(1, 1), actor="ann", reason="test", at_ms=1)
    assert wanted(entry(X1), after_s=9 * DAY_S, pins=(pin,)) == ["A", "B"]


def test_a_swap_puts_what_is_prepared_before_what_is_live_on_its_own_pointer_only() -> None:
    swapped = entry(V1, preparing=X1)
    assert wanted(swapped, swaps={("acme", "production")}) == ["B", "A"]
    other = entry(ref("v9", "A"), route="staging")
    assert wanted(other, swapped, swaps={("acme", "production")}) == ["A", "B"]
    assert wanted(swapped, swaps={("acme", "staging")}) == ["A", "B"]
    assert wanted(swapped, entry(ref("d1", "D"), route="staging"), swaps={("acme", "production")}) == ["B", "D", "A"]


def test_an_entry_of_a_hub_that_does_not_say_when_it_moved_holds_nothing() -> None:
    old = entry(X1, beneath=(V1,)).model_copy(update={"moved_ms": None})
    assert wanted(old) == ["B"]


def test_without_a_limit_all_that_are_wanted_run_beside_those_that_always_do() -> None:
    engines = [
        Engine(name="a", base=base("A")),
        Engine(name="b", base=base("B"), always=False),
        Engine(name="c", base=base("C"), always=False),
        Engine(name="unknown", base=None, always=False),
    ]
    assert to_run(engines, [base("B")], None) == {"a", "b"}
    assert to_run(engines, [], None) == {"a"}


@pytest.mark.parametrize(("memory", "runs"), [(100.0, {"a", "b", "c"}), (70.0, {"a", "b"}), (40.0, {"a", "c"})])
def test_memory_goes_to_the_first_that_still_fit(memory: float, runs: set[str]) -> None:
    engines = [
        Engine(name="a", base=base("A"), memory_gb=30),
        Engine(name="b", base=base("B"), always=False, memory_gb=40),
        Engine(name="c", base=base("C"), always=False, memory_gb=10),
    ]
    assert to_run(engines, [base("B"), base("C")], memory) == runs
