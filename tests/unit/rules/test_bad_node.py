"""When guard cordons a node, and everything by which it does not."""

from __future__ import annotations

import pytest

from loradeck.rules.quality.bad_node import Served, at_fault, why_not

BAD, GOOD = (40, 100), (1, 200)
ELSEWHERE = {"n2": GOOD, "n3": GOOD}
ACME, ZETA = Served("acme", BAD, ELSEWHERE), Served("zeta", BAD, ELSEWHERE)


def test_a_node_that_is_bad_for_every_tenant_while_others_answer_well_is_at_fault() -> None:
    found = at_fault("bad", [ACME, ZETA, Served("quiet", (3, 10), ELSEWHERE)])
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
        [Served("acme", BAD, {"n2": GOOD}), Served("zeta", BAD, {"n2": GOOD})],  # one node's word against another's
        [ACME, ZETA, Served("fine", (1, 100), ELSEWHERE)],  # somebody is answered there as elsewhere
        [ACME, ZETA, Served("alike", BAD, {"n2": (80, 200), "n3": (80, 200)})],  # that release is bad everywhere
        [Served("acme", BAD, {}), Served("zeta", BAD, {})],  # nobody else serves them
        [Served("acme", (20, 40), ELSEWHERE), Served("zeta", (20, 40), ELSEWHERE)],  # too few answers
    ],
)
def test_a_node_is_not_at_fault_where(served: list[Served]) -> None:
    assert at_fault("bad", served) is None


def test_guard_cordons_one_node_at_a_time_none_again_within_the_day_and_never_the_last_of_a_route() -> None:
    def why(settling: bool = False, cordoned: tuple[str, ...] = (), lately: bool = False, last_of: str = "") -> str:
        return why_not(settling=settling, cordoned=cordoned, lately=lately, last_of=last_of)

    assert why() == ""
    assert why(settling=True) == "the hub settles"
    assert why(cordoned=("n7",)) == "guard has cordoned n7, and nobody has let it in again"
    assert "within the day" in why(lately=True)
    assert why(last_of="acme/chat") == "it is the last node in use of acme/chat"
