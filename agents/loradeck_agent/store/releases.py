"""Adapters on this node: fetched from the hub by digest, verified before any engine sees them, never changed.

What an engine would take without complaint and serve wrongly is refused here: another base of the same shapes, tensors
that match nothing, a file that is cut short, a pickle. The hashes of files are compared in
`loradeck.artifacts.hash_checks`, for nodes and the hub alike.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from loradeck import artifacts
from loradeck.artifacts.signing import verify_apart, verify_weights_apart
from loradeck.rules.serving.vram import RANKS
from loradeck.schemas.attestation import AttestationKind, Signature
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import AdapterManifest, Form, Release
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import StateFolder, write_durably
from loradeck_agent.store.fetch import as_agent_error, disk_error, fetch
from loradeck_agent.uplink.hub_api import HubApi


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


def verify_adapter(folder: Path, manifest: AdapterManifest, base: Path, *, beside: Collection[str] = ()) -> None:
    """Checks an adapter's folder against its manifest and its base. Blocks: call it in a thread.

    Raises: AgentError: what does not fit.
    """
    with as_agent_error(folder):
        artifacts.verify_adapter(folder, manifest, base, beside=beside)


log = logging.getLogger(__name__)

_LEAVING = ".leaving"
"""End of the name of a folder that is being removed."""

_kept_signatures = TypeAdapter(list[Signature])


class ReleaseStore:
    """The adapters of this node: `releases/DIGEST/` and, beside it, the manifest `releases/DIGEST.json`.

    `signers` are the public keys that this node itself asks for: one of them has signed what is loaded here. None: it
    asks for no more than routes do.
    """

    def __init__(self, folder: StateFolder, hub: HubApi, signers: frozenset[str] = frozenset()) -> None:
        self.signers = signers
        self._folder = folder
        self._hub = hub
        self._turns: dict[str, asyncio.Lock] = {}
        self._signed: dict[str, set[str]] = {}
        """Digest of an adapter or of weights -> the keys of which a signature was verified since the agent started."""
        self._fit: set[tuple[str, Path]] = set()
        """Digests of adapters whose tensors were held against a base's folder since the agent started. Where their
        files are the same still, so is what came of it."""
        self._stored = {path.stem for path in folder.releases.glob("*.json") if path.with_suffix("").is_dir()}

    @property
    def stored(self) -> frozenset[str]:
        """Digests of the adapters that lie here whole, with their manifests."""
        return frozenset(self._stored)

    def signed(self, subject: str, signers: Sequence[frozenset[str]]) -> bool:
        """Tells whether all signatures that are asked for were verified before, of the same digest: they still hold."""
        known = self._signed.get(subject, set())
        return all(wanted & known for wanted in self._wanted(signers))

    def _wanted(self, signers: Sequence[frozenset[str]]) -> Sequence[frozenset[str]]:
        return [*signers, self.signers] if self.signers else signers

    def manifests(self, digests: Iterable[str]) -> tuple[AdapterManifest, ...]:
        """The manifests of those of these adapters that lie here whole and can be read."""
        return tuple(manifest for _, manifest in self._readable(self._stored & set(digests)))

    def releases(self) -> dict[str, str]:
        """The releases whose adapter lies here whole: release id -> adapter digest."""
        each = self._readable(self._stored)
        return {Release(tenant=m.tenant, form=Form.ADAPTER, base=m.base, adapter=one).id: one for one, m in each}

    def _readable(self, digests: Iterable[str]) -> Iterator[tuple[str, AdapterManifest]]:
        for digest in digests:
            try:
                manifest = AdapterManifest.model_validate_json(self._manifest_path(digest).read_bytes())
            except (OSError, ValidationError) as error:
                log.warning("the manifest of %s cannot be read: %s", digest[:12], error)
            else:
                yield digest, manifest

    def forget(self, digests: Iterable[str]) -> list[Path]:
        """Takes adapters out of this store at once. Returns the folders that are to be removed.

        One that is being fetched or verified stays, and so does what it was asked for.
        """
        for digest in digests:
            if (turn := self._turns.get(digest)) is not None and turn.locked():
                continue
            folder = self._folder.release(digest)
            folder.rename(folder.with_name(f".{digest}{_LEAVING}"))
            self._stored.discard(digest)
            self._signed.pop(digest, None)
            self._manifest_path(digest).unlink(missing_ok=True)
            (self._folder.releases / f"{digest}.signatures.json").unlink(missing_ok=True)
        self._fit = {(digest, base) for digest, base in self._fit if digest in self._stored}
        return sorted(self._folder.releases.glob(f".*{_LEAVING}"))

    async def ensure(
        self,
        ref: ReleaseRef,
        base: str,
        base_folder: Path,
        rank_limit: int | None = None,
        signers: Sequence[frozenset[str]] = (),
    ) -> Path:
        """The folder of a release's adapter, present and verified against the base it is about to be loaded on.

        Args:
            base: digest of the base the engine runs.
            rank_limit: highest rank that the engine takes; None where it takes any.
            signers: public keys, one set for each route that asks for a signature by one of them.

        Raises: AgentError: `wrong_base`, `rank_too_high`, `manifest_mismatch`, `truncated_safetensors`,
        `pickle_in_adapter`, `unsigned`, `bad_signature`, ...; `disk_full`; or why the hub did not give it. No file of
        another release was touched.
        """
        adapter = ref.release.adapter
        if adapter is None:
            raise AgentError("not_an_adapter", "the release is a base alone: there is nothing to load", ref.id)
        async with self._turns.setdefault(adapter, asyncio.Lock()):
            manifest = await self._manifest(ref, adapter)
            check_manifest(ref, manifest, adapter, base)
            if manifest.dora:
                fix = "merge it (loradeck job merge), and promote the merged release"
                raise AgentError("unsupported_adapter", "no engine serves DoRA", ref.id, fix)
            if rank_limit is not None and manifest.rank > rank_limit:
                raise rank_too_high(manifest.rank, rank_limit)
            folder = await self.have(manifest, base_folder)
            files = {entry.path: folder / entry.path for entry in manifest.files}
            for signature in await self._asked_for(adapter, signers):
                with as_agent_error(folder):
                    await verify_apart(files, signature, beside=self._folder.releases)
                self._signed.setdefault(adapter, set()).add(signature.public_key.strip())
            return folder

    async def check_weights(self, ref: ReleaseRef, folder: Path, signers: Sequence[frozenset[str]]) -> None:
        """Checks that the weights in an engine's folder are those of a release of whole weights, and signed.

        Raises: AgentError: `manifest_mismatch`, `unsigned`, `bad_signature`, `signing_unavailable`; or why the hub did
        not answer.
        """
        with as_agent_error(folder):
            here = await asyncio.to_thread(artifacts.base_here, folder, cache=self._folder.digests)
        if here.digest != ref.release.served_base:
            raise AgentError(
                "manifest_mismatch",
                "the engine's folder does not hold the release's weights",
                f"{folder}: digest {short(here.digest)}, the release names {short(ref.release.served_base)}",
            )
        for signature in await self._asked_for(here.digest, signers):
            with as_agent_error(folder):
                await verify_weights_apart(here, signature)
            self._signed.setdefault(here.digest, set()).add(signature.public_key.strip())

    async def _asked_for(self, subject: str, signers: Sequence[frozenset[str]]) -> list[Signature]:
        """For each set of signers, and for this node's own, a signature by one of them, which is still to be verified.

        None where all were verified before.

        Raises: AgentError: `unsigned`; or why the hub did not answer.
        """
        if self.signed(subject, signers):
            return []
        kept = await self._signatures(subject)
        found = []
        for wanted in self._wanted(signers):
            ours = [signature for signature in kept if signature.public_key.strip() in wanted]
            if not ours:
                raise AgentError(
                    "unsigned",
                    "this node asks for a signature, and the release carries none by its own signers"
                    if wanted is self.signers
                    else "the route asks for a signature, and the release carries none by its signers",
                    f"{len(wanted)} signers, {len(kept)} signatures",
                    "loradeck adapter sign, or loradeck release sign for whole weights",
                )
            found.append(ours[0])
        return found

    async def _signatures(self, subject: str) -> list[Signature]:
        """The signatures that the hub has; a copy is kept beside the files, for when the hub cannot be asked."""
        path = self._folder.releases / f"{subject}.signatures.json"
        try:
            stated = await self._hub.attestations(AttestationKind.SIGNATURE, subject)
        except Unreachable:
            if not path.is_file():
                raise
            return _kept_signatures.validate_json(path.read_bytes())
        found = [Signature.model_validate(attestation.body) for attestation in stated]
        await asyncio.to_thread(write_durably, path, _kept_signatures.dump_json(found))
        return found

    async def have(self, manifest: AdapterManifest, base_folder: Path) -> Path:
        """The folder of an adapter whose manifest is trusted; fetched when it is not here."""
        digest = manifest.digest
        target, verify = self._folder.release(digest), partial(verify_adapter, manifest=manifest, base=base_folder)
        if target.is_dir():
            try:
                if (digest, base_folder) in self._fit:
                    with as_agent_error(target):
                        await asyncio.to_thread(artifacts.verify_folder, manifest.files, target)
                else:
                    await asyncio.to_thread(verify, target)
            except AgentError as error:
                raise damaged(error, target) from error
            self._fit.add((digest, base_folder))
            return target
        self._stored.discard(digest)
        await fetch(self._hub, manifest.files, target, verify=verify)
        try:
            await asyncio.to_thread(write_durably, self._manifest_path(digest), manifest.model_dump_json().encode())
        except OSError as error:
            raise disk_error(error, self._manifest_path(digest)) from error
        self._stored.add(digest)
        return target

    def _manifest_path(self, digest: str) -> Path:
        return self._folder.releases / f"{digest}.json"

    async def _manifest(self, ref: ReleaseRef, adapter: str) -> AdapterManifest:
        """The manifest, kept beside the files, so that a release is loaded again without the hub."""
        try:
            return AdapterManifest.model_validate_json(self._manifest_path(adapter).read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValidationError) as error:
            raise AgentError(
                "manifest_mismatch",
                "the manifest kept on this node is damaged",
                f"{self._manifest_path(adapter)}: {error}",
                "move that file away: the hub is asked for it again",
            ) from error
        document = await self._hub.release(ref.id)
        if document.manifest is None:
            raise AgentError("manifest_mismatch", "the hub has no manifest for this release", ref.id)
        return document.manifest
