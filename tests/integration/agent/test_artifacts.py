"""Adapters that must not be served: each is refused before the engine, and the left release goes on."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.agent.artifacts import CANARIES, Adapter, base_release, entry, make_adapter
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.artifacts import base_manifest
from loradeck.artifacts.signing import new_key, sign, sign_weights
from loradeck.schemas.attestation import Attestation, AttestationKind, Signature
from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.jobs import JobAssignment, PrepareSpec
from loradeck.schemas.link import Hello
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.table import ReleaseRef, TableEntry

KEYS = (CALLER_HASH,)
WEIGHTS = "adapter_model.safetensors"


def truncated(base: str) -> Adapter:
    files = make_adapter(base, 9).files
    return make_adapter(base, 9, files=files | {WEIGHTS: files[WEIGHTS][:-64]})


def pickled(base: str) -> Adapter:
    files = make_adapter(base, 9).files
    return make_adapter(base, 9, files=files | {"adapter_model.bin": b"\x80\x04N."})


def wrong_base(base: str) -> Adapter:
    return make_adapter(base, 9, manifest_base="b" * 64)


def other_layers(base: str) -> Adapter:
    files = make_adapter(base, 9).files
    raw = files[WEIGHTS]
    size = struct.unpack("<Q", raw[:8])[0]
    header: dict[str, Any] = json.loads(raw[8 : 8 + size])
    header = {key.replace("layers.1.", "layers.7."): value for key, value in header.items()}
    text = json.dumps(header).encode()
    return make_adapter(base, 9, files=files | {WEIGHTS: struct.pack("<Q", len(text)) + text + raw[8 + size :]})


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (truncated, "truncated_safetensors"),
        (pickled, "pickle_in_adapter"),
        (other_layers, "wrong_base"),
    ],
)
async def test_a_spoilt_adapter_never_reaches_the_engine(
    node: Node, hub: FakeHub, v1: Adapter, base_digest: str, spoil: Callable[[str], Adapter], code: str
) -> None:
    bad = spoil(base_digest)
    hub.add_release(bad.release, bad.manifest, bad.files)
    await refused(node, hub, v1, bad.ref, code)


async def test_an_adapter_of_another_base_never_reaches_the_engine(
    node: Node, hub: FakeHub, v1: Adapter, base_digest: str
) -> None:
    foreign = wrong_base(base_digest)
    # A release that claims our base, with an adapter that was trained on another.
    release = Release(tenant="acme", form=Form.ADAPTER, base=base_digest, adapter=foreign.manifest.digest, label="v9")
    hub.add_release(release, foreign.manifest, foreign.files)
    await refused(node, hub, v1, ReleaseRef(id=release.id, release=release, label="v9"), "wrong_base")


async def test_an_adapter_that_no_signer_of_the_route_signed_is_verified_and_refused_before_the_engine(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter, tmp_path: Path
) -> None:
    await hub.desire(first := entry(v1.ref, 1, keys=KEYS))
    await hub.ack(first, "proven")
    public, folder = tmp_path / "k.pub", tmp_path / "files"
    new_key(tmp_path / "k", public)
    folder.mkdir()
    for name, data in v2.files.items():
        (folder / name).write_bytes(data)
    right = sign(folder, v2.manifest.digest, tmp_path / "k", public)
    (folder / WEIGHTS).write_bytes(v1.files[WEIGHTS])
    wrong = sign(folder, v2.manifest.digest, tmp_path / "k", public)

    async def desired(generation: int, signature: Signature | None) -> TableEntry:
        if signature is not None:
            body = signature.model_dump(mode="json")
            kind = AttestationKind.SIGNATURE
            hub.attestations[:] = [Attestation(kind=kind, subject=v2.manifest.digest, tenant="acme", body=body, by="x")]
        wanted = entry(v2.ref, generation, beneath=(v1.ref,), keys=KEYS)
        wanted = wanted.model_copy(update={"signers": (public.read_text(),)})
        await hub.desire(wanted)
        return wanted

    for generation, signature, code in ((2, None, "unsigned"), (3, wrong, "bad_signature")):
        failed = await hub.ack(await desired(generation, signature), "failed")
        assert failed.code == code, failed
        assert f"load {v2.ref.engine_name}" not in node.engine_calls()
        assert await node.tokens("hello") == v1.tokens("hello")
    await hub.ack(await desired(4, right), "proven")
    assert await node.tokens("hello") == v2.tokens("hello")


async def test_merged_weights_are_prepared_only_under_a_signature_of_the_files_that_the_engine_runs(
    node: Node, hub: FakeHub, v1: Adapter, base: Path, base_digest: str, tmp_path: Path
) -> None:
    private, public = tmp_path / "k", tmp_path / "k.pub"
    new_key(private, public)
    weights = base_manifest(base, "-", "-")
    changed = weights.files[0].model_copy(update={"sha256": "f" * 64})
    others = weights.model_copy(update={"files": (changed, *weights.files[1:])})
    made = Release(tenant="acme", form=Form.MERGED, base="b" * 64, adapter=v1.manifest.digest, merged=base_digest)
    ref = ReleaseRef(id=made.id, release=made, label="v1m")
    first = entry(base_release(base_digest), 1, preparing=ref, keys=KEYS)
    await hub.desire(first.model_copy(update={"signers": (public.read_text(),)}))
    await hub.ack(first, "listed")
    spec = PrepareSpec(tenant="acme", route="production", release=made.id, expected_generation=1)

    signatures = (None, sign_weights(others, private, public), sign_weights(weights, private, public))
    for job, (signature, code) in enumerate(zip(signatures, ("unsigned", "bad_signature", None), strict=True)):
        body = signature.model_dump(mode="json") if signature is not None else {}
        kind = AttestationKind.SIGNATURE
        stated = Attestation(kind=kind, subject=base_digest, tenant="acme", body=body, by="x")
        hub.attestations[:] = [one for one in hub.attestations if one.kind is not kind] + [stated] * bool(body)
        await hub.give(JobAssignment(id=f"p{job}", lease=1, attempt=1, spec=spec, release=ref, canaries=CANARIES))
        end = await hub.job_end(f"p{job}")
        assert end.event.code == code, end
        assert end.event.type is (ExecutorEventType.FAILED if code else ExecutorEventType.FINISHED)
        assert not [call for call in node.engine_calls() if call.startswith("load")]


async def test_a_node_that_joins_later_serves_merged_weights_only_under_a_signature_of_its_own_files(
    stopped: Node, hub: FakeHub, v1: Adapter, base: Path, base_digest: str, tmp_path: Path
) -> None:
    node, (private, public) = stopped, (tmp_path / "k", tmp_path / "k.pub")
    new_key(private, public)
    weights = base_manifest(base, "-", "-")
    changed = weights.files[0].model_copy(update={"sha256": "f" * 64})
    others = weights.model_copy(update={"files": (changed, *weights.files[1:])})
    made = Release(tenant="acme", form=Form.MERGED, base="b" * 64, adapter=v1.manifest.digest, merged=base_digest)
    ref = ReleaseRef(id=made.id, release=made, label="v1m")

    async def desired(generation: int, signature: Signature | None) -> TableEntry:
        kind, body = AttestationKind.SIGNATURE, signature.model_dump(mode="json") if signature is not None else {}
        stated = Attestation(kind=kind, subject=base_digest, tenant="acme", body=body, by="x")
        hub.attestations[:] = [one for one in hub.attestations if one.kind is not kind] + [stated] * bool(body)
        wanted = entry(ref, generation, keys=KEYS).model_copy(update={"signers": (public.read_text(),)})
        await hub.desire(wanted)
        return wanted

    wanted = await desired(1, None)  # it was prepared and committed on others, before this node was there
    node.start()
    for signature, code in ((None, "unsigned"), (sign_weights(others, private, public), "bad_signature")):
        if signature is not None:
            wanted = await desired(2, signature)
        failed = await hub.ack(wanted, "failed")
        assert failed.code == code, failed
        assert (await node.router_state()).in_force == ()
        assert (await node.ask("hello"))[0] == 503
    await hub.ack(await desired(3, sign_weights(weights, private, public)), "flipped")
    assert (await node.ask("hello"))[0] == 200

    hub.attestations.clear()
    heard = len(hub.heard)
    await node.end_agent()
    node.start()
    await hub.wait(Hello, after=heard)
    await hub.report(lambda report: report.replicas[0].state is EngineState.UP)
    assert await node.router_has(ref.id)
    assert (await node.ask("hello"))[0] == 200, "it was let in already, in this lifetime of the engine"


async def test_bytes_that_are_not_the_manifests_never_reach_the_engine(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    sha = {entry.path: entry.sha256 for entry in v2.manifest.files}[WEIGHTS]
    data = bytearray(hub.blobs[sha])
    data[-1] ^= 1
    hub.blobs[sha] = bytes(data)
    await refused(node, hub, v1, v2.ref, "digest_mismatch")


async def test_another_manifest_than_the_releases_never_reaches_the_engine(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter, v3: Adapter
) -> None:
    hub.releases[v2.release.id] = (v2.release, v3.manifest)
    await refused(node, hub, v1, v2.ref, "manifest_mismatch")


async def test_a_path_that_leaves_its_folder_writes_nothing(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tuple(f.model_copy(update={"path": "../../../escaped"}) for f in v2.manifest.files)
    hub.releases[v2.release.id] = (v2.release, v2.manifest.model_copy(update={"files": files}))
    await refused(node, hub, v1, v2.ref, "path_traversal")
    assert not list(node.root.rglob("escaped"))


async def test_a_full_disk_refuses_the_release_and_changes_nothing(
    node: Node, hub: FakeHub, v1: Adapter, base_digest: str
) -> None:
    big = make_adapter(base_digest, 9, rank=512)
    hub.add_release(big.release, big.manifest, big.files)
    assert node.process is not None
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(first)
    await hub.ack(first, "proven")
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (128 * 1024, resource.RLIM_INFINITY))
    await refused(node, hub, v1, big.ref, "disk_full", generation=2)

    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = hub.entries["acme", "production"]
    await hub.ack(again, "proven")
    assert await node.tokens("hello") == big.tokens("hello")


async def refused(node: Node, hub: FakeHub, v1: Adapter, bad: ReleaseRef, code: str, *, generation: int = 2) -> None:
    """Asks for a release that must be refused with this code, and checks that nothing else changed."""
    if generation == 2 and ("acme", "production") not in hub.entries:
        first = entry(v1.ref, 1, keys=KEYS)
        await hub.desire(first)
        await hub.ack(first, "proven")
    wanted = entry(bad, generation, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(wanted)
    failed = await hub.ack(wanted, "failed")
    assert failed.code == code, failed
    assert f"load {bad.engine_name}" not in node.engine_calls()
    assert not [p for p in node.state.releases.iterdir() if p.name.startswith(".")], "no staging folder is left"
    assert bad.release.adapter is not None
    assert not node.state.release(bad.release.adapter).exists()
    assert await node.tokens("hello") == v1.tokens("hello")
