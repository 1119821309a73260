"""Adapters that pointers name and this hub has no manifest of: the nodes that hold them send them back.

A hub that has lost everything learns pointers, keys and releases from its nodes' tables (`recover`). Manifests and
files lie on the nodes as well. Both are known by their digests, which the tables name: no node has to be believed.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from loradeck.artifacts.adapters import verify_blobs
from loradeck.artifacts.blobs.store import Blobs
from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.catalogue import Registry
from loradeck.hub.recovery.recover import ANSWER_S, Witnesses
from loradeck.rules.moves.recover import version_of
from loradeck.schemas.ids import short
from loradeck.schemas.link import MOST_ADAPTERS, TableState
from loradeck.schemas.manifest import AdapterManifest, Release
from loradeck.schemas.responses import LostAdapter, LostAdapters

COMES_S = 600.0
"""Seconds after which a node that was asked for an adapter is given up, and another one is asked."""


@dataclass(frozen=True, kw_only=True)
class _Sent:
    """An adapter that a node sends: its manifest, and until when it is waited for, by the event loop's clock."""

    node: str
    manifest: AdapterManifest
    until: float


@dataclass(eq=False)
class LostFiles:
    """Asks nodes for what is lacking, a little with each call of `step`, and registers what has come whole."""

    _fleet: Fleet
    _tables: NodeTables
    _registry: Registry
    _blobs: Blobs
    _witnesses: Witnesses
    _coming: dict[str, _Sent] = field(default_factory=dict, init=False)
    """By the adapter's digest."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def size_of(self, node: str | None, sha256: str) -> int | None:
        """Bytes of a file that this node was asked to send; None: it was not."""
        files = (file for sent in self._coming.values() if sent.node == node for file in sent.manifest.files)
        return next((file.size for file in files if file.sha256 == sha256), None)

    async def step(self) -> LostAdapters:
        """Registers adapters whose files have come, asks for those that nobody sends yet, and says where each is."""
        async with self._turn:
            whole = await asyncio.to_thread(self._whole, dict(self._coming))
            registered = [await self._register(digest) for digest in whole]
            lacking = self._lacking()
            await self._ask({digest for digest in lacking if not self._is_coming(digest)})
        found = []
        for digest, release in sorted(lacking.items(), key=lambda one: (one[1].tenant, one[1].label)):
            sender = self._coming[digest].node if self._is_coming(digest) else None
            found.append(LostAdapter(digest=digest, tenant=release.tenant, label=release.label, node=sender))
        return LostAdapters(registered=tuple(registered), lacking=tuple(found))

    def _lacking(self) -> dict[str, Release]:
        """The adapters that releases of pointers are made of and that are not registered."""
        catalogue = self._registry.catalogue
        named = [ref.release for entry in self._tables.entries.values() for ref in entry.refs]
        return {r.adapter: r for r in named if r.adapter is not None and r.adapter not in catalogue.adapters}

    def _is_coming(self, digest: str) -> bool:
        sent = self._coming.get(digest)
        if sent is None or asyncio.get_running_loop().time() > sent.until:
            return False
        sender = self._fleet.nodes.get(sent.node)
        return sender is not None and sender.link is not None

    async def _ask(self, digests: set[str]) -> None:
        """Has each linked node that holds one of these adapters send it, each adapter by one node."""
        left, answers = set(digests), []
        for node in self._fleet.linked():
            if mine := tuple(sorted(left & set(self._held(node))))[:MOST_ADAPTERS]:
                left.difference_update(mine)
                answers.append(self._answered(node.name, mine, self._witnesses.ask(node, adapters=mine)))
        await asyncio.gather(*answers)

    async def _answered(self, node: str, digests: tuple[str, ...], table: asyncio.Future[TableState]) -> None:
        """Expects the files that a node has answered for, from the moment of its answer: it sends them at once."""
        try:
            async with asyncio.timeout(ANSWER_S):
                state = await asyncio.shield(table)
        except TimeoutError:
            return
        until = asyncio.get_running_loop().time() + COMES_S
        for manifest in state.adapters:
            if manifest.digest in digests:
                self._coming[manifest.digest] = _Sent(node=node, manifest=manifest, until=until)

    def _held(self, node: Node) -> Iterable[str]:
        placed = self._tables.placed(self._tables.table(node.labels, node.name))
        refs = (ref for key in placed for ref in self._tables.entries[key].refs)
        return (ref.release.adapter for ref in refs if ref.release.adapter is not None)

    def _whole(self, coming: Mapping[str, _Sent]) -> list[str]:
        """The adapters of which every file has come. Blocking: the files may be in an object store."""
        return [
            digest
            for digest, sent in coming.items()
            if all(self._blobs.has(file.sha256) for file in sent.manifest.files)
        ]

    async def _register(self, digest: str) -> str:
        """Registers an adapter under the number that it had, and returns its name for people. Raises: BadArtifact."""
        sent = self._coming.pop(digest)
        manifest = sent.manifest
        async with self._blobs.local(file.sha256 for file in manifest.files) as paths:
            await asyncio.to_thread(verify_blobs, paths, self._blobs.scratch, manifest)
        releases = self._registry.catalogue.releases.values()
        release = next(r for r in releases if r.adapter == digest)
        number = version_of(release.label)
        await self._registry.register_adapter(manifest, release, sent.node, version=number)
        return f"{manifest.tenant}/{manifest.name} {release.label or short(digest)}"
