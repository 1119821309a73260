"""Who gets a candidate, over several routers and hubs: real switches, admissions, logs and tables of nodes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from nacl.signing import SigningKey
from scipy import stats
from tests.integration.router.running import release
from tests.unit.agent.router.test_switch import KEY, Node, at

from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.log.log import Log
from loradeck.hub.log.signing import Signing
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.log.takeover import Standby
from loradeck.rules.moves import candidate, tenants
from loradeck.rules.moves.draft import Actor, drafted, moved
from loradeck.rules.moves.rollback_target import NO_FACTS
from loradeck.schemas.candidate import Candidate
from loradeck.schemas.ids import Role
from loradeck.schemas.log import Draft, EventKind
from loradeck.schemas.moves import CandidateStartRequest, CandidateStepRequest
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import CohortUnit
from loradeck.store.sqlite import SqliteStore
from loradeck_agent.router.admission import Admitted, Caller

V1, V2 = release("v1"), release("v2")
KEYS = 100_000
ROUTERS = 5
PERSON = Actor(name="ann", role=Role.RELEASER)
SIGNER = SigningKey.generate()


class Active:
    """The active one of the hubs that share a database, as far as it tells routers who gets a candidate."""

    def __init__(self, database: Path) -> None:
        self.store = StoreThread(lambda: SqliteStore(database))
        lease = Standby(self.store, "hub", "", lambda: 0.0).take()
        self.log = Log(self.store, lease, SIGNER, clock=lambda: 0.0, timed=lambda _: None, lease_lost=lambda: None)
        catalogue = SimpleNamespace(ref={V1.id: V1, V2.id: V2}.get)
        facts = SimpleNamespace(of=lambda key: NO_FACTS, deprecated={})
        self.tables = NodeTables(catalogue, facts, Signing("log", {}, (), SIGNER))  # type: ignore[arg-type]

    async def commit(self, *drafts: Draft) -> None:
        await self.log.commit(list(drafts), f"key-{self.log.state.rev:08}")

    async def start(self) -> None:
        """Makes acme's route, with v1 live on it, and starts v2 as a candidate that nobody gets yet."""
        await self.commit(tenants.create(self.log.state.tenants, KEY[0], PERSON))
        config = RouteConfig()
        await self.commit(tenants.set_route(self.log.state.tenant(KEY[0]), KEY[1], config, PERSON, pointer=None))
        before = self.log.state.pointer(KEY)
        after = moved(before, release=V1.id)
        await self.commit(drafted(EventKind.PROMOTE, before, after, PERSON, reason=""))
        begun = Candidate(release=V2.id, generation=1, salt="a-salt-of-16-chr", unit=CohortUnit.USER)
        request = CandidateStartRequest(release=V2.id, expected_generation=1, idempotency_key="start-01")
        await self.commit(candidate.start(self.log.state.pointer(KEY), begun, request, PERSON, keys=KEYS))

    async def step(self, permille: int) -> None:
        pointer = self.log.state.pointer(KEY)
        assert pointer.candidate is not None
        request = CandidateStepRequest(
            permille=permille,
            expected_step=pointer.candidate.step,
            expected_generation=pointer.generation,
            idempotency_key="step-0001",
        )
        await self.commit(candidate.step(pointer, NO_FACTS, request, PERSON, keys=KEYS))

    def tell(self, node: Node) -> None:
        """Gives a router its table."""
        state = self.log.state
        self.tables.refresh(state.pointer(KEY), state.tenant(KEY[0]), state.rev, None)
        node.send(self.tables.entries[KEY], epoch=state.epoch, rev=state.rev)


def given(node: Node, user: str) -> bool:
    """Whether a user's request is admitted to the candidate."""
    caller = Caller(name=user, cohort=lambda _: user, repeats=False)
    admitted = node.admission.admit(KEY, "r", caller, streamed=False, passed_by=None)
    assert isinstance(admitted, Admitted)
    node.admission.left(admitted, 200, "answered")
    return admitted.row.release == V2.id


async def test_a_hundred_thousand_users_keep_their_arm_on_five_routers_as_it_grows_over_restarts_and_failovers(
    tmp_path: Path,
) -> None:
    nodes = [await Node(tmp_path / f"n{number}").started() for number in range(ROUTERS)]
    hub = Active(tmp_path / "hub.db")
    await hub.start()
    users, before, epochs = [f"user-{number}" for number in range(KEYS)], set[str](), set[int]()
    few = users[:50]
    for step, permille in enumerate((50, 200, 500)):
        if step:  # another hub takes over, and a router starts anew
            hub.store.close()
            hub = Active(tmp_path / "hub.db")
            nodes[step] = await nodes[step].restart()
            nodes[step].engines(at("e0", V1, V2))
            for node in nodes:
                hub.tell(node)
            assert [given(node, user) for node in nodes for user in few] == [user in before for user in few] * ROUTERS
        epochs.add(hub.log.state.epoch)
        await hub.step(permille)
        for node in nodes:
            node.engines(at("e0", V1, V2))
            hub.tell(node)
        # Each user comes to another router than at the share before.
        now = {user for number, user in enumerate(users) if given(nodes[(number + step) % ROUTERS], user)}
        low, high = stats.binom.interval(0.9999, KEYS, permille / 1000)
        assert low <= len(now) <= high
        assert now >= before, "nobody leaves the candidate while its share grows"
        assert [given(node, user) for node in nodes for user in few] == [user in now for user in few] * ROUTERS
        before = now
    assert len(epochs) == 3, "each step was another hub's"
    hub.store.close()
    for node in nodes:
        await node.close()
