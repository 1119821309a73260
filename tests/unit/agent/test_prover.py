"""Which proofs wait for which."""

from __future__ import annotations

import asyncio
import itertools
import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.fakes.leaping_loop import LeapingLoop

from loradeck.rules.serving.proof import Judgement, Level
from loradeck.schemas.link import Ack
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import ReleaseRef, TableEntry
from loradeck_agent.serving import proof
from loradeck_agent.serving.proof import AT_ONCE, Prover
from loradeck_agent.uplink.desired_table import AckBoard, DesiredTable

HUNG, WELL = "gpu-01.e0", "gpu-01.e1"


def entry(tenant: str) -> TableEntry:
    release = Release(tenant=tenant, form=Form.BASE, base="b" * 64)
    ref = ReleaseRef(id=release.id, release=release)
    return TableEntry(tenant=tenant, route="production", epoch=1, generation=1, current=ref)


def engines(*names: str, boot: str = "e1") -> Any:
    return {name: SimpleNamespace(name=name, version=SimpleNamespace(boot=boot)) for name in names}


def flipped(at: TableEntry, replica: str) -> Ack:
    assert at.current is not None
    return Ack(
        tenant=at.tenant,
        route=at.route,
        epoch=at.epoch,
        generation=at.generation,
        release=at.current.id,
        replica=replica,
        state=AckState.FLIPPED,
        at_ms=0,
    )


async def test_an_engine_that_hangs_keeps_no_proof_of_another_engine_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """R on the tenants of the good one would stay unproven for as long as the other one is silent."""
    table = DesiredTable()
    proven = asyncio.Event()

    async def send(ack: Ack) -> bool:
        if (ack.replica, ack.state) == (WELL, AckState.PROVEN):
            proven.set()
        return True

    prover = Prover(
        table,
        engines(HUNG, WELL),
        cast(Any, None),
        cast(Any, None),
        AckBoard(send, frozenset({HUNG, WELL})),
    )

    async def prove(at: TableEntry, engine: Any) -> Judgement:
        if engine.name == HUNG:
            await asyncio.get_running_loop().create_future()
        return Judgement(level=Level.PROVEN)

    monkeypatch.setattr(prover, "_prove", prove)
    for number in range(2 * AT_ONCE):
        hung = entry(f"t{number}")
        table.entries[hung.key] = hung
        prover.flipped(flipped(hung, HUNG))
    await asyncio.sleep(0)
    well = entry("acme")
    table.entries[well.key] = well
    prover.flipped(flipped(well, WELL))
    async with asyncio.timeout(60):
        await proven.wait()
    await prover.close()


def test_each_pointer_is_proven_again_within_the_bound_however_many_a_node_has(monkeypatch: pytest.MonkeyPatch) -> None:
    pointers = 12
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        times = runner.run(proven_again(monkeypatch, pointers, rounds=3))
    gaps = [after - before for made in times.values() for before, after in itertools.pairwise(made)]
    assert max(gaps) <= 1.2 * proof.REPEAT_S + pointers * proof.PACE_S
    assert min(gaps) >= 0.8 * proof.REPEAT_S


async def proven_again(monkeypatch: pytest.MonkeyPatch, pointers: int, rounds: int) -> dict[str, list[float]]:
    """When each of so many pointers was proven, by the clock of the loop, until all were so many times again."""
    monkeypatch.setattr(proof, "PACE_SHARE", math.inf)  # what a proof takes here is no part of it
    table, loop = DesiredTable(), asyncio.get_running_loop()
    times: dict[str, list[float]] = {f"t{n}": [] for n in range(pointers)}
    done = asyncio.Event()

    async def send(ack: Ack) -> bool:
        times[ack.tenant].append(loop.time())
        if all(len(made) > rounds for made in times.values()):
            done.set()
        return True

    board = AckBoard(send, frozenset({WELL}))
    prover = Prover(table, engines(WELL), cast(Any, None), cast(Any, None), board)

    async def prove(at: TableEntry, engine: object) -> Judgement:
        return Judgement(level=Level.PROVEN)

    monkeypatch.setattr(prover, "_prove", prove)
    for tenant in times:
        at = entry(tenant)
        table.entries[at.key] = at
        prover.flipped(flipped(at, WELL))
    async with asyncio.timeout(10 * rounds * proof.REPEAT_S):
        await done.wait()
    await prover.close()
    return times


@pytest.mark.parametrize("what", ["loaded again", "moved", "engine restarted", "failed"])
async def test_only_what_was_proven_in_this_lifetime_waits_for_its_turn_when_it_is_loaded_again(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    acked, turned, go = asyncio.Queue[AckState](), asyncio.Event(), asyncio.Event()

    async def send(ack: Ack) -> bool:
        acked.put_nowait(ack.state)
        return True

    async def turn(replica: str) -> None:
        turned.set()
        await go.wait()

    levels = [Level.FAILED if what == "failed" else Level.PROVEN, Level.PROVEN]

    async def prove(at: TableEntry, engine: object) -> Judgement:
        return Judgement(level=levels.pop(0))

    table, at = DesiredTable(), entry("acme")
    prover = Prover(table, engines(WELL), cast(Any, None), cast(Any, None), AckBoard(send, frozenset({WELL})))
    monkeypatch.setattr(prover, "_prove", prove)
    monkeypatch.setattr(prover, "_turn", turn)
    table.entries[at.key] = at
    async with asyncio.timeout(60):
        prover.flipped(flipped(at, WELL))
        await acked.get()
        prover.flipped(flipped(at, WELL).model_copy(update={"code": "not_ready"}))  # its slot is needed
        if what == "moved":
            at = table.entries[at.key] = at.model_copy(update={"generation": 2})
        elif what == "engine restarted":
            prover.engines = engines(WELL, boot="e2")
        prover.flipped(flipped(at, WELL))
        if what == "loaded again":
            await turned.wait()
            assert levels, "callers come first"
            go.set()
        await acked.get()
    assert (turned.is_set(), levels) == (what == "loaded again", [])
    await prover.close()


async def test_repeated_proofs_take_a_tenth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    prover = Prover(DesiredTable(), {}, cast(Any, None), cast(Any, None), cast(Any, None))
    monkeypatch.setattr(proof.asyncio, "sleep", sleep)
    for took in (0.05, 0.5, 30.0):
        prover._took[WELL] = took
        await prover._turn(WELL)
    assert slept == [proof.PACE_S, 5.0, proof.REPEAT_S]
