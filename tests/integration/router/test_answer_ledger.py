"""What a router writes for the answer ledger of the requests that it answers."""

from __future__ import annotations

from pathlib import Path

from tests.fleets.waiting import until
from tests.integration.router.running import KEY, Running, entry, release
from tests.integration.router.upstream import Upstream

from loradeck.rules.serving.request_ids import time_of
from loradeck.schemas.answer_ledger import LedgerRow
from loradeck.schemas.table import ResponseChecks

V1 = release("v1")


def rows(state: Path) -> dict[str, LedgerRow]:
    lines = [line for path in (state / "ledger").glob("*") for line in path.read_text().splitlines()]
    found = [LedgerRow.model_validate_json(line.split("\t")[2]) for line in lines]
    return {row.request: row for row in found}


async def asked(router: Running, **more: object) -> str:
    """The id of one request."""
    body = {"model": "acme", "messages": [{"role": "user", "content": "secret words"}], **more}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with router.callers.post(f"{router.url}/v1/chat/completions", json=body, headers=headers) as answer:
        await answer.read()
        return answer.headers["x-request-id"]


async def test_every_answer_has_a_row_under_the_id_that_its_caller_got(process: Running, engine: Upstream) -> None:
    router = process
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1, generation=4, epoch=2, checks=ResponseChecks(min_chars=100)))
    whole = await asked(router, temperature=0.25, seed=7, user="u1", stop=["secret words"])
    streamed = await asked(router, stream=True, tools=[{"type": "function"}])
    refused = await asked(router, model="acme/unknown")
    await router.trace(2)

    assert await router.terminate() == 0

    found = rows(router.state)
    assert set(found) == {whole, streamed}
    assert refused not in found
    row = found[whole]
    assert (row.route, row.release, row.epoch, row.generation, row.replica) == ("production", V1.id, 2, 4, "e0")
    assert (row.status, row.streamed, row.checked, row.bad) == (200, False, True, True)
    assert row.parameters == {"temperature": 0.25, "seed": 7}
    assert found[streamed].streamed
    assert found[streamed].first_token_ms is not None
    assert found[streamed].parameters == {"tools": 1}
    said = time_of(whole)
    assert said is not None
    assert abs(said - row.admitted_ms) < 60_000
    (path,) = (router.state / "ledger").iterdir()
    assert path.suffix == ".rows"
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"secret words" not in path.read_bytes()


async def test_rows_are_on_the_disk_soon_so_that_a_killed_router_loses_few(process: Running, engine: Upstream) -> None:
    router = process
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1))
    request = await asked(router)

    await until(lambda: request in rows(router.state))
    await router.kill()

    (path,) = (router.state / "ledger").iterdir()
    assert path.suffix == ".open"
