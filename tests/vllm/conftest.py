"""The real vLLM on the small word model, and a hub with one node that is attached to it.

Collected only where `LORADECK_VLLM_PYTHON` names the environment of vLLM (`make test-vllm`). There, a server
that does not start fails the tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests import vllm_server
from tests.fleets.processes.fleet import TENANT, Material, make_material
from tests.vllm.attached import KEY, SLOTS, Attached, attached
from tests.vllm_server import Server

HEAD = 32
"""The smallest head that vLLM's attention on CPU takes."""

WORKER_CALLS = {"VLLM_SERVER_DEV_MODE": "1"}
"""Opens vLLM's development route by which its workers are called."""

if not vllm_server.PYTHON:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """The word model with three adapters, and what each answers, computed by transformers and peft."""
    return make_material(tmp_path_factory.mktemp("material"), head_dim=HEAD)


@pytest.fixture(scope="session")
def shared(material: Material) -> Iterator[Server]:
    """One server for all tests that leave it running. Callers need its key."""
    with vllm_server.running(material.base, slots=SLOTS, cpu_slots=SLOTS, key=KEY) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    """The shared server; what a test loaded there by itself is unloaded after it."""
    before = shared.listed()
    yield shared
    for name in shared.listed().keys() - before.keys():
        shared.unload(name)


@pytest.fixture(scope="session")
def on_v2(shared: Server, material: Material) -> Iterator[Attached]:
    with attached(shared, material) as tenant:
        yield tenant


@pytest.fixture
def tenant(on_v2: Attached) -> Iterator[Attached]:
    """A hub and a node that is attached to the shared server: tenant acme is on v2, which came after v1."""
    yield on_v2
    if on_v2.row()["pointer"]["release"] != on_v2.cast.releases["v2"]:  # a test that moved it failed midway
        on_v2.move("undo", TENANT, "--yes")


class Expendable:
    """A server with room for two adapters, started again for whoever comes after a test that ended it."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._stack = ExitStack()
        self._server: Server | None = None

    def up(self) -> Server:
        if self._server is None or self._server.process.poll() is not None:
            self._stack.close()
            self._server = self._stack.enter_context(
                vllm_server.running(self._base, slots=1, cpu_slots=2, env=WORKER_CALLS)
            )
        return self._server

    def anew(self) -> Server:
        """A server that has loaded nothing yet, so that it counts adapters from 1."""
        self._stack.close()
        self._server = None
        return self.up()

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def expendable(material: Material) -> Iterator[Expendable]:
    made = Expendable(material.base)
    yield made
    made.close()
