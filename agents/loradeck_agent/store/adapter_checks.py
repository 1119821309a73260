"""Checks an adapter on this node before any engine gets it: its manifest, its base and its rank.

The hashes of its files are compared in `loradeck.artifacts.hash_checks`, for nodes and the hub alike.
"""

from collections.abc import Collection
from pathlib import Path

from loradeck import artifacts
from loradeck.rules.serving.vram import RANKS
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import AdapterManifest
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.errors import AgentError
from loradeck_agent.store.fetch import as_agent_error


def check_manifest(ref: ReleaseRef, manifest: AdapterManifest, adapter: str, base: str) -> None:
    """Checks that a manifest is the release's, and that its base is the engine's.

    Raises: AgentError: `manifest_mismatch`, `wrong_base`.
    """
    if ref.release.id != ref.id:
        raise AgentError("manifest_mismatch", "the release's id is not the digest of its parts", ref.id)
    if manifest.digest != adapter:
        raise AgentError(
            "manifest_mismatch",
            "the manifest is not the one the release names",
            f"digest {short(manifest.digest)}, the release names {short(adapter)}",
        )
    if manifest.tenant != ref.release.tenant:
        raise AgentError(
            "manifest_mismatch",
            "the adapter belongs to another tenant",
            f"{manifest.tenant}, the release is of {ref.release.tenant}",
        )
    if not manifest.base == ref.release.base == base:
        raise AgentError(
            "wrong_base",
            "the adapter was trained on another base",
            f"it names {short(manifest.base)}, the release {short(ref.release.base)}, the engine runs {short(base)}",
            "promote an adapter of this base, or place the route on nodes with the other",
        )


def damaged(error: AgentError, folder: Path) -> AgentError:
    """The fault of an adapter here, with the remedy where its files have changed since they were fetched.

    Nothing is removed by itself: an engine that lists the adapter would end with its next request.
    """
    if error.code != "manifest_mismatch":
        return error
    fix = f"once no engine of this node lists it, move {folder} away: it is fetched again"
    return AgentError(error.code, "files of the adapter on this node have changed", error.detail, fix)


def rank_too_high(rank: int, limit: int) -> AgentError:
    """The refusal of an adapter whose rank is above the engine's limit, with the limit to start it with."""
    enough = next((one for one in RANKS if one >= rank), None)
    return AgentError(
        "rank_too_high",
        "the adapter's rank is higher than the engine was started for",
        f"rank {rank}, the engine takes up to {limit}",
        f"start vLLM with --max-lora-rank {enough} and set `max_rank = {enough}`, or train with a rank of {limit}"
        if enough
        else f"vLLM takes ranks up to {RANKS[-1]}; train with a lower one",
    )


def verify_files(manifest: AdapterManifest, folder: Path) -> None:
    """Checks that a folder holds the files of a manifest and nothing else. Blocks: call it in a thread.

    Raises: AgentError: `manifest_mismatch` with each difference, `path_traversal`.
    """
    with as_agent_error(folder):
        artifacts.verify_folder(manifest.files, folder)


def verify_adapter(folder: Path, manifest: AdapterManifest, base: Path, *, beside: Collection[str] = ()) -> None:
    """Checks an adapter's folder against its manifest and its base. Blocks: call it in a thread.

    Raises: AgentError: what does not fit.
    """
    with as_agent_error(folder):
        artifacts.verify_adapter(folder, manifest, base, beside=beside)
