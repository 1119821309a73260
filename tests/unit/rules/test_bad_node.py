"""When guard cordons a node, and everything by which it does not."""

from __future__ import annotations

import pytest

from loradeck.rules.quality.guard import Served, at_fault, why_no_cordon
from loradeck.rules.quality.health import Units

BAD, GOOD = (40, 100), (1, 200)
ELSEWHERE = {"n2": GOOD, "n3": GOOD}
LIMIT = 0.06
ACME, ZETA = Served("acme", BAD, ELSEWHERE, LIMIT), Served("zeta", BAD, ELSEWHERE, LIMIT)


def both(here: Units, elsewhere: dict[str, Units], limit: float = LIMIT) -> list[Served]:
    """A pointer of each of two tenants, alike."""
    return [Served(tenant, here, elsewhere, limit) for tenant in ("acme", "zeta")]


def test_a_node_that_is_bad_for_every_tenant_while_others_answer_well_is_at_fault() -> None:
    found = at_fault("bad", [ACME, ZETA, Served("quiet", (3, 10), ELSEWHERE, LIMIT)])
    assert found is not None
    assert (found.pointers, found.tenants, found.witnesses, found.here, found.elsewhere) == (
        2,
        2,
        2,
        (80, 200),
        (4, 800),
    )
    assert str(found) == "bad 40.0% of 200 there for 2 tenants, 0.5% of 800 on 2 other nodes"


@pytest.mark.parametrize(
    "served",
    [
        [],
        [ACME, ACME],  # one tenant's releases alone
        both(BAD, {"n2": GOOD}),  # one node's word against another's
        [ACME, ZETA, Served("fine", (1, 100), ELSEWHERE, LIMIT)],  # somebody is answered there as elsewhere
        [ACME, ZETA, Served("alike", BAD, {"n2": (80, 200), "n3": (80, 200)}, LIMIT)],  # that release is bad everywhere
        both(BAD, {}),  # nobody else serves them
        both((20, 40), ELSEWHERE),  # too few answers
        both(BAD, {"liar": (0, 100_000), "n2": BAD}),  # one says that it answers much and well; another is as bad
        both((1, 50), {"liar": (0, 100_000), "n2": (1, 50)}),
        both(BAD, {"liar": (0, 20_000), "n2": (0, 1)}),  # the second has hardly answered
        [*both(BAD, {"liar": GOOD, "n2": BAD})[:1], *both(BAD, {"liar": GOOD, "n3": BAD})[1:]],  # one for each release
        both(BAD, ELSEWHERE, limit=0.5),  # worse than elsewhere, and still within what guard leaves alone
    ],
)
def test_a_node_is_not_at_fault_where(served: list[Served]) -> None:
    assert at_fault("bad", served) is None


def test_guard_cordons_one_node_at_a_time_none_again_within_the_day_and_never_the_last_of_a_route() -> None:
    def why(settling: bool = False, cordoned: tuple[str, ...] = (), lately: bool = False, last_of: str = "") -> str:
        return why_no_cordon(settling=settling, cordoned=cordoned, lately=lately, last_of=last_of)

    assert why() == ""
    assert why(settling=True) == "the hub settles"
    assert why(cordoned=("n7",)) == "guard has cordoned n7, and nobody has let it in again"
    assert "within the day" in why(lately=True)
    assert why(last_of="acme/chat") == "it is the last node in use of acme/chat"
