"""Guard's moves are bounded by tenant, by node and by cause, and nobody uses up another's budget."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.quality.move_budgets import (
    MOST_AN_HOUR,
    MOST_BY_A_NODE,
    MOST_OF_A_CAUSE,
    GuardMove,
    cause_of,
    spent,
)

CAUSE = cause_of("bad", "f" * 64)
DUE = GuardMove("acme", "", CAUSE)


def by(n: int, *, node: str = "", cause: str = CAUSE, times: int = 1, name: str = "t") -> list[GuardMove]:
    """Moves of so many other tenants, each so often."""
    return [GuardMove(f"{name}{number}", node, cause) for number in range(n)] * times


def test_a_tenants_own_moves_spend_its_budget_whatever_their_cause() -> None:
    own = [GuardMove("acme", "n1", "errors"), *[GuardMove("acme")] * (MOST_AN_HOUR - 2)]
    assert spent(own, DUE) == ""
    assert spent([*own, DUE], DUE) == "guard has moved 3 pointers of acme within the hour"


def test_moves_by_one_nodes_word_spend_that_nodes_budget_by_tenant() -> None:
    there = by(MOST_BY_A_NODE, node="n9", cause="errors")
    alone = DUE._replace(node="n9")
    assert spent(there, alone) == "guard has moved pointers of 3 other tenants by the word of n9 within the hour"
    assert spent(there, DUE) == spent(there, DUE._replace(node="n1")) == ""
    assert spent(by(MOST_BY_A_NODE - 1, node="n9", times=MOST_AN_HOUR), alone) == ""


def test_moves_of_many_tenants_for_one_cause_spend_its_budget() -> None:
    many = by(MOST_OF_A_CAUSE)
    assert spent(many, DUE) == (
        "guard has moved pointers of 10 other tenants for bad answers on base ffffffffffff within the hour"
    )
    assert spent(many[1:] * 3, DUE) == ""
    assert spent(many, DUE._replace(cause=cause_of("errors", "f" * 64))) == ""
    assert spent(many, DUE._replace(cause=cause_of("bad", "e" * 64))) == ""


def test_moves_that_one_node_vouches_for_spend_no_budget_of_a_cause() -> None:
    lies = by(5 * MOST_OF_A_CAUSE, node="n9", name="of9-")
    assert spent(lies + by(MOST_OF_A_CAUSE - 1, node="n1"), DUE) == ""
    assert spent(lies + by(MOST_OF_A_CAUSE - 1), DUE) == ""
    assert spent(lies + by(MOST_OF_A_CAUSE), DUE) != ""
    many_nodes = [move for node in range(5) for move in by(MOST_BY_A_NODE, node=f"n{node}", name=f"of{node}-")]
    assert spent(many_nodes, DUE) != "", "guard itself may be wrong on each of them"


moves = st.builds(
    GuardMove, st.sampled_from([f"t{n}" for n in range(14)]), st.sampled_from(["", "n1", "n2"]), st.just(CAUSE)
)


@given(st.lists(moves, max_size=60), st.integers(1, 200), st.sampled_from(["n1", "n2"]))
def test_no_node_holds_another_nodes_tenants_back_and_no_tenant_another(
    made: list[GuardMove], n: int, liar: str
) -> None:
    """A node takes at most MOST_BY_A_NODE of a cause's budget, and a tenant one, however often guard moves them."""
    for due in (GuardMove("acme", node, CAUSE) for node in {"", "n1", "n2"} - {liar}):
        honest = [move for move in made if move.node != liar]
        if spent([*honest, *by(MOST_BY_A_NODE, name="room")], due) == "":
            assert spent([*honest, *by(n, node=liar, name="of-the-liar")], due) == ""
        if spent([*made, GuardMove("beta", "", CAUSE)], due) == "":
            repeated = [GuardMove("beta", "", cause) for _, cause in product(range(n), (CAUSE, "errors"))]
            assert spent([*made, *repeated], due) == ""
