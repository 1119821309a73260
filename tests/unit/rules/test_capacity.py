"""Who would be colder for a promote or for new customers, and whether it fits at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.rules.test_residency import at

from loradeck.rules.serving.capacity import Holding, cold, first_residency, lacking, outlook, resident
from loradeck.schemas.table import RouteResidency, TableEntry

DAY_MS = 24 * 3600 * 1000


def asked(tenant: str, current: str = "v1", *beneath: str) -> TableEntry:
    """An entry on demand that moved long ago."""
    return at(tenant, current, *beneath).model_copy(update={"residency": RouteResidency.ON_DEMAND, "moved_ms": 0})


def key(tenant: str) -> tuple[str, str]:
    return (tenant, "production")


FOUR = tuple(asked(name) for name in ("a", "b", "c", "d"))
TRAFFIC = {key("a"): 40.0, key("b"): 30.0, key("c"): 20.0, key("d"): 10.0}


def test_the_routes_that_are_asked_for_least_have_no_slot() -> None:
    assert cold(Holding(slots=4, entries=FOUR), TRAFFIC, DAY_MS) == frozenset()
    assert cold(Holding(slots=3, entries=FOUR), TRAFFIC, DAY_MS) == {key("d")}
    assert cold(Holding(slots=3, entries=FOUR, new=2), TRAFFIC, DAY_MS) == {key("b"), key("c"), key("d")}
    base_alone = at("e", "v1", base="B2")
    assert cold(Holding(slots=0, base=base_alone.current.release.base, entries=FOUR), TRAFFIC, DAY_MS) == frozenset()  # type: ignore[union-attr]


def test_new_customers_fit_beside_what_gives_up_no_slot_and_who_pays_is_named_busiest_first() -> None:
    before = {"n1": Holding(slots=4, entries=FOUR)}
    after = {"n1": Holding(slots=4, entries=FOUR, new=2)}
    found = outlook(before, after, TRAFFIC, DAY_MS)
    assert (found.short, found.colder, found.warmer) == ((), (key("c"), key("d")), ())
    assert found.resident == (1.0, 0.7)
    assert outlook(before, {"n1": Holding(slots=4, entries=FOUR, new=5)}, TRAFFIC, DAY_MS).short == ("n1",)


def test_always_routes_need_a_slot_more_for_where_R_goes() -> None:
    always = (at("a", "v2", "v1"), at("b", "v2", "v1"))
    for slots, new, short in ((4, 0, 0), (3, 0, 1), (5, 1, 0), (5, 2, 1)):
        held = Holding(slots=slots, entries=always, new=new)
        assert len(lacking(held, cold(held, {}, DAY_MS))) == short
    elsewhere = Holding(slots=0, base="f" * 64, entries=always)
    assert not lacking(elsewhere, cold(elsewhere, {}, DAY_MS)), "they are of another base"


def test_what_was_over_committed_before_is_short_only_where_the_change_adds_to_it() -> None:
    always = (at("a", "v2", "v1"), at("b", "v2", "v1"))
    before = {"eu-1": Holding(slots=3, entries=always), "us-7": Holding(slots=3, entries=always)}
    assert outlook(before, before, {}, DAY_MS).short == ()
    after = before | {"eu-1": Holding(slots=3, entries=always, new=1)}
    assert outlook(before, after, {}, DAY_MS).short == ("eu-1",)
    promoted = {"eu-1": Holding(slots=3, entries=(at("b", "v3", "v2"), always[0]))}
    assert outlook(before, promoted, {}, DAY_MS).short == ("eu-1",), "where R goes at a has lost its slot"
    again = {"eu-1": Holding(slots=3, entries=(at("a", "v3", "v2"), always[1]))}
    assert outlook(before, again, {}, DAY_MS).short == (), "b lacks what it lacked before"


def test_one_more_node_is_compared_with_what_is_there() -> None:
    before = {"n1": Holding(slots=2, entries=FOUR)}
    after = {"n1": Holding(slots=2, entries=FOUR[:2]), "new": Holding(slots=2, entries=FOUR[2:])}
    found = outlook(before, after, TRAFFIC, DAY_MS)
    assert (found.colder, found.warmer, found.resident) == ((), (key("c"), key("d")), (0.7, 1.0))


def test_a_route_that_is_called_has_its_slot_or_it_is_short() -> None:
    fits = Holding(slots=2, entries=FOUR, called=(key("d"),))
    assert key("d") not in cold(fits, TRAFFIC, DAY_MS)
    full = Holding(slots=2, entries=(*FOUR, at("z", "v2", "v1")), called=(key("d"),))
    assert lacking(full, cold(full, TRAFFIC, DAY_MS)) == {key("d")}


def test_what_was_not_measured_is_not_a_share() -> None:
    held = {"n1": Holding(slots=1, entries=FOUR)}
    assert resident(held, {"n1": cold(held["n1"], {}, DAY_MS)}, {}) is None


@given(slots=st.integers(0, 6), new=st.integers(0, 6), counts=st.lists(st.floats(0, 100), min_size=4, max_size=4))
def test_whatever_is_new_nobody_gets_warmer_for_it(slots: int, new: int, counts: list[float]) -> None:
    traffic = {entry.key: n for entry, n in zip(FOUR, counts, strict=True)}
    before, after = (Holding(slots=slots, entries=FOUR, new=n) for n in (0, new))
    found = outlook({"n": before}, {"n": after}, traffic, DAY_MS)
    assert found.warmer == ()
    assert len(found.cold[1]["n"]) == min(4, max(0, 4 - slots + min(new, slots)))


def test_a_new_route_is_always_while_all_fit_and_on_demand_where_it_would_take_slots_that_others_share() -> None:
    always = [at(name, "v1") for name in ("e", "f", "g")]
    for slots, some, residency in (
        (2, [], "always"),
        (1, [], "on-demand"),
        (4, always[:1], "always"),
        (4, always[:2], "always"),  # they take every slot: on demand it would get none
        (5, always[:2], "on-demand"),
        (6, always[:2], "always"),
        (7, [*always[:2], *FOUR[:1]], "always"),
        (6, [*always[:2], *FOUR[:1]], "on-demand"),
        (4, [*always[:2], *FOUR[:1]], "on-demand"),  # `always` would turn out for good the one that is there
    ):
        assert first_residency(Holding(slots=slots, entries=some)) == residency, (slots, len(some))
    elsewhere = Holding(slots=2, base="f" * 64, entries=always)
    assert first_residency(elsewhere) == "always", "they are of another base"
