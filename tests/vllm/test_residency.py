"""What stays in a vLLM's memory when adapters come and go: what is listed, or what was unloaded?

vLLM's unload takes an adapter off its list and leaves it in its caches, which give up what was used least recently.
Read from the server's own debug log, since no answer tells: an evicted adapter is read from disk again, and serves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import vllm_server
from tests.fleets.processes.fleet import Material
from tests.vllm_server import Server

from loradeck_agent.host.engine_config import VllmEngine
from loradeck_agent.serving.engine_api import EngineAddress
from loradeck_agent.serving.vllm.api import VllmApi

pytestmark = pytest.mark.drawn(seconds=60)

SLOTS = 2
_ADDED = re.compile(r"Adding lora\. Model id: (\d+)")
_REMOVED = re.compile(r"Removing adapter int id: (\d+)")


class Log:
    """What the server adds to its memory and removes from it, from here on."""

    def __init__(self, server: Server) -> None:
        self._path = server.log
        self._from = len(self._read())

    def _read(self) -> str:
        return self._path.read_text(errors="replace")

    def added(self) -> set[str]:
        return set(_ADDED.findall(self._read()[self._from :]))

    def removed(self) -> set[str]:
        return set(_REMOVED.findall(self._read()[self._from :]))


@pytest.fixture
def small(material: Material) -> Iterator[Server]:
    """A server with room for two adapters, which says what it adds and removes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
        with vllm_server.running(material.base, slots=SLOTS, cpu_slots=SLOTS) as server:
            yield server


async def test_a_load_pushes_out_what_was_unloaded_and_not_a_release_that_nobody_asks_for(
    small: Server, material: Material, tmp_path: Path
) -> None:
    prior, left, new = material.adapters

    # Without us: the prior release is listed, and gone from memory. The next one who asks for it waits for a load.
    first = Log(small)
    assert small.load("prior", prior).is_success
    (number,) = first.added()
    assert small.load("left", left).is_success
    small.text("left", "w1")
    assert small.unload("left").is_success
    log = Log(small)
    assert small.load("new", new).is_success
    assert log.removed() == {number}
    assert "prior" in small.listed()
    log = Log(small)
    small.text("prior", "w1")
    assert log.added() == {number}, "it was read from disk again"
    for name in small.listed():
        small.unload(name)

    # With us: what was unloaded goes.
    config = VllmEngine(name="e0", kind="vllm", base=material.base, socket=small.socket, slots=SLOTS)
    folders = [tmp_path / "releases" / folder.name for folder in (prior, left, new)]
    for folder, there in zip(folders, (prior, left, new), strict=True):
        folder.parent.mkdir(exist_ok=True)
        folder.symlink_to(there)
    api = VllmApi(EngineAddress(socket=str(small.socket)), config, tmp_path / "digests.json")
    try:
        await api.load("our-prior", folders[0])
        first = Log(small)
        await api.load("our-left", folders[1])
        (number,) = first.added()
        small.text("our-left", "w1")
        await api.unload("our-left")
        log = Log(small)
        await api.load("our-new", folders[2])
        assert log.removed() == {number}
        log = Log(small)
        small.text("our-prior", "w1")
        assert log.added() == set()
    finally:
        api.close()
