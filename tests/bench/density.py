"""A thousand tenants on one engine with 8 device and 128 host slots, beside plain vLLM's own paging, on the real model.

Each tenant has an adapter of rank 8 of random numbers, so that its tokens tell it apart; half of them have a release
beneath, 50 of these have moved within the day. Eight callers ask one request after the other, streamed, by Zipf's law
(s = 1) and uniformly, the same seeded sequence on each side, in turns: plain vLLM pages its 1,000 listed adapters by
itself, and ours is a hub, an agent and its router before a vLLM of the same settings with the plugin. `hot`: the eight
most asked tenants; `cold`: the tenant is not among the 128 that were answered last, which are what a plain vLLM holds.
Before, each tenant that later turns name is asked once, and plain vLLM for all of them, whose tokens are compared with.
All of it in float32 on CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from tests import vllm_server
from tests.bench import density_hint
from tests.bench.density_material import RANK, Material
from tests.bench.rows import Row, quantile
from tests.vllm.attached import VllmFleet

from base_model import ensure_base
from incident.fleet import Fleet, Node
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.moves import RewindRequest
from loradeck.testing.simulated_fleet import ROUTE

TENANTS, DEVICE = 1000, 8
CALLERS, TOKENS, SEED = 8, 6, 15
SECONDS, ROUNDS = 30.0, 3
"""Of one turn of one side; how many turns each has under Zipf's law. Uniformly it has one."""

ONCE = "each tenant once"
"""The first turn: ours has each release answer its canary then, which it does once in an engine's lifetime."""

DRAWN = 8
"""More requests a second than either side answers: so many draws of a turn name its tenants."""

COLD_LOADS, STREAMED = 100, 64
PROMPT = [{"role": "user", "content": "Where is my order?"}]
PATIENCE_S = 120.0


def measure(
    *,
    tenants: int = TENANTS,
    seconds: float = SECONDS,
    rounds: int = ROUNDS,
    loads: int = COLD_LOADS,
    only: str | None = None,
) -> list[Row]:
    """About a quarter of an hour on two free cores; needs the environment of `make test-vllm`.

    `only`: the name of one of its parts, which is measured anew. Those on the embedded engine alone need no vLLM.
    """
    assert vllm_server.PYTHON or only in ("embedded", "hint"), (
        "LORADECK_VLLM_PYTHON is not set; `make bench-density` sets it"
    )
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    material = Material.make(ensure_base(), tenants)
    parts: dict[str, Callable[[], list[Row]]] = {
        "vllm": lambda: _beside_paging(material, seconds, rounds, loads),
        "resident": lambda: _resident(material, seconds),
        "resolver": lambda: _resolver(material, seconds),
        "embedded": lambda: _embedded(material, seconds),
        "hint": lambda: _hint(material),
    }
    if only is not None:
        return parts[only]()
    return list(_resumed(parts, {"tenants": tenants, "seconds": seconds, "rounds": rounds, "commit": _commit()}))


def _commit() -> str:
    words = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def _resumed(parts: dict[str, Callable[[], list[Row]]], run: dict[str, Any]) -> Iterator[Row]:
    """The rows of all parts. A run that was broken off goes on with the part that it was at."""
    kept = Path(".bench-density.json")
    found = json.loads(kept.read_text()) if kept.exists() else {}
    done = found["parts"] if found.get("run") == run else {}
    for name, part in parts.items():
        if name not in done:
            rows = part()
            done[name] = [row.__dict__ for row in rows]
            kept.write_text(json.dumps({"run": run, "parts": done}))
        yield from (Row(**row) for row in done[name])
    kept.unlink()


# ---- traffic -----------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What callers of one side have seen: of each request the tenant, seconds to its first token, and its text."""

    answers: list[tuple[int, float, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    took: float = 0.0
    cold: list[float] = field(default_factory=list)
    whole: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})
    """Seconds that requests took to their last token, by whether the tenant was cold."""

    def per_second_at(self, cold: float) -> float:
        """Requests a second of CALLERS callers if this share of the requests were cold, each taking as long as those
        measured: callers over the mean time of a request (Little's law).
        """
        held, loaded = (statistics.fmean(self.whole[kind]) for kind in (False, True))
        return CALLERS / ((1 - cold) * held + cold * loaded)

    @property
    def hot(self) -> list[float]:
        return [ttft for tenant, ttft, _ in self.answers if tenant < DEVICE]

    @property
    def per_second(self) -> float:
        return len(self.answers) / self.took


@dataclass(eq=False)
class Side:
    """One of those that are compared: where it is asked, and under which name and key for each tenant."""

    name: str
    session: aiohttp.ClientSession
    url: str
    model: Callable[[int], str]
    key: Callable[[int], str]
    host: int
    seen: dict[str, Seen] = field(default_factory=dict)
    last_used: OrderedDict[int, None] = field(default_factory=OrderedDict)
    """The `host` tenants that were answered last: what a plain vLLM holds."""

    def use(self, tenant: int) -> bool:
        """A tenant is answered. Returns whether it was not among the last used."""
        cold = tenant not in self.last_used
        self.last_used[tenant] = None
        self.last_used.move_to_end(tenant)
        if len(self.last_used) > self.host:
            self.last_used.popitem(last=False)
        return cold

    async def ask(self, tenant: int, tokens: int = TOKENS, gaps: list[float] | None = None) -> tuple[float, str]:
        """Seconds to the first token, and the whole answer. Raises RuntimeError with what came instead of one."""
        body = {"model": self.model(tenant), "messages": PROMPT, "temperature": 0, "max_tokens": tokens}
        body |= {"stream": True, "ignore_eos": True}
        began, first, text, last = time.perf_counter(), None, "", 0.0
        headers = {"authorization": f"Bearer {self.key(tenant)}"}
        async with self.session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as reply:
            if reply.status != 200:
                raise RuntimeError(f"{reply.status} {(await reply.text())[:200]}")
            async for line in reply.content:
                if line.startswith(b"data: {"):
                    part = json.loads(line[6:])
                    if "error" in part:
                        raise RuntimeError(str(part["error"])[:200])
                    words = "".join(choice["delta"].get("content") or "" for choice in part["choices"])
                    now = time.perf_counter()
                    if words and first is None:
                        first = now
                    elif words and gaps is not None:
                        gaps.append(now - last)
                    last, text = now, text + words
        return (first or time.perf_counter()) - began, text

    async def run(self, law: str, turn: Iterable[int], seconds: float) -> Seen:
        """CALLERS callers ask these tenants, one request after the other each, until the time is over."""
        seen, began = self.seen.setdefault(law, Seen()), time.perf_counter()

        turn = iter(turn)

        async def caller() -> None:
            for tenant in turn:
                if time.perf_counter() - began >= seconds:
                    return
                asked = time.perf_counter()
                try:
                    ttft, text = await self.ask(tenant)
                    seen.answers.append((tenant, ttft, text))
                    cold = self.use(tenant)
                    seen.whole[cold].append(time.perf_counter() - asked)
                    if cold:
                        seen.cold.append(ttft)
                except (aiohttp.ClientError, RuntimeError, TimeoutError) as error:
                    seen.failed.append(f"t{tenant:04}: {error}")
                    await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(caller())
        seen.took += time.perf_counter() - began
        return seen


def sequence(law: str, tenants: int, turn: int) -> Iterator[int]:
    """The tenants that are asked, the same for each side: for ever, or each one once."""
    drawn, weights = random.Random(f"{SEED} {law} {turn}"), None
    if law == ONCE:
        yield from drawn.sample(range(tenants), k=tenants)
        return
    if law == "Zipf":
        weights = [1 / (rank + 1) for rank in range(tenants)]
    while True:
        yield from drawn.choices(range(tenants), weights, k=256)


# ---- the sides ---------------------------------------------------------------------------------------------------


@contextmanager
def _server(material: Material, **more: Any) -> Iterator[vllm_server.Server]:
    settings = {"slots": DEVICE, "cpu_slots": material.host, "rank": RANK, "max_len": 256}
    with vllm_server.running(material.base, **settings, **more) as server:
        yield server


@asynccontextmanager
async def _plain(server: vllm_server.Server, material: Material) -> AsyncIterator[Side]:
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(server.socket)), timeout=timeout) as session:
        yield Side(
            "plain vLLM", session, "http://engine", lambda n: material.tenants[n], lambda n: "none", material.host
        )


@contextmanager
def _fleet(material: Material, kind: type[Fleet], **settings: Any) -> Iterator[Fleet]:
    """A hub and a node that have served these tenants for days."""
    root = Path(tempfile.mkdtemp(prefix="ld", dir=material.weights[0].parent))  # on one disk with what it links to
    fleet = kind(root=root, base=material.base, temporary=True, names=("gpu-01",), **settings)
    material.write_log(fleet.data)
    material.lay_disk(fleet.nodes[0].state)
    try:
        with fleet.running():
            yield fleet
    finally:
        shutil.rmtree(root, ignore_errors=True)


@asynccontextmanager
async def _ours(fleet: Fleet, material: Material, name: str) -> AsyncIterator[Side]:
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        side = Side(name, session, fleet.nodes[0].url, lambda n: material.tenants[n], material.key, material.host)
        deadline = time.monotonic() + PATIENCE_S
        while True:  # the table has come once the last tenant is answered
            with contextlib.suppress(RuntimeError, aiohttp.ClientError):
                await side.ask(len(material.tenants) - 1)
                break
            assert time.monotonic() < deadline, "the node does not serve its tenants"
            await asyncio.sleep(0.5)
        yield side


def _node(fleet: Fleet) -> tuple[dict[str, Any], int]:
    """What has waited on the node, and how many releases it has unloaded to make room."""
    (row,) = fleet.ask("nodes")
    return row.get("cold") or {}, row["replicas"][0].get("evictions", 0)


# ---- parts -------------------------------------------------------------------------------------------------------


def _beside_paging(material: Material, seconds: float, rounds: int, loads: int) -> list[Row]:
    with _server(material) as plain, _server(material, env={"VLLM_PLUGINS": "loradeck"}) as engine:
        for folder in material.weights:
            plain.load(folder.name, folder).raise_for_status()
        table = {"name": "e0", "kind": "vllm", "base": str(material.base), "socket": str(engine.socket)}
        table |= {"slots": material.host, "batch_slots": DEVICE, "max_rank": RANK, "device": "cpu", "dtype": "float32"}
        engine.http.get("/v1/loradeck/residency").raise_for_status()  # the plugin is there
        with _fleet(material, VllmFleet, engine=table) as fleet:
            return asyncio.run(_in_turns(plain, fleet, material, seconds, rounds, loads))


async def _in_turns(
    server: vllm_server.Server, fleet: Fleet, material: Material, seconds: float, rounds: int, loads: int
) -> list[Row]:
    rows, count, named = list[Row](), len(material.tenants), set(material.fresh)
    for law, turn in (*(("Zipf", turn) for turn in range(rounds)), ("uniform", 0)):
        named |= set(itertools.islice(sequence(law, count, turn), int(DRAWN * seconds)))
    async with _plain(server, material) as plain, _ours(fleet, material, "ours on vLLM") as ours:
        for law, turns in ((ONCE, 1), ("Zipf", rounds), ("uniform", 1)):
            before, evicted = _node(fleet)
            for turn in range(turns):
                for side in (plain, ours) if turn % 2 else (ours, plain):
                    drawn = sequence(law, count, turn)
                    if (law, side) == (ONCE, ours):
                        drawn = (number for number in drawn if number in named)
                    await side.run(law, drawn, seconds if law != ONCE else 1e9)
            await asyncio.sleep(2)  # the node's next report
            after, evictions = _node(fleet)
            rows += _said(_figures(plain, law) + _figures(ours, law, before, after, evictions - evicted))
            rows += _said(_compared(plain, ours, law))
            if law != ONCE:
                cold = (after["cold"] - before.get("cold", 0)) / max(1, after["asked"] - before.get("asked", 0))
                rows += _said([_at_the_same_cold_rate(plain, ours, law, cold)])
        rows += _said(await _moves(fleet, ours, material))
        rows += _said(await _gaps(ours, loads, count))
    return rows


def _said(rows: list[Row]) -> list[Row]:
    """The same rows, printed: the next part may not come to its end."""
    print("\n".join(f"{row}  {row.how}" for row in rows), flush=True)
    return rows


def _resident(material: Material, seconds: float) -> list[Row]:
    """Everything in memory: as many tenants as there are host slots."""

    async def run(server: vllm_server.Server) -> list[Row]:
        async with _plain(server, material) as plain:
            plain.name = "plain vLLM, its tenants all in memory"
            await plain.run("Zipf", sequence("Zipf", material.host, 0), seconds)
            return _said(_figures(plain, "Zipf"))

    with _server(material) as server:
        for folder in material.weights[: material.host]:
            server.load(folder.name, folder).raise_for_status()
        return asyncio.run(run(server))


def _resolver(material: Material, seconds: float) -> list[Row]:
    """vLLM's own resolver of files, where it runs: nothing is listed before, a name is a folder."""
    folder = material.weights[0].parent

    async def run(server: vllm_server.Server) -> list[Row]:
        async with _plain(server, material) as plain:
            plain.name = "plain vLLM with its filesystem resolver"
            await plain.run("Zipf", sequence("Zipf", len(material.tenants), 0), seconds)
            seen = plain.seen["Zipf"]
            return (
                _figures(plain, "Zipf")
                if seen.answers
                else [Row(f"{plain.name}: does not run here", 0, "requests/s", len(seen.failed), how=seen.failed[0])]
            )

    env = {"VLLM_PLUGINS": "lora_filesystem_resolver", "VLLM_LORA_RESOLVER_CACHE_DIR": str(folder)}
    with _server(material, env=env) as server:
        return asyncio.run(run(server))


class _Embedded(Fleet):
    """A node with the embedded engine at the same two levels."""

    def engine_tables(self, node: Node) -> str:
        return f"{self.engine_table('e0', self.base)}batch_slots = {DEVICE}\n"


def _embedded(material: Material, seconds: float) -> list[Row]:
    async def run(fleet: Fleet) -> list[Row]:
        rows, count = list[Row](), len(material.tenants)
        async with _ours(fleet, material, "ours, embedded engine") as ours:
            for law in ("Zipf", "uniform"):
                before, evicted = _node(fleet)
                await ours.run(law, sequence(law, count, 0), seconds)
                await asyncio.sleep(2)
                after, evictions = _node(fleet)
                rows += _said(_figures(ours, law, before, after, evictions - evicted))
            return rows + _said(await _moves(fleet, ours, material))

    with _fleet(material, _Embedded, slots=material.host) as fleet:
        return asyncio.run(run(fleet))


class _Fronted(density_hint.Fronted, _Embedded):
    """The same behind a gateway."""


def _hint(material: Material) -> list[Row]:
    with _fleet(material, _Fronted, slots=material.host, tls=True) as fleet:
        return _said(asyncio.run(density_hint.measure(fleet, material)))


# ---- R -----------------------------------------------------------------------------------------------------------


async def _moves(fleet: Fleet, side: Side, material: Material) -> list[Row]:
    """R on a hot, a host-level and a cold tenant under the load, each three times, and a rewind of half of them."""
    count, fresh = len(material.tenants), material.fresh
    groups = {
        "hot": fresh[:3],
        "in memory": [n for n in fresh[3:] if n < material.host][:3],
        "cold": fresh[-3:],
    }
    hot = quantile(side.seen["Zipf"].hot, 95)
    rows, failed, left = list[Row](), list[str](), 0
    before = {tenant: text for seen in side.seen.values() for tenant, _, text in seen.answers}
    async with HubApi.to(Context(name="bench", socket=fleet.socket)) as api:
        loading = asyncio.create_task(side.run("R", sequence("Zipf", count, 99), 1e9))
        try:
            for near, numbers in groups.items():
                flipped, first, shown = [], [], []
                for number in numbers:
                    row = await api.row(material.tenants[number], ROUTE)
                    shown += [] if row.preview.answer_s is None else [row.preview.answer_s]
                    request = rollback_request(row.preview, key=new_key(), reason="bench")
                    request = request.model_copy(update={"confirmed": True})
                    began = time.perf_counter()
                    result = await api.send(material.tenants[number], ROUTE, request, wait="flipped", timeout=30)
                    assert result.flipped_ms is not None, result
                    flipped.append(result.flipped_ms)
                    asked = time.perf_counter() - began
                    try:
                        ttft, text = await side.ask(number)
                        first.append(asked + ttft)
                        left += text == before.get(number)
                    except (aiohttp.ClientError, RuntimeError, TimeoutError) as error:
                        failed.append(str(error))
                (node,) = await api.nodes()
                load = (node.replicas[0].load_s or 0.0) if near == "cold" else 0.0
                rows.append(
                    Row(
                        f"{side.name}: R to flipped, {near} tenant, under load: worst", max(flipped), "ms", len(flipped)
                    )
                )
                if first:
                    took = statistics.median(first)
                    how = f"{1000 * took:.0f} ms; load {1000 * load:.0f}, hot TTFT p95 {1000 * hot:.0f} ms"
                    what = (
                        f"{side.name}: R to the first token under the prior, {near} tenant, beside load + hot TTFT p95"
                    )
                    rows.append(Row(what, took / (load + hot), "x", len(first), 1.2, how=how, reference="floor"))
                    if shown:
                        said = statistics.median(shown)
                        what = f"{side.name}: that sum as the preview shows it before the key, {near} tenant"
                        how = f"beside {1000 * (load + hot):.0f} ms"
                        rows.append(Row(what, 1000 * said, "ms", len(shown), how=how))
            back = [material.tenants[number] for number in material.with_prior]
            plan = RewindRequest(
                to_rev=await _rev_before(api, material), tenants=tuple(back), idempotency_key=new_key(), reason="bench"
            )
            planned = await api.plan_rewind(plan)
            seen = {f"{one.tenant}/{one.route}": one.generation for one in planned.steps}
            act = plan.model_copy(update={"dry_run": False, "generations": seen})
            began = time.perf_counter()
            moved = await api.rewind(act, wait="flipped", timeout=60)
            rows.append(
                Row(
                    f"{side.name}: a rewind of {len(moved.events)} tenants, under load, to flipped",
                    (time.perf_counter() - began) * 1000,
                    "ms",
                    1,
                )
            )
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
    moved_n = sum(map(len, groups.values()))
    rows.append(
        Row(
            f"{side.name}: answers after R with the left release's tokens", left, "answers", moved_n, 0, unwaivable=True
        )
    )
    failed += side.seen["R"].failed
    rows.append(
        Row(
            f"{side.name}: requests that failed during R and the rewind",
            len(failed),
            "requests",
            len(side.seen["R"].answers) + len(failed),
            0,
            unwaivable=True,
            how="; ".join(failed[:2]),
        )
    )
    return rows


async def _rev_before(api: HubApi, material: Material) -> int:
    """The revision after all first promotes, and before the second ones."""
    events = await api.events(tenant=material.tenants[material.with_prior[-1]])
    return next(event.rev for event in events if event.kind.value == "promote" and event.generation == 1)


# ---- waits of others -----------------------------------------------------------------------------------------------


async def _gaps(side: Side, loads: int, count: int) -> list[Row]:
    """Seconds between two tokens of two hot tenants' streams while others are cold, and while they are held."""
    waits: dict[str, list[float]] = {"held": [], "cold": []}
    stop = asyncio.Event()

    async def streams(number: int, kind: list[str]) -> None:
        while not stop.is_set():
            await side.ask(number, STREAMED, waits[kind[0]])

    kind = ["held"]
    tasks = [asyncio.create_task(streams(number, kind)) for number in (0, 1)]
    drawn = random.Random(SEED).sample(range(side.host, count), k=min(loads, count - side.host))
    for cold in (False, True):
        kind[0] = "cold" if cold else "held"
        for number in drawn:
            await side.ask(number if cold else 2, 1)
    stop.set()
    await asyncio.gather(*tasks)
    held, cold_p99 = quantile(waits["held"], 99), quantile(waits["cold"], 99)
    return [
        Row(
            f"{side.name}: others' time between tokens at p99 during {len(drawn)} cold loads, beside as many held ones",
            cold_p99 / held,
            "x",
            len(waits["cold"]),
            1.1,
            how=f"two hot tenants stream; {1000 * held:.0f} and {1000 * cold_p99:.0f} ms",
            reference="floor",
        )
    ]


# ---- rows --------------------------------------------------------------------------------------------------------


def _figures(
    side: Side, law: str, before: dict[str, Any] | None = None, after: dict[str, Any] | None = None, evictions: int = 0
) -> list[Row]:
    seen, name = side.seen[law], f"{side.name}, {law}"
    n = len(seen.answers)
    rows = [
        Row(
            f"{name}: requests/s", seen.per_second, "1/s", n, how=f"seed {SEED}, commit {_commit()}, {CALLERS} callers"
        ),
    ]
    if law == "Zipf":  # else a tenant is asked too seldom to be hot
        rows.append(Row(f"{name}: TTFT hot, p50", quantile(seen.hot, 50) * 1000, "ms", len(seen.hot)))
        rows.append(Row(f"{name}: TTFT hot, p95", quantile(seen.hot, 95) * 1000, "ms", len(seen.hot)))
    if seen.cold:
        rows.append(Row(f"{name}: TTFT cold, p50", quantile(seen.cold, 50) * 1000, "ms", len(seen.cold)))
        rows.append(Row(f"{name}: TTFT cold, p95", quantile(seen.cold, 95) * 1000, "ms", len(seen.cold)))
    if after:
        asked = after["asked"] - (before or {}).get("asked", 0)
        hits = 100 * (1 - (after["cold"] - (before or {}).get("cold", 0)) / max(1, asked))
        rows.append(Row(f"{name}: hit rate", hits, "%", asked, how="as the node counts it"))
        rows.append(Row(f"{name}: releases unloaded to make room", evictions, "releases", n))
    else:
        rows.append(Row(f"{name}: hit rate", 100 * (1 - len(seen.cold) / n), "%", n, how="computed: the last used"))
    how = "; ".join(seen.failed[:2])
    budget = {} if side.name.startswith("plain") else {"budget": 0.0, "unwaivable": True}
    rows.append(
        Row(f"{name}: requests that failed", len(seen.failed), "requests", n + len(seen.failed), how=how, **budget)
    )
    return rows


def _at_the_same_cold_rate(plain: Side, ours: Side, law: str, cold: float) -> Row:
    """Both at as many cold loads: ours keeps ways back in memory, so that more of its requests are cold."""
    peer, mine = plain.seen[law].per_second_at(cold), ours.seen[law]
    how = f"{100 * cold:.1f} % cold, as the node counts it; plain vLLM from its own times of held and cold requests"
    what = f"{law}: requests/s, ours over plain paging at the same cold rate"
    return Row(what, mine.per_second / peer, "x", len(mine.answers), 0.9, higher=True, how=how, reference="peer")


def _compared(plain: Side, ours: Side, law: str) -> list[Row]:
    """The budgets; and whose tokens came, as plain vLLM gave them for the same adapter."""
    peer, mine = plain.seen[law], ours.seen[law]
    reference = {tenant: text for tenant, _, text in plain.seen[ONCE].answers}
    owners: dict[str, set[int]] = {}
    for tenant, text in reference.items():
        owners.setdefault(text, set()).add(tenant)
    judged = [(t, text) for t, _, text in mine.answers if t in reference and len(owners[reference[t]]) == 1]
    wrong = sum(text != reference[t] and text in owners for t, text in judged)
    other = sum(text != reference[t] and text not in owners for t, text in judged)
    faster, n, hot = mine.per_second / peer.per_second, len(mine.answers), len(mine.hot)
    within = [
        Row(
            f"{law}: requests/s, ours over plain paging",
            faster,
            "x",
            n,
            None if law == ONCE else 0.9,
            higher=True,
            reference="peer",
        )
    ]
    if law == "Zipf":
        slower = quantile(mine.hot, 95) / quantile(peer.hot, 95)
        what = f"{law}: TTFT p95 of hot tenants, ours over plain paging"
        within.append(Row(what, slower, "x", hot, 1.1, reference="peer"))
    return [
        *within,
        Row(f"{law}: answers with another tenant's tokens", wrong, "answers", len(judged), 0, unwaivable=True),
        Row(f"{law}: answers with nobody's tokens", other, "answers", len(judged), how="sums in another order"),
    ]


if __name__ == "__main__":
    for row in measure(tenants=60, seconds=15.0, rounds=1, loads=20):
        print(row)
