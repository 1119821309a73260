"""Artifacts in a real object store, SeaweedFS: the contract of blobs, a whole promote, and a hub that is killed."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from tests.fakes.lying_store import lying_store
from tests.fakes.seaweed_server import SECRET, URL, seaweed
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, data_folder, running
from tests.fleets.processes.fleet import LABELS, fleet_at, lay, make_material, promote, row
from tests.fleets.processes.hub import LORADECK
from tests.fleets.waiting import until
from tests.integration.hub.test_erasure import DIGEST, ROW, dataset, execution, plan
from tests.integration.hub.test_jobs import train
from tests.unit.artifacts.test_blobs import (
    put,
    test_a_blob_is_kept_and_read_back_in_ranges,  # noqa: F401
    test_a_blob_of_several_parts_is_kept_and_read_in_ranges_across_them,  # noqa: F401
    test_a_wrong_digest_keeps_nothing,  # noqa: F401
    test_an_unknown_blob_says_so,  # noqa: F401
    test_blobs_are_files_of_this_machine_within_a_block,  # noqa: F401
    test_blobs_are_listed_and_removed_and_removing_them_again_changes_nothing,  # noqa: F401
    test_the_same_blob_may_come_in_many_times_at_once,  # noqa: F401
)

from loradeck.artifacts import Blobs
from loradeck.artifacts.blobs.folder import FolderBlobs, copy, open_blobs
from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.protocol import SIGNED_URLS
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.identity import Login
from loradeck_agent.uplink.hub_api import HubApi

LARGE = os.urandom(9 << 20)
SHA = hashlib.sha256(LARGE).hexdigest()


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with seaweed():
        yield


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """A place of its own for each test."""
    return f"{URL}/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}"


@pytest.fixture
def blobs(url: str, tmp_path: Path) -> Blobs:
    return open_blobs(url, tmp_path / "artifacts")


@pytest.fixture
async def deck(url: str) -> AsyncIterator[Deck]:
    async with data_folder() as data, running(data, artifacts=url) as made:
        yield made


# ---- the commands ----------------------------------------------------------------------------------------


def loradeck(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LORADECK, *words], env={**os.environ, **env}, capture_output=True, text=True, timeout=60)


def test_check_artifacts_passes_a_real_store_and_refuses_one_that_lies(url: str, tmp_path: Path) -> None:
    found = loradeck("hub", "check-artifacts", url)
    assert (found.returncode, found.stdout) == (0, f"{url}: keeps its promises\n")
    with lying_store("overwrites_existing") as lying:
        checked = loradeck("hub", "check-artifacts", url, AWS_ENDPOINT_URL=lying)
        hub = loradeck("hub", "--data", str(tmp_path / "hub"), "--artifacts", url, AWS_ENDPOINT_URL=lying)
    for refused in (checked, hub):
        assert refused.returncode != 0
        assert "overwritten by a put that only creates" in refused.stderr
        assert SECRET not in refused.stdout + refused.stderr


def test_a_wrong_secret_is_refused_at_start(url: str, tmp_path: Path) -> None:
    words = ("hub", "--data", str(tmp_path / "hub"), "--artifacts", url)
    refused = loradeck(*words, AWS_SECRET_ACCESS_KEY="another-secret")
    assert refused.returncode != 0
    assert "the object store cannot be used" in refused.stderr
    assert "another-secret" not in refused.stdout + refused.stderr


def test_a_folder_of_artifacts_is_copied_to_the_store_and_back(url: str, tmp_path: Path) -> None:
    put(FolderBlobs(tmp_path / "a"), [LARGE], SHA)
    there = loradeck("hub", "copy-artifacts", "--from", str(tmp_path / "a"), "--to", url)
    back = loradeck("hub", "copy-artifacts", "--from", url, "--to", str(tmp_path / "b"))
    assert (there.returncode, back.returncode) == (0, 0), there.stderr + back.stderr
    assert b"".join(FolderBlobs(tmp_path / "b").open(SHA)) == LARGE
    assert copy(FolderBlobs(tmp_path / "b"), open_blobs(url, tmp_path / "scratch")) == (0, 0)


# ---- a hub -----------------------------------------------------------------------------------------------


async def test_a_large_file_comes_from_the_store_for_those_who_can_follow(deck: Deck) -> None:
    await deck.blob(LARGE)
    old = await deck.local.get(f"blobs/{SHA}")
    assert (old.status_code, old.content) == (200, LARGE), "an agent of before gets it through the hub"
    new = await deck.local.get(f"blobs/{SHA}", headers={SIGNED_URLS: "1"})
    assert (new.status_code, new.headers["cache-control"]) == (307, "no-store")
    signed = new.headers["location"]
    assert SECRET not in signed
    async with httpx.AsyncClient() as anybody:
        assert (await anybody.get(signed)).content == LARGE
        assert (await anybody.get(signed.replace(SHA, "0" * 64))).status_code == 403, "for this file only"
        assert (await anybody.get(signed.partition("?")[0])).status_code == 403
        stranger = await anybody.get(f"http://127.0.0.1:{deck.port}/v1/blobs/{SHA}", headers={SIGNED_URLS: "1"})
        assert (stranger.status_code, "location" in stranger.headers) == (401, False)
    small = (await deck.blob(b"small")).sha256
    assert (await deck.local.get(f"blobs/{small}", headers={SIGNED_URLS: "1"})).content == b"small"


async def test_the_agents_client_follows(deck: Deck) -> None:
    await deck.blob(LARGE)
    token = await deck.token("releaser")
    login = cast(Login, SimpleNamespace(headers={"authorization": f"Bearer {token}"}, tls=None, server=None))
    api = HubApi(cast(AgentConfig, SimpleNamespace(hub=f"http://127.0.0.1:{deck.port}")), lambda: login)
    got: list[bytes] = []
    await api.blob(SHA, got.append)
    api.close()
    assert b"".join(got) == LARGE


async def test_the_bytes_of_erased_rows_are_gone_at_once(deck: Deck) -> None:
    await deck.tenant()
    sha256 = deck.hub.catalogue.datasets[await dataset(deck, [ROW])].files[0].sha256
    assert deck.hub.blobs.has(sha256)
    await deck.ok("POST", "erasures", execution(await plan(deck, rows=[DIGEST])))
    assert sha256 not in deck.hub.blobs.listed()
    assert not list((deck.data / "artifacts").rglob(sha256)), "nor on the hub's disk"


async def test_the_newest_checkpoint_of_a_job_is_kept_and_older_ones_are_removed(deck: Deck) -> None:
    await deck.tenant()
    await deck.base()
    await deck.suite()
    submitted = await train(deck)
    agent = await LinkedAgent(deck, "n1").join()
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    first, second = await deck.blob(LARGE), await deck.blob(b"step 4")
    for step, file in ((2, first), (4, second)):
        data = {"folder": "x", "files": [{**file.model_dump(), "path": "state.safetensors"}]}
        await agent.say(assigned, ExecutorEventType.CHECKPOINT, seq=step, step=step, of=9, data=data)
        await until(lambda step=step: deck.hub.jobs.get(submitted["id"]).step == step, "taken in")  # type: ignore[misc]
    await until(lambda: not deck.hub.blobs.has(first.sha256), "the old one is removed")
    assert deck.hub.blobs.has(second.sha256)
    await agent.leave()


def test_a_fleet_promotes_with_its_artifacts_in_the_store(url: str, tmp_path: Path) -> None:
    material = make_material(tmp_path)
    with fleet_at(material.base, hub_options=("--artifacts", url), names=("gpu-01",)) as fleet:
        cast_, _ = lay(fleet, material)
        fleet.kill_hub()
        fleet.start_hub()
        promote(fleet, cast_.releases[LABELS[2]])
        assert row(fleet)["live"]["id"] == cast_.releases[LABELS[2]]
        assert {path.name for path in (fleet.data / "artifacts").iterdir()} == {"incoming"}
        for log in fleet.root.rglob("*.log"):
            assert SECRET not in log.read_text(errors="replace")


# ---- a hub that is killed --------------------------------------------------------------------------------


def test_a_hub_that_is_killed_in_an_upload_leaves_the_whole_file_or_none(url: str, tmp_path: Path) -> None:
    content = os.urandom(48 << 20)
    sha256 = hashlib.sha256(content).hexdigest()
    store = open_blobs(url, tmp_path / "scratch")
    data = Path(f"/tmp/ld{os.getpid()}k")
    seen = set()
    for seconds in (0.05, 0.15, 0.3, 0.5, 0.8, None):
        hub = subprocess.Popen([LORADECK, "hub", "--data", data, "--artifacts", url], stderr=subprocess.PIPE)
        assert hub.stderr is not None
        assert b"ready" in hub.stderr.readline()
        threading.Thread(target=hub.stderr.read).start()
        answers: list[int] = []
        upload = threading.Thread(target=_upload, args=(data, sha256, content, answers.append))
        upload.start()
        if seconds is not None:
            time.sleep(seconds)
            hub.send_signal(signal.SIGKILL)
        upload.join()
        if store.has(sha256):
            assert b"".join(store.open(sha256)) == content
        seen.add(store.has(sha256))
        if seconds is not None:
            assert not answers or store.has(sha256), "what was acknowledged is there"
            store.delete([sha256])
        else:
            assert (answers, store.has(sha256)) == ([200], True)
        hub.kill()
        hub.wait()
    assert seen == {True, False}
    assert list((data / "artifacts" / "incoming").iterdir()) == []


def _upload(data: Path, sha256: str, content: bytes, answer: Callable[[int], None]) -> None:
    transport = httpx.HTTPTransport(uds=str(data / "hub.sock"))
    with httpx.Client(transport=transport, base_url="http://hub/v1/", timeout=60) as client:
        try:
            answer(client.put(f"blobs/{sha256}", content=content).status_code)
        except httpx.TransportError:
            return
