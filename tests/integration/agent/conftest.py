from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.integration.agent.artifacts import Adapter, make_adapter, make_base
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.jobs import OWN, ROWS
from tests.integration.agent.node import Node

from loradeck.schemas.manifest import DatasetManifest, FileEntry, SuiteManifest

TOKEN = "token-of-gpu-01"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    make_base(folder)
    return folder


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    made = FakeHub(TOKEN, "gpu-01")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def stopped(folder: Path, base: Path, hub: FakeHub) -> Iterator[Node]:
    """A node whose agent the test starts itself."""
    made = Node(folder, base, hub.url, TOKEN)
    yield made
    made.close()


@pytest.fixture
async def node(stopped: Node, hub: FakeHub) -> Node:
    """A node whose agent runs and is linked, with its engine up."""
    stopped.start()
    await hub.report(lambda report: any(replica.state.value == "up" for replica in report.replicas))
    return stopped


@pytest.fixture(scope="session")
def base_digest(base: Path) -> str:
    from tests.integration.agent.fake_engine import base_digest as digest

    return digest(base)


@pytest.fixture
def v1(base_digest: str, hub: FakeHub) -> Adapter:
    return _known(hub, make_adapter(base_digest, 1))


@pytest.fixture
def v2(base_digest: str, hub: FakeHub) -> Adapter:
    return _known(hub, make_adapter(base_digest, 2))


@pytest.fixture
def v3(base_digest: str, hub: FakeHub) -> Adapter:
    return _known(hub, make_adapter(base_digest, 3))


def _known(hub: FakeHub, adapter: Adapter) -> Adapter:
    hub.add_release(adapter.release, adapter.manifest, adapter.files)
    return adapter


@pytest.fixture
def rows(hub: FakeHub) -> FileEntry:
    made = FileEntry(path="rows.jsonl", size=len(ROWS), sha256=hashlib.sha256(ROWS).hexdigest())
    hub.blobs[made.sha256] = ROWS
    return made


@pytest.fixture
def dataset(hub: FakeHub, rows: FileEntry) -> DatasetManifest:
    made = DatasetManifest(tenant="acme", name="tickets", rows=1, files=(rows,), provenance=OWN)
    hub.datasets.append(made)
    return made


@pytest.fixture
def suite(hub: FakeHub, rows: FileEntry) -> SuiteManifest:
    made = SuiteManifest(tenant="acme", name="held-out", items=1, files=(rows,), provenance=OWN)
    hub.suites.append(made)
    return made
