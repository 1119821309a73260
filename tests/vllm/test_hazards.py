"""What vLLM does that would let a tenant be served wrongly: each shown on the real server, and shown not to reach one.

Two tests a hazard. The first calls vLLM directly, as an operator or another tool would: were it to fail with a
newer vLLM, that version has lost the hazard. The second does the same with Loradeck between.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes.word_model import write_adapter, write_base
from tests.fleets.processes.fleet import PROMPTS, TENANT, Material
from tests.vllm.attached import SLOTS, Attached, described
from tests.vllm.conftest import HEAD, Expendable
from tests.vllm_server import Server, asked

from incident.fleet import wait_for
from incident.incident import ROUTE
from loradeck.artifacts import base_manifest, scan
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.rollbacks import rollback_request
from loradeck.schemas.manifest import AdapterManifest, Form, Release
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.store.releases import ReleaseStore

WEIGHTS = "adapter_model.safetensors"
PROMPT = PROMPTS[0]
LONG = " ".join(f"w{3 * n % 150}" for n in range(200))
"""Longer than a block of the cache of prefixes, which is 128 tokens on CPU."""


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def change_tensors(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return folder


def digest_of_base(folder: Path) -> str:
    return base_manifest(folder, "any", "any").digest


async def refused_on_node(
    folder: Path, base: str, engine_base: Path, state: Path, change: Callable[[Path], None] = lambda kept: None
) -> str:
    """The code with which a node refuses an adapter that lies on its disk already, before any engine is asked.

    `change`: what happened to the files after their manifest was made.
    """
    manifest, ref = described(folder, base)
    kept = StateFolder(state)
    change(Path(shutil.copytree(folder, kept.release(manifest.digest))))
    (kept.releases / f"{manifest.digest}.json").write_text(manifest.model_dump_json())
    store = ReleaseStore(kept, hub=None)  # type: ignore[arg-type]  # what is there is not asked for
    with pytest.raises(AgentError) as caught:
        await store.ensure(ref, digest_of_base(engine_base), engine_base)
    return caught.value.code


def import_words(folder: Path, base: str) -> tuple[str, ...]:
    return ("adapter", "import", str(folder), "--tenant", TENANT, "--name", "words", "--base", base, "--why", "tests")


# -- 1: a wrong base with the same shapes ---------------------------------------------------------------------


@pytest.mark.drawn(seconds=20, group="hazard 1")
def test_1_an_adapter_of_another_base_with_the_same_shapes_is_taken_and_served(server: Server, tmp_path: Path) -> None:
    other = write_base(tmp_path / "other", seed=1, head_dim=HEAD)
    assert digest_of_base(other) != digest_of_base(server.base)
    assert server.load("stranger", write_adapter(tmp_path / "a", other, seed=5)).status_code == 200
    assert server.text("stranger", PROMPT) != server.text("base", PROMPT)


@pytest.mark.drawn(seconds=20, group="hazard 1")
async def test_1_an_adapter_of_another_base_with_the_same_shapes_reaches_no_tenant(
    tenant: Attached, tmp_path: Path
) -> None:
    before = tenant.seen()
    other = write_base(tmp_path / "other", seed=1, head_dim=HEAD)
    digest = tenant.fleet.cli("base", "add", str(other), "--model-id", "tests/other", "--revision", "1")["digest"]
    folder = write_adapter(tmp_path / "a", other, seed=5)
    release = tenant.fleet.cli(*import_words(folder, digest))["release"]
    said = tenant.refused("promote", TENANT, release, "--yes", "--wait", "committed", "--timeout", "30")
    assert "base" in said
    assert await refused_on_node(folder, digest, tenant.material.base, tmp_path / "state") == "wrong_base"
    assert tenant.seen() == before


# -- 2: keys that match nothing -------------------------------------------------------------------------------


def rename_all(tensors: dict[str, Any]) -> None:
    for key in list(tensors):
        tensors[key.replace("model.layers", "model.blocks")] = tensors.pop(key)


@pytest.mark.drawn(seconds=20, group="hazard 2")
def test_2_keys_that_match_nothing_are_taken_listed_and_serve_the_bare_base(
    server: Server, material: Material, tmp_path: Path
) -> None:
    folder = change_tensors(copied(material.adapters[0], tmp_path / "a"), rename_all)
    assert server.load("hollow", folder).status_code == 200
    assert "hollow" in server.listed()
    assert [server.text("hollow", text) for text in PROMPTS] == [server.text("base", text) for text in PROMPTS]


@pytest.mark.drawn(seconds=20, group="hazard 2")
async def test_2_keys_that_match_nothing_reach_no_tenant(tenant: Attached, tmp_path: Path) -> None:
    before = tenant.seen()
    base = digest_of_base(tenant.material.base)
    folder = change_tensors(copied(tenant.material.adapters[0], tmp_path / "a"), rename_all)
    assert "blocks" in tenant.refused(*import_words(folder, base))
    assert await refused_on_node(folder, base, tenant.material.base, tmp_path / "state") in (
        "unsupported_adapter",
        "wrong_base",
    )
    assert tenant.seen() == before


# -- 3: load_inplace ------------------------------------------------------------------------------------------


STREAMS = 12
TRIES = 5
"""How often weights are changed under streams until one goes on after it: a busy machine may end them before."""

STREAM_TOKENS = 440


async def streamed(http: httpx.AsyncClient, model: str, midway: Callable[[], Awaitable[Any]]) -> tuple[list[str], int]:
    """The texts of long streams side by side, and how many went on after what was done midway was done."""
    began, ended, acted = asyncio.Event(), [0], asyncio.Event()

    async def one(text: str) -> str:
        parts = []
        body = asked(model, text, STREAM_TOKENS, ignore_eos=True, stream=True)
        async with http.stream("POST", "/v1/chat/completions", json=body) as reply:
            assert reply.status_code == 200
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    parts.append(json.loads(line[6:])["choices"][0]["delta"].get("content") or "")
                    began.set()
        ended[0] += not acted.is_set()
        return "".join(parts).strip()

    async def act() -> None:
        await began.wait()
        await midway()
        acted.set()

    *texts, _ = await asyncio.gather(*(one(text) for text in (PROMPTS * 2)[:STREAMS]), act())
    return texts, STREAMS - ended[0]


@pytest.mark.drawn(seconds=20, group="hazard 3")
async def test_3_load_inplace_changes_the_weights_under_a_stream(server: Server, material: Material) -> None:
    v1, v2 = material.adapters[:2]
    server.load("still", v1)
    alone = [server.text("still", text, STREAM_TOKENS) for text in PROMPTS]
    body = {"lora_name": "still", "lora_path": str(v2), "load_inplace": True}
    async with server.client() as http:
        for _ in range(TRIES):
            said, went_on = await streamed(http, "still", lambda: http.post("/v1/load_lora_adapter", json=body))
            if went_on:
                break
            await http.post("/v1/load_lora_adapter", json=body | {"lora_path": str(v1)})
    assert went_on > 0
    changed = [(text, right) for text, right in zip(said, alone, strict=True) if text != right]
    assert changed
    # Of those that had begun under their own weights, too; on a busy machine one may begin after the load.
    assert any(text.split()[0] == right.split()[0] for text, right in changed)


@pytest.mark.drawn(seconds=20, group="hazard 3")
async def test_3_a_stream_ends_under_the_weights_it_began_with_whatever_moves(tenant: Attached) -> None:
    current = tenant.row()["pointer"]["release"]
    alone = [tenant.server.text(f"{TENANT}-{current}", text, STREAM_TOKENS) for text in PROMPTS]
    async with (
        HubApi.to(Context(name="tests", socket=tenant.fleet.socket)) as api,
        httpx.AsyncClient(base_url=tenant.fleet.nodes[0].url, headers=tenant.http.headers, timeout=120) as http,
    ):
        for _ in range(TRIES):
            preview = (await api.row(TENANT, ROUTE)).preview
            send = partial(api.send, TENANT, ROUTE, rollback_request(preview, key=new_key(), reason="tests"))
            said, went_on = await streamed(http, TENANT, partial(send, wait="flipped", timeout=60))
            if went_on:
                break
            await asyncio.to_thread(tenant.move, "undo", TENANT, "--yes")
    assert went_on > 0
    assert said == alone
    wait_for("attested", lambda: tenant.row()["attested"], 60)
    assert tenant.answers() == {tenant.row()["pointer"]["release"]} != {current}
    tenant.move("undo", TENANT, "--yes")
    assert tenant.answers() == {current}


# -- 4: the same name and path with new bytes -----------------------------------------------------------------


@pytest.mark.drawn(seconds=20, group="hazard 4")
def test_4_new_bytes_under_the_same_name_and_path_are_answered_from_a_stale_cache(
    server: Server, material: Material, tmp_path: Path
) -> None:
    v1, v2 = material.adapters[:2]
    folder = copied(v1, tmp_path / "same")
    server.load("same", folder)
    server.text("same", LONG)
    server.unload("same")
    shutil.copy(v2 / WEIGHTS, folder)
    assert server.load("same", folder).status_code == 200
    assert server.load("fresh", v2).status_code == 200
    # The prefix was computed with v1's weights, the answer with v2's.
    assert server.text("same", LONG) != server.text("fresh", LONG)
    assert server.text("same", PROMPT) == server.text("fresh", PROMPT)


@pytest.mark.drawn(seconds=20, group="hazard 4")
def test_4_no_name_or_path_is_used_twice_and_no_answer_is_of_a_stale_cache(
    server: Server, tenant: Attached, tmp_path: Path
) -> None:
    fresh = {}
    for label, folder in zip(("v1", "v2"), tenant.material.adapters, strict=False):
        server.load(f"fresh-{label}", copied(folder, tmp_path / label))
        fresh[label] = server.text(f"fresh-{label}", LONG)
        server.unload(f"fresh-{label}")
    assert fresh["v1"] != fresh["v2"]
    for _ in range(2):
        assert tenant.text(LONG) == fresh["v2"]
        tenant.move("rollback", TENANT, "--yes")
        assert tenant.text(LONG) == fresh["v1"]
        tenant.move("undo", TENANT, "--yes")
    listed = {name: Path(root) for name, root in server.listed().items() if name.startswith(TENANT)}
    assert listed.keys() >= {f"{TENANT}-{tenant.cast.releases[label]}" for label in ("v1", "v2")}
    for name, root in listed.items():
        manifest = AdapterManifest.model_validate_json(root.with_suffix(".json").read_bytes())
        release = Release(tenant=TENANT, form=Form.ADAPTER, base=manifest.base, adapter=manifest.digest)
        assert (name, root.name) == (f"{TENANT}-{release.id}", manifest.digest)
        assert scan(root) == manifest.files


# -- 5 and 6: evicted adapters, whose files are read again ----------------------------------------------------


def evict(server: Server, material: Material, folder: Path) -> None:
    """Loads three where two have room: the first is listed, and no longer held."""
    server.load("evicted", folder)
    assert server.ask("evicted", PROMPT).status_code == 200
    for name, other in zip(("one", "two"), material.adapters[1:], strict=True):
        server.load(name, other)
        assert server.ask(name, PROMPT).status_code == 200
    assert {"evicted", "one", "two"} <= server.listed().keys()


def release_all(server: Server) -> None:
    for name in server.listed():
        server.unload(name)


@pytest.mark.drawn(seconds=20, group="hazard 5")
def test_5_a_request_for_an_evicted_adapter_whose_folder_is_gone_ends_the_engine(
    expendable: Expendable, material: Material, tmp_path: Path
) -> None:
    server = expendable.up()
    folder = copied(material.adapters[0], tmp_path / "a")
    evict(server, material, folder)
    shutil.rmtree(folder)
    with suppress(httpx.TransportError):  # it may end before it has said anything
        assert server.ask("evicted", PROMPT).status_code == 500
    assert server.process.wait(60) is not None


@pytest.mark.drawn(seconds=20, group="hazard 5")
def test_5_nothing_that_the_engine_lists_for_a_tenant_is_evicted_or_leaves_the_disk(tenant: Attached) -> None:
    for _ in range(3):
        tenant.move("rollback", TENANT, "--yes")
        tenant.move("undo", TENANT, "--yes")
    listed = {name: Path(root) for name, root in tenant.server.listed().items() if name.startswith(TENANT)}
    assert listed.keys() >= {f"{TENANT}-{tenant.cast.releases[label]}" for label in ("v1", "v2")}
    (node,) = tenant.fleet.cli("node", "ls")
    assert len(listed) <= node["replicas"][0]["slots"] <= SLOTS
    assert all(root.is_dir() and root.parent == tenant.store for root in listed.values())


@pytest.mark.drawn(seconds=20, group="hazard 6")
def test_6_the_changed_file_of_an_evicted_adapter_changes_its_answers(
    expendable: Expendable, material: Material, tmp_path: Path
) -> None:
    server = expendable.up()
    folder = copied(material.adapters[0], tmp_path / "a")
    evict(server, material, folder)
    shutil.copy(material.adapters[1] / WEIGHTS, folder)
    assert [server.text("evicted", text) for text in PROMPTS] == material.answers[1]
    release_all(server)


@pytest.mark.drawn(seconds=20, group="hazard 6")
async def test_6_a_changed_file_is_noticed_before_an_engine_reads_it(tenant: Attached, tmp_path: Path) -> None:
    before = tenant.seen()
    assert {mode for root in before["listed"].values() for mode in modes(root)} == {0o500, 0o400}
    base = digest_of_base(tenant.material.base)
    v1, v2 = tenant.material.adapters[:2]

    def overwrite(kept: Path) -> None:
        shutil.copy(v2 / WEIGHTS, kept)

    assert await refused_on_node(v1, base, tenant.material.base, tmp_path / "state", overwrite) == "manifest_mismatch"
    assert tenant.seen() == before


def modes(root: str) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in (Path(root), *Path(root).iterdir())}


# -- 7: listed is not resident, and unloaded is not free ------------------------------------------------------


@pytest.mark.drawn(seconds=20, group="hazard 7")
def test_7_adapters_are_lost_when_the_server_starts_again(expendable: Expendable, material: Material) -> None:
    server = expendable.up()
    server.load("lost", material.adapters[0])
    assert server.text("lost", PROMPT) == material.answers[0][0]
    server.kill()
    server = expendable.up()
    assert server.listed() == {}
    assert server.ask("lost", PROMPT).status_code == 404


@pytest.mark.drawn(seconds=20, group="hazard 7")
async def test_7_what_was_unloaded_by_others_is_loaded_again_and_proven_before_it_is_asked(tenant: Attached) -> None:
    """The replay after a server's own end is in test_end_to_end.py."""
    before = tenant.seen()
    for name in before["listed"]:
        tenant.server.unload(name)
    wait_for("loaded again", lambda: tenant.server.listed().items() >= before["listed"].items(), 60)
    wait_for("proven", lambda: tenant.row()["proven"] == 1, 60)
    assert tenant.seen() == before


# -- 8: what a key leaves open --------------------------------------------------------------------------------


OPEN = (
    ("POST", "/adapters", {"name": "intruder", "src": "/nowhere"}),
    ("DELETE", "/adapters/nobody", None),
    ("POST", "/invocations", {"model": "base", "prompt": "w1", "max_tokens": 2}),
)


@pytest.mark.parametrize(("method", "path", "body"), OPEN)
@pytest.mark.drawn(seconds=20, group="hazard 8")
def test_8_a_key_leaves_calls_open_that_load_unload_and_ask(
    server: Server, method: str, path: str, body: dict[str, Any] | None
) -> None:
    transport = httpx.HTTPTransport(uds=str(server.socket))
    with httpx.Client(transport=transport, base_url="http://engine", timeout=60) as stranger:
        assert stranger.get("/v1/models").status_code == 401
        assert stranger.request(method, path, json=body).status_code not in (401, 403)


@pytest.mark.drawn(seconds=20, group="hazard 8")
def test_8_a_stranger_can_even_load_an_adapter(server: Server, material: Material) -> None:
    transport = httpx.HTTPTransport(uds=str(server.socket))
    with httpx.Client(transport=transport, base_url="http://engine", timeout=60) as stranger:
        body = {"name": "intruder", "src": str(material.adapters[2])}
        assert stranger.post("/adapters", json=body).status_code == 200
    assert "intruder" in server.listed()


@pytest.mark.parametrize(("method", "path", "body"), [*OPEN, ("POST", "/v1/load_lora_adapter", {"lora_name": "x"})])
@pytest.mark.parametrize("key", [True, False])
@pytest.mark.drawn(seconds=20, group="hazard 8")
def test_8_no_such_call_reaches_the_engine_through_the_router(
    tenant: Attached, method: str, path: str, body: dict[str, Any] | None, key: bool
) -> None:
    with httpx.Client(base_url=tenant.fleet.nodes[0].url, timeout=60) as caller:
        headers = tenant.http.headers if key else None
        assert caller.request(method, path, json=body, headers=headers).status_code in (401, 404, 405)
    assert tenant.answers() == {tenant.row()["pointer"]["release"]}


# -- 9: values that are not numbers ---------------------------------------------------------------------------


def make_nan(tensors: dict[str, Any]) -> None:
    for tensor in tensors.values():
        tensor.fill_(math.nan)


@pytest.mark.drawn(seconds=20, group="hazard 9")
def test_9_an_adapter_that_is_not_finite_is_taken_and_spoils_the_answers_of_others(
    expendable: Expendable, material: Material, tmp_path: Path
) -> None:
    server = expendable.up()
    folder = change_tensors(copied(material.adapters[0], tmp_path / "nan"), make_nan)
    server.load("good", material.adapters[1])
    assert [server.text("good", text) for text in PROMPTS] == material.answers[1]
    assert server.load("nan", folder).status_code == 200
    spoilt = 0
    for number, text in enumerate(PROMPTS):
        server.ask("nan", text)
        spoilt += server.text("good", text) != material.answers[1][number]
    assert spoilt > 0
    server.kill()  # what is in its cache is not for the next test


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e25])
@pytest.mark.drawn(seconds=20, group="hazard 9")
async def test_9_an_adapter_that_is_not_finite_or_overflows_reaches_no_engine(
    tenant: Attached, tmp_path: Path, value: float
) -> None:
    before = tenant.seen()
    base = digest_of_base(tenant.material.base)
    folder = copied(tenant.material.adapters[0], tmp_path / "a")
    change_tensors(folder, lambda tensors: tensors[sorted(tensors)[0]][0].fill_(value))
    assert "not finite" in tenant.refused(*import_words(folder, base))
    assert await refused_on_node(folder, base, tenant.material.base, tmp_path / "state") == "bad_values"
    assert tenant.seen() == before


# -- 10: the base alone, beside an adapter --------------------------------------------------------------------


async def beside(server: Server, names: Sequence[str], texts: Sequence[str]) -> list[list[str]]:
    """Answers to all texts under all these names, asked at once: [name][text]."""
    async with server.client() as http:

        async def one(name: str, text: str) -> str:
            reply = await http.post("/v1/chat/completions", json=asked(name, text, 12))
            return str(reply.json()["choices"][0]["message"]["content"]).strip()

        said = await asyncio.gather(*(one(name, text) for text in texts for name in names))
    return [said[number :: len(names)] for number in range(len(names))]


def fill(server: Server, folder: Path, slots: int) -> None:
    """An adapter in each slot of the engine's, and none of them listed any more: an unload does not empty a slot."""
    for number in range(slots):
        server.load(f"fill-{number}", folder).raise_for_status()
    for number in range(slots):
        server.unload(f"fill-{number}").raise_for_status()


def differing(said: Sequence[str], right: Sequence[str]) -> int:
    return sum(one != other for one, other in zip(said, right, strict=True))


@pytest.mark.drawn(seconds=20, group="hazard 10")
async def test_10_on_cpu_the_base_asked_beside_an_adapter_answers_as_another(
    expendable: Expendable, material: Material
) -> None:
    """Its rows look up the last of the engine's slots."""
    server = expendable.up()
    fill(server, material.adapters[0], 1)
    server.load("held", material.adapters[1])
    held, base = await beside(server, ("held", "base"), PROMPTS)
    assert held == material.answers[1]
    assert differing(base, material.answers[-1]) > 6
    assert [server.text("base", text) for text in PROMPTS] == material.answers[-1]  # alone it is itself
    release_all(server)


@pytest.mark.drawn(seconds=20, group="hazard 10")
async def test_10_a_tenant_on_the_base_alone_is_answered_by_it_beside_whatever_else_is_asked(
    server: Server, tenant: Attached
) -> None:
    answers, current = tenant.material.answers, tenant.row()["pointer"]["release"]
    neighbours = [f"{TENANT}-{tenant.cast.releases[label]}" for label in ("v1", "v2")]
    fill(server, tenant.material.adapters[2], SLOTS)
    *_, unguarded = await beside(server, (*neighbours, "base"), PROMPTS)
    assert differing(unguarded, answers[-1]) > 6  # the engine is in the state that the hazard needs
    tenant.move("fallback", TENANT, "--yes")
    others = asyncio.create_task(beside(server, neighbours, PROMPTS * 6))
    said = []
    while not others.done():
        said.append(await asyncio.gather(*(asyncio.to_thread(tenant.text, text) for text in PROMPTS)))
    assert len(said) > 1
    assert said == [answers[-1]] * len(said)
    assert await others == [answers[0] * 6, answers[1] * 6]
    tenant.move("undo", TENANT, "--yes")
    assert tenant.answers() == {current}


# -- 11: log-probabilities of a prompt ------------------------------------------------------------------------


LIKELIHOODS: tuple[dict[str, Any], ...] = ({"prompt_logprobs": 0}, {"echo": True, "logprobs": 1})
"""The second is the first to vLLM."""


@pytest.mark.parametrize("asks", LIKELIHOODS, ids=["by name", "by echo"])
@pytest.mark.drawn(seconds=20, group="hazard 11")
def test_11_on_cpu_a_request_for_the_likelihood_of_a_prompt_ends_the_engine_for_those_beside_it(
    expendable: Expendable, asks: dict[str, Any]
) -> None:
    """Alone it is answered: one row is sampled, and that fits as many as one likes."""
    server = expendable.up()

    def ask(call: str, body: dict[str, Any]) -> int:
        try:
            return server.http.post(call, json=body).status_code
        except httpx.TransportError:  # it may end before it has said anything
            return 500

    with ThreadPoolExecutor(2) as pool:
        long = asked("base", PROMPT, 400, ignore_eos=True)
        others = [pool.submit(ask, "/v1/chat/completions", long) for _ in range(2)]
        wait_for("both are answered", lambda: server.gauge("num_requests_running") == 2, 60)
        body = {"model": "base", "prompt": list(range(7, 15)), "max_tokens": 1, **asks}
        assert ask("/v1/completions", body) == 500
        assert [other.result() for other in others] == [500, 500]
    assert server.process.wait(60) is not None


@pytest.mark.parametrize("asks", LIKELIHOODS, ids=["by name", "by echo"])
@pytest.mark.drawn(seconds=20, group="hazard 11")
def test_11_no_caller_ends_the_engine_so(tenant: Attached, asks: dict[str, Any]) -> None:
    before = tenant.seen()
    reply = tenant.http.post("/v1/completions", json={"model": TENANT, "prompt": "w1 w2 w3", "max_tokens": 1, **asks})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "unknown_parameter")
    assert tenant.seen() == before
    assert tenant.answers() == {tenant.row()["pointer"]["release"]}
