"""The tables that nodes are sent: one entry for each pointer, shared by all nodes that the pointer is placed on.

Nodes that the placements do not tell apart share one `Table`, so that a directive to a thousand of them is serialised
once. An entry's epoch is that of the event which last moved its pointer: a restart of the hub changes no entry.

An entry is written as text once and signed once, when the first node needs it. Nodes of version 1 of the wire get the
text alone, as the JSON object that it is.
"""

import hashlib
import json
from bisect import insort
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from loradeck.hub.fleet.link_socket import text_frame
from loradeck.hub.fleet.node import Node
from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.signing import Signing
from loradeck.rules.moves.rollback_target import ways_back
from loradeck.rules.quality.guard import asked_again_until_ms
from loradeck.rules.serving.placement import Site, site_of
from loradeck.schemas.content_checks import ContentChecks
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.judge import Judge
from loradeck.schemas.link import Desired
from loradeck.schemas.log import Event, PointerState
from loradeck.schemas.position import Position
from loradeck.schemas.protocol import SUPPORTED, Feature, unknown_features
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import CandidateRef, DeprecatedRelease, ReleaseRef, RouteResidency, Split, TableEntry
from loradeck.schemas.tenant import TenantState

BENEATH = 4
"""How many of the releases under the current one an entry names; the first is where R goes now."""


MEMO_BYTES = 64 * 2**20
"""Most bytes of messages that are kept for the next node with the same table: a rewind of a thousand pointers makes
hundreds of small ones, and nodes that link get whole tables."""


class Placing(NamedTuple):
    """Where a pointer is placed, and when its replicas refuse by themselves.

    A node must be one of the `site`, and its engine run the `base`. From the rev `set_at` on, an entry has this
    `refuse_after_s`.
    """

    site: Site
    base: str
    refuse_after_s: float | None
    set_at: int

    @property
    def where(self) -> tuple[Site, str]:
        """The site and the base."""
        return self.site, self.base

    def refuse_after_of(self, node: Node) -> float | None:
        """The refuse-after of the entry that a node holds; None: it has none, or may be an earlier one."""
        return self.refuse_after_s if node.behind is None and node.rev >= self.set_at else None


@dataclass(eq=False)
class Table:
    """The entries of all nodes with the same placement. `keys` are sorted; withdrawn ones stay as tombstones.

    `labels` None: of gateways, which are told of every pointer. `node`: its one node, where that is assigned routes.

    `own` are entries that its one node holds and the log lacks: it is sent them as they are, until a recover.
    """

    labels: dict[str, str] | None
    node: str
    own: Mapping[PointerKey, TableEntry]
    keys: list[PointerKey] = field(default_factory=list, init=False)
    withdrawn: set[PointerKey] = field(default_factory=set, init=False)
    members: set[PointerKey] = field(default_factory=set, init=False)
    digest: str | None = field(default=None, init=False)

    def holds(self, site: Site) -> bool:
        """Tells whether a pointer that is placed at this site belongs to it."""
        return self.labels is None or site.holds(self.node, self.labels)

    def put(self, key: PointerKey, placed: bool) -> bool:
        """Adds or withdraws an entry. Returns whether these nodes need it: it is placed there, or was until now."""
        if not placed and key not in self.members:
            return False
        if key not in self.members:
            self.members.add(key)
            insort(self.keys, key)
        if placed:
            self.withdrawn.discard(key)
        else:
            self.withdrawn.add(key)
        self.digest = None
        return True


class NodeTables:
    """All entries and tables, kept up to date pointer by pointer."""

    def __init__(self, catalogue: Catalogue, facts: Facts, signing: Signing) -> None:
        self._catalogue = catalogue
        self._facts = facts
        self._signing = signing
        self.entries: dict[PointerKey, TableEntry] = {}
        self._sites: dict[PointerKey, Site] = {}
        self._texts: dict[PointerKey, dict[tuple[bool, tuple[str, ...], bool], str]] = {}
        """By key, the entry in messages: (as its tombstone, what that names or what a router lacks, signed) -> text."""
        self._rows: dict[PointerKey, str] = {}
        self._tables: dict[tuple[frozenset[tuple[str, str]] | None, str, bool], Table] = {}
        self._own: dict[str, dict[PointerKey, TableEntry]] = {}
        self._homes: dict[PointerKey, set[Table]] = {}
        """Key -> the tables it is in, placed or withdrawn: a move touches these only."""
        self._labels: set[tuple[str, str]] = set()
        self._assigned: set[str] = set()
        """The nodes that some route of a pool is assigned to, or was: each has a table of its own."""
        self._set_at: dict[PointerKey, int] = {}
        """The rev at which a route's settings were last set, where the hub has seen it."""
        self._known_from = 0
        self.refuse_afters: set[float] = set()
        """Every refuse-after that some route has, or had."""
        self.elsewhere: Callable[[PointerKey], tuple[str, ...]] = lambda key: ()
        """The nodes that serve a pointer, as its tombstones name them."""
        self.version = 0
        """Grows each time that the tables are made anew."""
        self._memo: dict[tuple[Hashable, ...], bytes] = {}
        self._memo_bytes = 0

    # ---- entries -------------------------------------------------------------------------------------------

    def refresh(
        self, pointer: PointerState, tenant: TenantState, rev: int, preparing: str | None, last: Event | None = None
    ) -> bool:
        """Computes one entry anew. Returns whether it changed.

        Args:
            rev: of the newest event that concerns the pointer. It is the entry's, so that a restart changes no entry.
            preparing: the release that nodes are to make resident beside the current one.
            last: the pointer's last move.
        """
        key, epoch = pointer.key, pointer.moved_epoch
        config = tenant.routes.get(key[1], RouteConfig())
        live = pointer.release if not tenant.offboarded else None
        candidate = self._candidate(pointer, tenant) if live else None
        entry = TableEntry(
            tenant=key[0],
            route=key[1],
            epoch=epoch,
            generation=pointer.generation,
            current=self._ref(live),
            beneath=tuple(filter(None, map(self._ref, ways_back(pointer, self._facts.of(key))[:BENEATH])))
            if live
            else (),
            preparing=self._ref(preparing) if not tenant.offboarded else None,
            gap=config.gap,
            streams=config.streams,
            checks=config.checks.with_content(ContentChecks()),
            content=config.checks.content,
            judge=config.checks.judge,
            judge_release=self._judge(tenant.name, config.checks.judge),
            canaries=config.canaries,
            signers=config.signers,
            refuse_after_s=config.refuse_after_s,
            callers=config.callers,
            suspended=tenant.suspended or tenant.offboarded,
            keys=tuple(k.sha256 for k in tenant.keys),
            left=self._ref(last.left) if live and last is not None else None,
            moved_ms=pointer.moved_ms,
            candidate=candidate,
            residency=config.residency,
            asked_again_until_ms=asked_again_until_ms(
                config.guard, last.kind if last is not None else None, pointer.moved_ms, candidate=candidate is not None
            )
            if live
            else None,
            sample_hours=tenant.data.sample_hours if live else 0,
            samples_from_ms=self._facts.erased_ms.get(key[0], 0) if live and tenant.data.sample_hours else 0,
            count_inputs=bool(live and tenant.data.input_days),
            needs=_needs(candidate, config.residency),
            log=self._signing.log,
            incarnation=self._signing.incarnations.get(epoch, ""),
            rev=rev,
        )
        if self._facts.deprecated and (deprecated := tuple(self._deprecated(entry))):
            entry = entry.model_copy(update={"deprecated": deprecated})
        site = site_of(tenant, key[1])
        old, unmoved = self.entries.get(key), self._sites.get(key) == site
        if unmoved and entry == old:
            return False
        self.entries[key] = entry
        if entry.refuse_after_s is not None:
            self.refuse_afters.add(entry.refuse_after_s)
        self._sites[key] = site
        self._texts.pop(key, None)
        current = entry.current.id if entry.current else ""
        self._rows[key] = _row(key, str(epoch), str(entry.generation), current)
        labels, nodes = site.labels.items(), site.nodes or frozenset()
        if not (self._labels.issuperset(labels) and self._assigned.issuperset(nodes)):
            # Nodes that were alike may now differ: tables are made anew as links ask for them.
            self._labels.update(labels)
            self._assigned.update(nodes)
            self._anew()
        if unmoved:
            for table in self._homes.get(key, ()):
                table.put(key, key not in table.withdrawn)
        else:
            for table in self._tables.values():
                if table.put(key, table.holds(site)):
                    self._homes.setdefault(key, set()).add(table)
        self.forget_messages()
        return True

    def _ref(self, release: str | None) -> ReleaseRef | None:
        return self._catalogue.ref(release) if release else None

    def _judge(self, tenant: str, judge: Judge | None) -> ReleaseRef | None:
        """The release that judges, registered or a base alone; None: none is named."""
        if judge is None or judge.release is None:
            return None
        found = self._catalogue.release(judge.release, tenant)
        return ReleaseRef(id=judge.release, release=found, label=found.label) if found is not None else None

    def _candidate(self, pointer: PointerState, tenant: TenantState) -> CandidateRef | None:
        """The candidate as nodes are told of it. A shadow is asked nothing once its tenant's consent has ended."""
        ref = self._ref(pointer.candidate.release) if pointer.candidate is not None else None
        if pointer.candidate is None or ref is None:
            return None
        split = pointer.candidate.model_dump(include=set(Split.model_fields))
        if split["shadow"] and not tenant.data.shadow:
            split["permille"] = 0
        return CandidateRef(release=ref, **split)

    def _deprecated(self, entry: TableEntry) -> Iterator[DeprecatedRelease]:
        """The deprecated ones of an entry's releases: a router may come to answer with any of them."""
        for ref in {ref.id: ref for ref in entry.refs}.values():
            if (said := self._facts.deprecation(ref.release)) is not None:
                yield DeprecatedRelease(release=ref.id, from_ms=said.from_ms, until_ms=said.until_ms)

    # ---- tables --------------------------------------------------------------------------------------------

    def table(self, labels: Mapping[str, str] | None, node: str = "", *, own: bool = True) -> Table:
        """The table of a node with these labels (None: of gateways). Look it up for each message: placements change.

        `own`: with the entries of its own that the node may hold, as it is sent.
        """
        relevant = None if labels is None else frozenset(item for item in labels.items() if item in self._labels)
        holds = self._own.get(node) if own else None
        alone = node if holds is not None or node in self._assigned else ""
        name = (relevant, alone, holds is not None)
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = Table(None if relevant is None else dict(relevant), alone, holds or {})
            placed = [k for k, site in self._sites.items() if table.holds(site)]
            table.members = {*placed, *table.own}
            table.keys = sorted(table.members)
            for key in table.members:
                self._homes.setdefault(key, set()).add(table)
        return table

    def placing(self, key: PointerKey) -> Placing | None:
        """Returns where a pointer is placed; None: it has no release."""
        entry = self.entries.get(key)
        if entry is None or entry.current is None:
            return None
        set_at = self._set_at.get(key, self._known_from)
        return Placing(self._sites[key], entry.current.release.served_base, entry.refuse_after_s, set_at)

    def is_assigned(self, key: PointerKey) -> bool:
        """Tells whether a pointer is placed in a pool."""
        return key in self._sites and self._sites[key].nodes is not None

    def loaded(self, rev: int) -> None:
        """Notes that all entries are of the log up to a rev; when each route was set until then is not known."""
        self._known_from = rev

    def settings_set(self, key: PointerKey, rev: int) -> None:
        """Notes that an event has set a route's settings."""
        self._set_at[key] = rev

    def withdraw(self, table: Table, keys: Set[PointerKey]) -> None:
        """Adds tombstones of what nodes with this table may hold and is not placed on them."""
        for key in keys - table.members:
            table.put(key, placed=True)
            table.put(key, placed=False)
            self._homes.setdefault(key, set()).add(table)
            self.forget_messages()

    def placed(self, table: Table) -> set[PointerKey]:
        """The pointers that are placed on the nodes with this table."""
        return table.members - table.withdrawn

    def count(self, table: Table) -> int:
        """Counts the pointers that are placed on the nodes with this table."""
        return len(table.members) - len(table.withdrawn)

    def named(self, labels: Mapping[str, str], node: str, tenant: str) -> set[str]:
        """The releases of a tenant that a node's table names, and the base alone of each: what it was told to hold."""
        table, found = self.table(labels, node), set[str]()
        for key in table.members:
            if key[0] == tenant:
                entry = table.own.get(key) or self.entries[key]
                for ref in (*entry.refs, *([entry.left] if entry.left is not None else [])):
                    found |= {ref.id, self._catalogue.base_alone_id(tenant, ref.release.base)}
        return found

    def hold(self, own: Mapping[str, Iterable[TableEntry]]) -> None:
        """Takes note of the entries that each node holds and the log lacks. Tables are made anew."""
        self._own = {node: {entry.key: entry for entry in entries} for node, entries in own.items()}
        self._anew()

    def _anew(self) -> None:
        self._tables.clear()
        self._homes.clear()
        self.forget_messages()
        self.version += 1

    def digest(self, table: Table) -> str:
        """`schemas.table.table_digest` of the table's entries, from rows that are kept encoded."""
        if table.digest is None:
            rows = ",".join(self._table_row(table, k) for k in table.keys)
            table.digest = hashlib.sha256(f'{{"entries":[{rows}]}}'.encode()).hexdigest()
        return table.digest

    def _table_row(self, table: Table, key: PointerKey) -> str:
        own = table.own.get(key)
        if own is None and key not in table.withdrawn:
            return self._rows[key]
        entry = own or self.entries[key]
        release = own.current.id if own is not None and own.current is not None else ""
        return _row(key, str(entry.epoch), str(entry.generation), release)

    def _text(self, table: Table, key: PointerKey, features: Collection[str], signed: bool) -> str:
        own = table.own.get(key)
        if own is not None:
            given = own.for_router(features)  # its router may be of an earlier version than the one that took it
            return (given.signed if signed and given.signed is not None else given.unsigned()).model_dump_json()
        entry, withdrawn = self.entries[key], key in table.withdrawn
        elsewhere = self.elsewhere(key) if withdrawn else ()
        form = (withdrawn, elsewhere if withdrawn else tuple(unknown_features(entry.needs, features)), signed)
        texts = self._texts.setdefault(key, {})
        if form not in texts:
            body = (entry.tombstone(elsewhere) if withdrawn else entry.for_router(features)).model_dump_json()
            texts[form] = self._signing.entry(body).model_dump_json() if signed else body
        return texts[form]

    # ---- messages ------------------------------------------------------------------------------------------

    def desired(
        self,
        table: Table,
        *,
        epoch: int,
        rev: int,
        hash_: str,
        position: Position | None,
        prev_rev: int,
        keys: Collection[PointerKey] | None,
        unpin: tuple[PointerKey, ...] = (),
        features: frozenset[str] = SUPPORTED,
        signed: bool = True,
    ) -> bytes:
        """The frame of a `Desired`, encoded once for all links: the entries of `keys`, or the whole table for None.

        Args:
            features: what the routers act on that it is for.
            signed: whether its nodes read entries as signed texts.
        """
        name = (id(table), epoch, rev, prev_rev, None if keys is None else frozenset(keys), unpin, features, signed)
        frame = self._memo.get(name)
        if frame is None:
            wanted = table.keys if keys is None else [k for k in keys if k in table.members]
            head = Desired.model_construct(
                epoch=epoch,
                rev=rev,
                prev_rev=prev_rev,
                hash=hash_,
                entries=(),
                full=keys is None,
                table=self.digest(table),
                unpin=unpin,
                position=position,
            ).model_dump_json()
            entries = ",".join(self._text(table, k, features, signed) for k in wanted)
            text = head.replace('"entries":[]', f'"entries":[{entries}]', 1)
            frame = text_frame(text)
            self._memo_bytes += len(frame)
            if self._memo_bytes > MEMO_BYTES:
                self.forget_messages()
                self._memo_bytes = len(frame)
            self._memo[name] = frame
        return frame

    def forget_messages(self) -> None:
        """Drops the messages that were serialised for an older rev."""
        self._memo.clear()
        self._memo_bytes = 0


def _needs(candidate: CandidateRef | None, residency: RouteResidency) -> tuple[str, ...]:
    needed = {Feature.CANDIDATE: candidate is not None, Feature.ON_DEMAND: residency is RouteResidency.ON_DEMAND}
    return tuple(feature.value for feature, is_needed in needed.items() if is_needed)


def _row(key: PointerKey, epoch: str, generation: str, release: str) -> str:
    return json.dumps([*key, epoch, generation, release], separators=(",", ":"))
