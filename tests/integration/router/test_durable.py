"""What survives: kill -9 at any moment, full disks, failing fdatasync, a second router."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.compiler import shared_library
from tests.fleets.waiting import PATIENCE_S, until
from tests.integration.router.running import Running, pin, release
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

from loradeck.schemas.table import Gap
from loradeck_agent.router.table import Change, Table

RELEASES = [release(f"v{n}") for n in range(60)]
V1, V2, V3 = RELEASES[1:4]
HERE = Path(__file__).parent


async def takes_connections(router: Running) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", router.port)
    except ConnectionError:
        return False
    writer.close()
    return True


async def generation(router: Running) -> int:
    """Its only entry's generation; 0 where it was killed before any was durable."""
    found: int = sum(held["generation"] for held in (await router.get("/control/state"))["entries"])
    return found


@pytest.fixture(scope="session")
def interposed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fdatasync.c, compiled."""
    return shared_library(HERE / "fdatasync.c", tmp_path_factory.mktemp("fdatasync") / "fdatasync.so")


@pytest.fixture
async def faulty(stopped: Running, engine: Upstream, interposed: Path, folder: Path) -> tuple[Running, Path]:
    """A router at generation 1 whose fdatasync does what the returned file says."""
    mode = folder / "mode"
    await stopped.start({"LD_PRELOAD": str(interposed), "FDATASYNC_MODE": str(mode)})
    await stopped.engines(("e0", engine.socket, [V1, V2, V3]))
    await stopped.table(entry(V1))
    return stopped, mode


# ---- restarts --------------------------------------------------------------------------------------------------


async def test_a_killed_router_serves_alone_from_its_table_and_marks_its_answers(
    process: Running, engine: Upstream
) -> None:
    await process.post("/control/hub", {"connected": True})
    await process.engines(("e0", engine.socket, [V1, V2]))
    await process.table(entry(V1))
    await process.table(entry(V2, 2))
    before = await process.get("/control/state")
    await process.kill()
    await process.start()
    answer = await process.ask()
    assert answer.text == f"e0:{V2.engine_name}"
    assert float(answer.headers["x-loradeck-stale"]) >= 0
    after = await process.get("/control/state")
    assert after["boot"] != before["boot"]
    assert {**after, "boot": 0, "pid": 0} == {**before, "boot": 0, "pid": 0}
    await process.post("/control/hub", {"connected": True})
    assert "x-loradeck-stale" not in (await process.ask()).headers


async def test_a_router_alone_counts_the_hubs_absence_from_before_it_was_started(
    process: Running, engine: Upstream
) -> None:
    await process.post("/control/hub", {"connected": True})
    await process.engines(("e0", engine.socket, [V1]))
    await process.table(entry(V1), entry(V1, route="staging", refuse_after_s=60))
    assert (await process.ask("acme/staging")).status == 200
    await process.kill()
    hour_ago = time.time() - 3600
    os.utime(process.state / "table.jsonl", (hour_ago, hour_ago))
    await process.start()
    assert 3600 <= float((await process.ask()).headers["x-loradeck-stale"]) < 3700
    assert (await process.ask("acme/staging")).code == "hub_lost"
    await process.post("/control/hub", {"connected": True})
    assert (await process.ask("acme/staging")).status == 200


async def test_a_gap_is_still_a_gap_after_a_restart(process: Running, engine: Upstream) -> None:
    await process.engines(("e0", engine.socket, [V1]))
    await process.table(entry(V1))
    await process.table(entry(V2, 2))
    await process.kill()
    await process.start()
    answer = await process.ask()
    assert (answer.text, answer.headers["x-loradeck-generation"]) == (f"e0:{V1.engine_name}", "1")
    acks = await process.engines(("e0", engine.socket, [V1, V2]))
    assert [(a["state"], a["generation"]) for a in acks] == [("flipped", 2)]


async def test_the_left_release_does_not_come_back_with_a_restart(process: Running, engine: Upstream) -> None:
    await process.engines(("e0", engine.socket, [V1, V2]))
    await process.table(entry(V1, gap=Gap.LEFT))
    await process.table(entry(V2, 2, gap=Gap.LEFT))
    await process.kill()
    await process.start()
    await process.engines(("e0", engine.socket, [V1]))  # the engine was started again too, and lost V2
    assert (await process.ask()).code == "not_ready"


async def test_a_pin_survives_a_restart(process: Running, engine: Upstream) -> None:
    await process.engines(("e0", engine.socket, [V1, V2]))
    await process.table(entry(V1))
    await process.post("/control/pin", pin(V2).model_dump(mode="json"))
    await process.kill()
    await process.start()
    assert [p["reason"] for p in (await process.get("/control/state"))["pins"]] == ["test"]
    assert (await process.ask()).text == f"e0:{V2.engine_name}"


async def test_sigterm_finishes_answers_under_way_and_leaves_with_0(process: Running, engine: Upstream) -> None:
    await process.engines(("e0", engine.socket, [V1]))
    await process.table(entry(V1))
    engine.going.clear()
    stream, whole = asyncio.create_task(process.ask(stream=True, events=8)), asyncio.create_task(process.ask())
    await until(lambda: len(engine.seen) == 2)
    assert process.process is not None
    process.process.terminate()
    async with asyncio.timeout(PATIENCE_S):
        while await takes_connections(process):
            pass
    engine.going.set()
    assert (await stream).text == (await whole).text == f"e0:{V1.engine_name}"
    assert await process.process.wait() == 0
    await process.hang_up()
    with pytest.raises(aiohttp.ClientConnectionError):
        await process.ask()


async def test_a_second_router_on_the_same_folder_is_refused(process: Running, engine: Upstream, folder: Path) -> None:
    await process.engines(("e0", engine.socket, [V1]))
    await process.table(entry(V1))
    second = Running(folder)
    second.errors = folder / "second.err"
    await second.spawn()
    assert second.process is not None
    assert await second.process.wait() == 1
    assert "router_running" in second.errors.read_text()
    assert (await process.ask()).status == 200


# ---- kill -9 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "held"), [("after", 2), ("before", None)])
async def test_killed_between_append_and_swap_it_restarts_with_the_newest_durable_entry(
    faulty: tuple[Running, Path], mode: str, held: int | None
) -> None:
    router, file = faulty
    file.write_text(mode)
    with pytest.raises(aiohttp.ClientError):
        await router.table(entry(V2, 2))
    file.unlink()
    assert router.process is not None
    assert await router.process.wait() == -9
    await router.hang_up()
    await router.start()
    now = await generation(router)
    assert now == held if held is not None else now in (1, 2)  # unsynced, but this machine did not lose power
    assert (await router.ask()).text == f"e0:{RELEASES[now].engine_name}"
    assert [a["state"] for a in await router.table(entry(V3, 3))] == ["flipped"]


async def test_killed_at_random_moments_no_acknowledged_flip_is_lost(stopped: Running, engine: Upstream) -> None:
    """Six rounds: flips as fast as they go, kill -9 somewhere in them, start again alone."""
    acked = sent = 0
    for _ in range(6):
        await stopped.start()
        if sent == 0:
            await stopped.engines(("e0", engine.socket, RELEASES))
        found = await generation(stopped) if sent else 0
        assert acked <= found <= sent
        if found:
            assert (await stopped.ask()).text == f"e0:{RELEASES[found % 60].engine_name}"
        killer = asyncio.create_task(_kill_after(stopped, begun := asyncio.Event(), random.uniform(0.0, 0.02)))
        enough = acked + random.randint(4, 12)
        sent = max(sent, found)
        try:
            while True:
                sent += 1
                (ack,) = await stopped.table(entry(RELEASES[sent % 60], sent))
                assert ack["state"] == "flipped"
                acked = sent
                if acked >= enough:
                    begun.set()
        except aiohttp.ClientError:
            await killer
        await stopped.hang_up()
    assert acked > 20


async def _kill_after(router: Running, begun: asyncio.Event, seconds: float) -> None:
    await begun.wait()
    await asyncio.sleep(seconds)  # a moment, not a synchronisation: any moment must do
    assert router.process is not None
    router.process.kill()
    await router.process.wait()


# ---- the disk --------------------------------------------------------------------------------------------------


async def _refused_by_the_disk(router: Running, code: str, before: dict[str, Any]) -> None:
    acks = await router.table(entry(V2, 2))
    assert [(a["state"], a["code"], a["generation"]) for a in acks] == [("failed", code, 2)]
    assert (await router.ask()).text == f"e0:{V1.engine_name}"
    status, problem = await router.call("/control/pin", pin(V3).model_dump(mode="json"))
    assert (status, problem["code"]) == (507, code)
    assert await router.get("/control/state") == before


async def test_a_failed_fdatasync_is_acknowledged_as_failed_and_the_old_table_serves_on(
    faulty: tuple[Running, Path],
) -> None:
    router, file = faulty
    before = await router.get("/control/state")
    size = (router.state / "table.jsonl").stat().st_size
    file.write_text("error")
    await _refused_by_the_disk(router, "table_write_failed", before)
    assert (router.state / "table.jsonl").stat().st_size == size
    file.unlink()
    assert [a["state"] for a in await router.table(entry(V2, 2))] == ["flipped"]
    assert (await router.ask()).text == f"e0:{V2.engine_name}"
    await router.kill()
    await router.start()
    assert await generation(router) == 2


async def test_a_flip_that_the_disk_refused_is_made_with_the_next_word_of_the_engines(
    faulty: tuple[Running, Path], engine: Upstream
) -> None:
    router, file = faulty
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V2, 2))
    file.write_text("error")
    acks = await router.engines(("e0", engine.socket, [V1, V2]))
    assert [(a["state"], a["code"]) for a in acks] == [("failed", "table_write_failed")]
    assert (await router.ask()).text == f"e0:{V1.engine_name}"
    file.unlink()
    acks = await router.engines(("e0", engine.socket, [V1, V2]))
    assert [(a["state"], a["generation"]) for a in acks] == [("flipped", 2)]
    assert (await router.ask()).text == f"e0:{V2.engine_name}"


async def test_a_full_disk_is_acknowledged_as_failed_and_the_old_table_serves_on(
    process: Running, engine: Upstream
) -> None:
    """A limit on the file's size stands for the full disk: the write comes back short, then fails."""
    await process.engines(("e0", engine.socket, [V1, V2, V3]))
    await process.table(entry(V1))
    before = await process.get("/control/state")
    table = process.state / "table.jsonl"
    size = table.stat().st_size
    assert process.process is not None
    unlimited = resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, (size + 100, unlimited[1]))
    await _refused_by_the_disk(process, "disk_full", before)
    assert table.stat().st_size == size
    resource.prlimit(process.process.pid, resource.RLIMIT_FSIZE, unlimited)
    assert [a["state"] for a in await process.table(entry(V2, 2))] == ["flipped"]
    await process.kill()
    await process.start()
    assert await generation(process) == 2


async def test_a_damaged_table_keeps_the_router_from_starting_and_says_what_to_do(stopped: Running) -> None:
    stopped.state.mkdir(mode=0o700)
    table = Table(stopped.state)
    table.append(Change(at_ms=1, entries=(entry(V1),)))
    table.close()
    path = stopped.state / "table.jsonl"
    path.write_bytes(b"garbage\n" + path.read_bytes())
    await stopped.spawn()
    assert stopped.process is not None
    assert await stopped.process.wait() == 1
    said = stopped.errors.read_text()
    assert "table_corrupt" in said
    assert "Traceback" not in said


async def test_a_port_that_is_taken_is_said_and_the_folder_given_back(process: Running, folder: Path) -> None:
    second = Running(folder / "second")
    second.port = process.port
    second.state.parent.mkdir()
    await second.spawn()
    assert second.process is not None
    assert await second.process.wait() == 1
    said = second.errors.read_text()
    assert "address already in use" in said.lower()
    assert "Traceback" not in said
    assert "Unclosed" not in said
    Table(second.state).close()


async def test_a_listener_beyond_loopback_needs_tls(stopped: Running) -> None:
    made = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "loradeck_agent.router",
        "--state",
        str(stopped.state),
        "--listen",
        "0.0.0.0:1",
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await made.communicate()
    assert made.returncode == 2
    assert b"--tls-cert" in said
