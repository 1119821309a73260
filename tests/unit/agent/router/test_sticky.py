"""Who gets a candidate, over several routers: real switches and admissions, with tables on disk."""

from __future__ import annotations

from pathlib import Path

from scipy import stats
from tests.integration.router.running import entry, release
from tests.unit.agent.router.test_switch import KEY, Node, at

from loradeck.schemas.routing import CohortUnit
from loradeck.schemas.table import CandidateRef, TableEntry
from loradeck_agent.router.admission import Admitted, Caller

V1, V2 = release("v1"), release("v2")
KEYS = 100_000
ROUTERS = 5


def split(permille: int, step: int) -> TableEntry:
    candidate = CandidateRef(
        release=V2, generation=2, step=step, permille=permille, salt="a-salt-of-16-chr", unit=CohortUnit.USER
    )
    return entry(V1, 2, candidate=candidate, needs=("candidate",))


def given(node: Node, user: str) -> bool:
    """Whether a user's request is admitted to the candidate."""
    caller = Caller(name=user, cohort=lambda _: user, repeats=False)
    admitted = node.admission.admit(KEY, "r", caller, streamed=False, passed_by=None)
    assert isinstance(admitted, Admitted)
    node.admission.left(admitted, 200, "answered")
    return admitted.row.release == V2.id


async def test_a_hundred_thousand_users_keep_their_arm_on_five_routers_as_it_grows_and_over_restarts(
    tmp_path: Path,
) -> None:
    nodes = [await Node(tmp_path / f"n{number}").started() for number in range(ROUTERS)]
    for node in nodes:
        node.engines(at("e0", V1, V2))
        node.send(entry(V1))
    users, before = [f"user-{number}" for number in range(KEYS)], set[str]()
    for step, permille in enumerate((50, 200, 500)):
        for node in nodes:
            node.send(split(permille, step))
        if step:
            nodes[0] = await nodes[0].restart()
            nodes[0].engines(at("e0", V1, V2))
        # Each user comes to another router than at the share before.
        now = {user for number, user in enumerate(users) if given(nodes[(number + step) % ROUTERS], user)}
        low, high = stats.binom.interval(0.9999, KEYS, permille / 1000)
        assert low <= len(now) <= high
        assert now >= before, "nobody leaves the candidate while its share grows"
        assert [given(node, user) for node in nodes for user in users[:50]] == [u in now for u in users[:50]] * ROUTERS
        before = now
    for node in nodes:
        await node.close()
