"""A hub whose database was put back from an older copy, under agents and routers that have seen more."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes.word_model import reference_answers, write_adapter
from tests.fleets.processes.fleet import PROMPTS, TENANT, Material, fleet_at, lay, told
from tests.fleets.processes.served import answered_by, tables
from tests.fleets.waiting import PATIENCE_S

from incident.fleet import CommandFailed, Fleet, NotReady
from incident.incident import ROUTE, Cast, clear_the_way, promotion
from incident.traffic import Callers
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.audit import AuditVerdict
from loradeck.schemas.log import MOVES
from loradeck.schemas.moves import MoveResult, UndoRequest
from loradeck.schemas.state import TenantRow

PAGE = f"tenants/{TENANT}/routes/{ROUTE}"


def is_whole_but_for_lines_after_the_copy(verdict: AuditVerdict) -> bool:
    """Tells whether nothing of the log is broken, and of the trail at most what nodes signed after the copy was made.

    They sign once a minute, so that it is chance whether a node has signed a line that the copy lacks.
    """
    if verdict.ok:
        return True
    assert isinstance(verdict.broken, dict)
    return re.search(r"^the audit trail: .*signed (another|a) head of \d+ lines", verdict.broken["why"]) is not None


async def test_a_hub_restored_from_an_older_copy_refuses_moves_until_recover_and_never_pulls_a_router_back(
    material: Material, tmp_path: Path
) -> None:
    with fleet_at(material.base) as fleet:
        cast, withdrawn = await asyncio.to_thread(lay, fleet, material)
        v2, routers = cast.releases["v2"], {node.name: node.url for node in fleet.nodes}
        # Before the copy: v3 was bad and is put back.
        async with hub(fleet) as api:
            await promote(api, cast.releases["v3"])
            await roll_back(api)
        copy = fleet.root / "older.db"
        made = await asyncio.to_thread(fleet.cli, "hub", "backup", str(copy))

        # After it: a release and a caller's key that the copy has never heard of, and moves under a later epoch.
        cast = await import_v4(fleet, cast, material, tmp_path / "v4")
        v4 = cast.releases["v4"]
        prompts = cast.telling(v4, v2)[:4]
        key = await asyncio.to_thread(another_key, fleet)
        async with hub(fleet) as api:
            await promote(api, v4)
        await asyncio.to_thread(restart, fleet)
        async with hub(fleet) as api:
            forgotten = await roll_back(api)
            row = await settled(api, fleet)
            undo = UndoRequest(
                event=row.pointer.last_move, confirmed=True, idempotency_key=new_key(), reason="v4 was innocent"
            )
            await api.send(TENANT, ROUTE, undo, wait="proven", timeout=PATIENCE_S)
            newest = await settled(api, fleet)
        before = await tables(fleet)
        for table in before.values():
            assert table.admits_to == newest.pointer.release == v4
            assert table.entry.fence == (newest.epoch, newest.pointer.generation)

        async with (
            Callers(routers, {TENANT: key}, max_tokens=12) as callers,
            Callers(routers, {TENANT: withdrawn}, max_tokens=12) as former,
        ):
            callers.start({TENANT: prompts}, every_s=0.1)
            await asyncio.to_thread(fleet.stop_hub)
            put_back(fleet, copy)
            await asyncio.to_thread(fleet.start_hub)
            async with hub(fleet) as api:
                await until_refusing(api, fleet)
                stale = await api.row(TENANT, ROUTE)
                assert stale.pointer.release == v2, "the copy is older than what is served"
                assert stale.pointer.generation < newest.pointer.generation
                await until_later_epoch(api, newest.epoch)
                await every_move_is_refused(fleet, api, stale, cast)
                problem = await asyncio.to_thread(refused, fleet, "move", forgotten)
                assert problem["code"] == "log_behind", "what it has forgotten it must not call unsent"
                assert (await api.state()).status.rev == made["rev"], "nothing was appended"
                assert (await api.row(TENANT, ROUTE)).pointer == stale.pointer
            assert await tables(fleet) == before
            assert await answered_by(fleet, callers, prompts) == [v4] * 8

            words = ("hub", "recover", "--reason", "restored from last night's copy", "--yes")
            recovered = MoveResult.model_validate(await asyncio.to_thread(fleet.cli, *words))
            (event,) = [event for event in recovered.events if event.kind in MOVES]
            assert (event.kind, event.to_release, event.reason) == ("recover", v4, "restored from last night's copy")
            assert recovered.epoch > newest.epoch
            async with hub(fleet) as api:
                row = await settled(api, fleet)
                assert (await api.state()).status.waiting is None
                assert row.held_back == ()
                assert row.pointer.release == v4
                assert row.pointer.generation > newest.pointer.generation
                assert row.epoch > newest.epoch
                assert row.live is not None
                assert row.live.label == "v4"
                assert is_whole_but_for_lines_after_the_copy(await api.verify_audit())
            after = await tables(fleet)
            for table in after.values():
                assert table.admits_to == v4
                assert table.entry.fence == (row.epoch, row.pointer.generation)
                assert table.entry.keys == before["gpu-01"].entry.keys
            assert await answered_by(fleet, callers, prompts) == [v4] * 8
            refusal = await former.ask("gpu-01", TENANT, prompts[0])
            assert refusal.status == 401, "a key that was withdrawn in the lost part stays withdrawn"
            await callers.stop()
            assert len(callers.answers) > 20
            assert [answer for answer in callers.answers if answer.by != v4] == []

            # The next R is a move like any other.
            words = ("rollback", TENANT, "--yes", "--wait", "proven", "--timeout", "60")
            back = MoveResult.model_validate(await asyncio.to_thread(fleet.cli, *words))
            assert back.reached == "proven"
            async with hub(fleet) as api:
                row = await settled(api, fleet)
                assert row.pointer.release == back.events[0].to_release == v2
                assert row.pointer.generation == after["gpu-01"].entry.generation + 1
                assert (row.flipped, row.proven, row.placed) == (2, 2, 2)
                assert is_whole_but_for_lines_after_the_copy(await api.verify_audit())
            assert await answered_by(fleet, callers, prompts) == [v2] * 8


# ---- moves before the restore --------------------------------------------------------------------------------


def hub(fleet: Fleet) -> HubApi:
    return HubApi.to(Context(name="tests", socket=fleet.socket))


async def promote(api: HubApi, release: str) -> None:
    row = await clear_the_way(api, TENANT, release)
    await api.send(TENANT, ROUTE, promotion(row, release), wait="proven", timeout=PATIENCE_S)


async def roll_back(api: HubApi) -> str:
    """R, as the row's preview says; the key it was sent under."""
    preview = (await api.row(TENANT, ROUTE)).preview
    request = rollback_request(preview, key=new_key(), reason="bad answers")
    await api.send(TENANT, ROUTE, request, wait="proven", timeout=PATIENCE_S)
    return request.idempotency_key


async def import_v4(fleet: Fleet, cast: Cast, material: Material, folder: Path) -> Cast:
    """A fourth adapter, registered now; what it answers is taken from the bare libraries."""

    def work() -> tuple[str, list[str]]:
        write_adapter(folder, material.base, seed=4)
        (base,) = fleet.cli("base", "ls")
        words = ("--tenant", TENANT, "--name", "words", "--base", base["digest"], "--why", "tests")
        version = fleet.cli("adapter", "import", str(folder), *words)
        return version["release"], reference_answers(material.base, [folder], PROMPTS)[0]

    release, answers = await asyncio.to_thread(work)
    prompts = [
        replace(prompt, answers={**prompt.answers, release: answer})
        for prompt, answer in zip(cast.prompts, answers, strict=True)
    ]
    return replace(cast, releases={**cast.releases, "v4": release}, prompts=prompts)


def another_key(fleet: Fleet) -> str:
    """A caller's key in place of the one there was."""
    (old,) = fleet.cli("tenant", "show", TENANT)["keys"]
    key: str = fleet.cli("tenant", "key", "create", TENANT)["key"]
    fleet.cli("tenant", "key", "withdraw", TENANT, old["id"], "--yes")
    return key


async def settled(api: HubApi, fleet: Fleet) -> TenantRow:
    """The row, once every replica is proven on its generation and that is attested."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        row = await api.row(TENANT, ROUTE)
        if row.settled and row.attested and row.proven == row.placed == len(fleet.nodes):
            return row
        assert time.monotonic() < deadline, f"not settled: {row}\n{told(fleet)}"
        await asyncio.sleep(0.05)


# ---- the restore ---------------------------------------------------------------------------------------------


def restart(fleet: Fleet) -> None:
    fleet.stop_hub()
    fleet.start_hub()
    fleet.wait_until_up()


def put_back(fleet: Fleet, copy: Path) -> None:
    """As the runbook says: the hub is down, its database is replaced."""
    for left in fleet.data.glob("hub.db*"):
        if left.suffix != ".lock":
            left.unlink()
    shutil.copy(copy, fleet.data / "hub.db")


async def until_refusing(api: HubApi, fleet: Fleet) -> None:
    """Until both nodes have said what they have seen."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        state = await api.state()
        if state.status.waiting and state.tenants[0].held_back == ("gpu-01", "gpu-02"):
            assert (state.status.refusing, state.status.waiting) == (None, "log_behind")
            assert [node.behind for node in state.nodes if node.linked] == ["log_behind"] * 2
            return
        if time.monotonic() > deadline:
            raise NotReady(f"not behind: {state.status} {state.nodes}\n{told(fleet)}")
        await asyncio.sleep(0.05)


async def every_move_is_refused(fleet: Fleet, api: HubApi, row: TenantRow, cast: Cast) -> None:
    """By the command and its exit status, and by the hub itself."""
    problem = await asyncio.to_thread(refused, fleet, "rollback", TENANT, "--yes")
    assert (problem["code"], problem["fix"]) == ("log_behind", "loradeck hub recover, on the hub's host")
    for words in (
        ("promote", TENANT, "v1", "--yes"),
        ("undo", TENANT, "--yes"),
        ("release-hold", TENANT, "--yes"),
        ("tenant", "create", "bolt"),
    ):
        problem = await asyncio.to_thread(refused, fleet, *words)
        assert problem["code"] == "log_behind", problem
        assert problem["status"] == 503
        assert problem["detail"] == "ahead of it: gpu-01, gpu-02"
        assert problem["fix"] == "loradeck hub recover, on the hub's host"

    generation, last = row.pointer.generation, row.pointer.last_move
    seen = {"expected_generation": generation}
    assert row.preview.target is not None
    bodies: dict[str, dict[str, Any]] = {
        f"{PAGE}/rollback": {**seen, "to": row.preview.target.id, "confirmed": True},
        f"{PAGE}/promote": {**seen, "release": cast.releases["v1"]},
        f"{PAGE}/fallback": seen,
        f"{PAGE}/undo": {"event": last, "confirmed": True},
        f"{PAGE}/hold": {**seen, "held": False},
        f"{PAGE}/lift": {"release": cast.releases["v3"], "reason": "innocent"},
        "undo": {"event": last, "confirmed": True},
    }
    transport = httpx.AsyncHTTPTransport(uds=str(fleet.socket), verify=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://hub/v1/", timeout=PATIENCE_S) as client:
        for path, body in bodies.items():
            answer = await client.post(path, json={**body, "idempotency_key": new_key()})
            assert (answer.status_code, answer.json()["code"]) == (503, "log_behind"), (path, answer.text)
        for path in (f"tenants/{TENANT}/suspend", f"tenants/{TENANT}/keys"):
            answer = await client.post(path)
            assert (answer.status_code, answer.json()["code"]) == (503, "log_behind"), (path, answer.text)
        ready = await client.get("http://hub/readyz")
        assert (ready.status_code, ready.json()["waiting"]) == (200, "log_behind")


def refused(fleet: Fleet, *words: str) -> dict[str, Any]:
    """The problem of a command that a rule stands against: exit 1."""
    with pytest.raises(CommandFailed) as failed:
        fleet.cli(*words)
    assert failed.value.status == 1, failed.value
    problem: dict[str, Any] = json.loads(failed.value.error)
    return problem


async def until_later_epoch(api: HubApi, epoch: int) -> None:
    """Until the hub has begun an epoch above `epoch`, as it does by itself once a node has proven what it has seen."""
    deadline = time.monotonic() + PATIENCE_S
    while (status := (await api.state()).status).epoch <= epoch:
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.05)
