"""What live releases share: rows, a recipe, a move to another base, a batch, a signer. And what that holds up."""

from dataclasses import replace

import pytest

from loradeck.rules.data.related import BATCH_MS, Member, freezes, shared
from loradeck.schemas.incident import Incident, IncidentPointer, Shared, Suspect
from loradeck.schemas.route import Guard

PROMOTE = Suspect(release="1" * 64, txn="a" * 32, by="ci-bot", promoted=True, at_ms=1_000_000)
LATER = PROMOTE.model_copy(update={"release": "3" * 64, "txn": "f" * 32, "at_ms": 1_000_000 + BATCH_MS})
ONE = Member(datasets=frozenset("ab"), recipe="r", base="B2", left_base="B1", brought=PROMOTE)
UNKNOWN = Suspect(release="2" * 64)
NOTHING = Member(datasets=frozenset("c"), recipe="s", base="B3", left_base="B3", brought=UNKNOWN)


@pytest.mark.parametrize(
    ("other", "ties"),
    [
        (NOTHING, []),
        (replace(NOTHING, datasets=frozenset("bc")), [(Shared.DATASET, "b")]),
        (replace(NOTHING, recipe="r"), [(Shared.RUN, "r")]),
        (replace(NOTHING, base="B2", left_base="B1"), [(Shared.BASE_MOVE, "B1 B2")]),
        (replace(NOTHING, base="B2", left_base="B2"), []),
        (replace(NOTHING, brought=LATER), [(Shared.BATCH, "ci-bot")]),
        (replace(NOTHING, brought=LATER.model_copy(update={"at_ms": (LATER.at_ms or 0) + 1})), []),
        (replace(NOTHING, brought=LATER.model_copy(update={"by": "op1"})), []),
        (replace(NOTHING, brought=LATER.model_copy(update={"promoted": False})), []),
        (
            replace(NOTHING, brought=PROMOTE.model_copy(update={"release": "3" * 64, "promoted": False, "by": "op1"})),
            [(Shared.BATCH, "ci-bot")],
        ),
    ],
)
def test_what_is_shared_is_named(other: Member, ties: list[tuple[Shared, str]]) -> None:
    assert shared(ONE, other) == ties


def test_the_same_release_on_another_route_is_related_and_held_up_though_nobody_knows_its_rows() -> None:
    imported = replace(NOTHING, datasets=frozenset(), recipe=None)
    assert shared(imported, imported) == [(Shared.RELEASE, "2" * 64)]
    assert freezes(("acme", "chat"), Guard.HOLD, imported, [(incident(), imported)]) == (incident(), Shared.RELEASE)


def test_releases_that_one_key_has_signed_share_it() -> None:
    one, other = replace(ONE, signers=frozenset("kl")), replace(NOTHING, signers=frozenset("lm"))
    assert shared(one, other) == [(Shared.SIGNER, "l")]


def incident(tenant: str = "acme", **update: object) -> Incident:
    at = IncidentPointer(tenant=tenant, route="production", suspect=PROMOTE, added_ms=1)
    made = Incident(id="inc-1", title="31 % bad", by="guard", opened_ms=1, guard=True, pointers=(at,))
    return made.model_copy(update=update)


BOLT = ("bolt", "production")
ALIKE = replace(NOTHING, recipe="r")


@pytest.mark.parametrize("guard", [Guard.HOLD, Guard.ROLLBACK])
def test_a_guarded_route_promotes_no_relative_of_what_a_guard_has_acted_on(guard: Guard) -> None:
    assert freezes(BOLT, guard, ALIKE, [(incident(), ONE)]) == (incident(), Shared.RUN)
    assert freezes(BOLT, guard, NOTHING, [(incident(), ONE)]) is None
    assert freezes(BOLT, guard, ALIKE, []) is None


@pytest.mark.parametrize("guard", [Guard.OFF, Guard.ALERT])
def test_a_route_whose_guard_does_nothing_is_held_up_by_nothing(guard: Guard) -> None:
    assert freezes(BOLT, guard, ALIKE, [(incident(), ONE)]) is None


def test_a_person_of_one_tenant_holds_up_none_of_another() -> None:
    by_a_person = incident(guard=False)
    assert freezes(BOLT, Guard.HOLD, ALIKE, [(by_a_person, ONE)]) is None
    assert freezes(("acme", "chat"), Guard.HOLD, ALIKE, [(by_a_person, ONE)]) == (by_a_person, Shared.RUN)


def test_what_mends_the_pointer_on_which_it_began_goes_forward() -> None:
    assert freezes(("acme", "production"), Guard.ROLLBACK, ALIKE, [(incident(), ONE)]) is None


def test_a_signer_alone_holds_up_nothing() -> None:
    one, other = replace(ONE, signers=frozenset("k")), replace(NOTHING, signers=frozenset("k"))
    assert freezes(BOLT, Guard.ROLLBACK, other, [(incident(), one)]) is None


def test_a_release_that_never_changed_its_base_shares_no_move() -> None:
    still = replace(ONE, left_base="B2")
    assert shared(still, replace(NOTHING, base="B2", left_base="B2")) == []
    assert shared(replace(ONE, recipe=None), replace(NOTHING, recipe=None)) == []
