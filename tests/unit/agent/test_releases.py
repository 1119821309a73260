"""Adapters that lie on a node and have changed since: refused, left alone, and with a way out."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.integration.agent.artifacts import Adapter, make_adapter, make_base

from loradeck.artifacts import BadArtifact, adapters
from loradeck.schemas.attestation import AttestationKind, Signature
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import StateFolder
from loradeck_agent.store import releases
from loradeck_agent.store.releases import ReleaseStore
from loradeck_agent.uplink.hub_api import HubApi

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    folder = StateFolder(tmp_path / "state")
    folder.make()
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "base"


@pytest.fixture
def adapter(state: StateFolder, base: Path) -> Adapter:
    """One that was fetched before."""
    made = make_adapter(make_base(base), 1)
    folder = state.release(made.manifest.digest)
    folder.mkdir()
    for name, data in made.files.items():
        (folder / name).write_bytes(data)
    folder.with_suffix(".json").write_text(made.manifest.model_dump_json())
    return made


async def ensured(state: StateFolder, adapter: Adapter, base: Path) -> Path:
    hub = cast(HubApi, None)  # nothing of what is here needs it
    return await ReleaseStore(state, hub).ensure(adapter.ref, adapter.manifest.base, base)


async def test_dora_is_refused_before_its_files_are_looked_for(state: StateFolder, base: Path) -> None:
    made = make_adapter(make_base(base), 1)
    manifest = made.manifest.model_copy(update={"dora": True})
    release = made.release.model_copy(update={"adapter": manifest.digest})
    state.release(manifest.digest).with_suffix(".json").write_text(manifest.model_dump_json())
    with pytest.raises(AgentError) as refused:
        await ensured(state, Adapter(made.files, manifest, release, "v1"), base)
    assert (refused.value.code, "job merge" in refused.value.fix) == ("unsupported_adapter", True)


async def test_changed_files_are_refused_and_left_with_the_way_to_have_them_again(
    state: StateFolder, base: Path, adapter: Adapter
) -> None:
    folder = state.release(adapter.manifest.digest)
    assert await ensured(state, adapter, base) == folder
    (folder / WEIGHTS).write_bytes(adapter.files[WEIGHTS][:-1] + b"!")
    with pytest.raises(AgentError) as refused:
        await ensured(state, adapter, base)
    assert (refused.value.code, f"move {folder} away" in refused.value.fix) == ("manifest_mismatch", True)
    assert sorted(os.listdir(folder)) == sorted(adapter.files), "an engine may list it"


async def test_tensors_are_looked_at_once_in_an_agents_life_and_the_hashes_of_files_at_each_load(
    state: StateFolder, base: Path, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = list[Path]()
    monkeypatch.setattr(adapters, "check_values", lambda path, tensors: looked.append(path))
    store, folder = ReleaseStore(state, cast(HubApi, None)), state.release(adapter.manifest.digest)
    for _ in range(3):
        assert await store.ensure(adapter.ref, adapter.manifest.base, base) == folder
    assert looked == [folder / WEIGHTS]
    for name, data in ((WEIGHTS, adapter.files[WEIGHTS][:-1] + b"!"), ("more.bin", b"")):
        (folder / name).write_bytes(data)
        with pytest.raises(AgentError) as refused:
            await store.ensure(adapter.ref, adapter.manifest.base, base)
        assert refused.value.code == "manifest_mismatch"
        (folder / name).write_bytes(adapter.files[name]) if name in adapter.files else (folder / name).unlink()
    await store.ensure(adapter.ref, adapter.manifest.base, base)
    store.forget([adapter.manifest.digest])
    assert not store._fit, "what has left the node takes no memory"


async def test_a_signature_that_was_verified_is_not_asked_of_the_hub_again(
    state: StateFolder, base: Path, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, digest = list[str](), adapter.manifest.digest
    signatures = [Signature(subject=digest, public_key=f"key {n}", bundle="{}") for n in range(2)]

    class Hub:
        async def attestations(self, kind: AttestationKind, subject: str) -> list[Any]:
            asked.append(subject)
            return [SimpleNamespace(body=one.model_dump()) for one in signatures]

    async def verify(files: Any, signature: Signature, **_: object) -> None:
        if signature.public_key == "key 1":
            raise BadArtifact("bad_signature", "it is of other files")

    monkeypatch.setattr(releases, "verify_apart", verify)
    store = ReleaseStore(state, cast(HubApi, Hub()))
    good, bad = (frozenset({f"key {n}"}) for n in range(2))
    for _ in range(3):
        await store.ensure(adapter.ref, adapter.manifest.base, base, signers=[good])
    assert (asked, store.signed(digest, [good]), store.signed(digest, [good, bad])) == ([digest], True, False)
    for _ in range(2):
        with pytest.raises(AgentError, match="bad_signature"):
            await store.ensure(adapter.ref, adapter.manifest.base, base, signers=[good, bad])
    assert len(asked) == 3, "one that is not right is asked for anew: another may have come"


async def test_a_manifest_that_was_damaged_here_names_the_file_to_move_away(
    state: StateFolder, base: Path, adapter: Adapter
) -> None:
    kept = state.release(adapter.manifest.digest).with_suffix(".json")
    kept.write_text("{")
    with pytest.raises(AgentError) as refused:
        await ensured(state, adapter, base)
    assert (refused.value.code, str(kept) in refused.value.detail) == ("manifest_mismatch", True)
    assert refused.value.fix == "move that file away: the hub is asked for it again"
    assert kept.read_text() == "{"
