"""The hub's metrics, and those of all pointers that alerts are made from, as Prometheus text."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.disk_reserve import DISK_FULL
from loradeck.hub.log.log import Log, Published
from loradeck.hub.log.takeover import Standby
from loradeck.hub.recovery.backups import Backups
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.quality.attention import alerting
from loradeck.rules.quality.health import ENOUGH
from loradeck.rules.quality.notices import Dated, refused_limit, refused_share
from loradeck.schemas.capacity import CapacityRow
from loradeck.schemas.judge import Judgement
from loradeck.schemas.replica_state import NOT_ACTIVE
from loradeck.schemas.state import TenantRow
from loradeck.strangers.connections import Connections

_ACTIVE = "1 while this hub holds the lease, 0 while it stands by."
_UNRENEWED = "Seconds since a hub that stands by read the newest renewal of the lease; it takes over after 3.5 s."
_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.12, 0.25, 0.5, 1, 2, 5, 10, 30)


class _Connections(Collector):
    """Whoever holds most of the connections to a hub."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def collect(self) -> Iterable[Metric]:
        """The ones that hold most."""
        text = (
            "Connections over TCP by whose key they have shown, of those who hold most: a tenant, a node or a person."
        )
        family = GaugeMetricFamily("loradeck_connections", text, labels=["of"])
        for whose, count in self._connections.most():
            family.add_metric([whose], count)
        yield family


class Metrics:
    """Counters and histograms of one hub, in a registry of its own."""

    backups: Backups | None = None
    """Those that this hub makes by the clock; None: it makes none."""
    given_up: Callable[[], int] = staticmethod(lambda: 0)
    """How many notices channels did not take."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.events = Counter("loradeck_events_total", "Events committed to the log.", ["kind"], registry=self.registry)
        self.commit = Histogram(
            "loradeck_commit_seconds", "Commit in the store, with its wait.", buckets=_BUCKETS, registry=self.registry
        )
        self.flipped = Histogram(
            "loradeck_flipped_seconds",
            "Commit to the last placed router's acknowledgement.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.refused = Counter(
            "loradeck_refused_total", "Requests that were refused.", ["code"], registry=self.registry
        )
        self.feed_resets = Counter(
            "loradeck_feed_resets_total", "Feeds ended because their reader was too slow.", registry=self.registry
        )

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        Gauge(f"loradeck_{name}", text, registry=self.registry).set_function(read)

    def stands_by(self, standby: Standby) -> None:
        """Adds the figures of a hub that stands by."""
        self._gauge("active", _ACTIVE, lambda: 0)
        self._gauge("lease_unrenewed_seconds", _UNRENEWED, lambda: standby.unrenewed_s)
        self._gauge("lag", "Events of the log that this hub has not folded yet.", lambda: standby.lag)

    def count_connections(self, connections: Connections) -> None:
        """Adds how many connections callers keep open over TCP, and how many were ended to make room."""
        self.registry.register(_Connections(connections))
        self._gauge("connections_ended", "Connections ended to make room for others.", lambda: connections.ended)

    def watch(self, log: Log, fleet: Fleet, changes: Changes, allowed: MovesAllowed, clock: Clock) -> None:
        """Adds the figures that are read from the hub's parts when somebody scrapes."""
        gauge, state = self._gauge, log.state
        gauge("active", _ACTIVE, lambda: allowed.refusing != NOT_ACTIVE)
        gauge("lease_unrenewed_seconds", _UNRENEWED, lambda: 0)
        gauge("rev", "Newest revision of the log.", lambda: state.rev)
        gauge("epoch", "Epoch of this hub's lease.", lambda: state.epoch)
        gauge("tenants", "Tenants, offboarded ones too.", lambda: len(state.tenants))
        gauge("nodes", "Nodes known.", lambda: len(fleet.nodes))
        gauge("nodes_linked", "Nodes with a link.", lambda: sum(1 for _ in fleet.linked()))
        gauge("nodes_lost", "Nodes past their TTL.", lambda: sum(node.lost for node in fleet.nodes.values()))
        gauge("feeds", "Consoles watching.", lambda: len(changes.subscribers))
        gauge("refusing", "1 while every move is refused.", lambda: allowed.refusing is not None)
        gauge("waiting", "1 while forward moves wait.", lambda: allowed.waiting is not None)
        gauge("disk_full", "1 while the hub's disk is full.", lambda: DISK_FULL in (allowed.refusing, allowed.waiting))
        gauge("one_copy", "1 while commits are on one server of the database alone.", lambda: log.one_copy)
        gauge("backup_late", "1 while two backups are overdue.", lambda: self.backups is not None and self.backups.late)
        gauge("notices_given_up", "Notices that a channel did not take.", lambda: self.given_up())
        gauge(
            "backup_timestamp_seconds",
            "When the newest backup was made, seconds since 1970 UTC; 0: there is none.",
            lambda: (self.backups.last_ms or 0) / 1000 if self.backups is not None else 0,
        )
        gauge(
            "clock_behind_seconds",
            "By how much the hub's clock is behind the newest stamp of its log.",
            lambda: max(0, log.recent[-1].at_ms - clock.now_ms()) / 1000 if log.recent else 0,
        )

    def committed(self, published: Published) -> None:
        """Counts committed events by kind; a follower of the log."""
        for event in published.events:
            self.events.labels(event.kind.value).inc()

    def refuse(self, code: str) -> None:
        """Counts a refused request."""
        self.refused.labels(code).inc()

    def text(self) -> bytes:
        """Writes all figures of the hub itself."""
        return generate_latest(self.registry)


def dated_metrics(near: Iterable[Dated]) -> bytes:
    """The metric of certificates that end soon, of rows that may not be kept much longer and of deprecated live
    releases, as Prometheus text.
    """
    registry = CollectorRegistry()
    gauge = Gauge(
        "loradeck_near_timestamp_seconds",
        "From two weeks before on, in seconds since 1970 UTC: the end of a certificate, of rows' retention, or of "
        "the promotes of a live release.",
        ["kind", "tenant", "route", "node", "dataset"],
        registry=registry,
    )
    for one in near:
        kind, *subject = one.subject
        gauge.labels(kind.value, *subject).set(one.at_ms / 1000)
    return generate_latest(registry)


def node_metrics(
    nodes: Iterable[Node],
    dropped: Mapping[str, int] = MappingProxyType({}),
    refused: Mapping[str, int] = MappingProxyType({}),
) -> bytes:
    """The metrics of engines' memory, of requests that met a release which was not loaded, of requests that were
    reported too late to judge a release by, and of nodes' messages that were refused, as Prometheus text.

    `dropped` and `refused`: node -> such requests, and such messages, since this hub began.
    """
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"loradeck_{name}", text, labels, registry=registry)

    slots = gauge(
        "replica_slots", "Releases that an engine holds at most, in memory (host) or mixed.", "replica", "level"
    )
    held = gauge(
        "replica_loaded", "Releases that an engine holds; those on its device where it says so.", "replica", "level"
    )
    evictions = gauge("replica_evictions", "Releases unloaded to make room, since the engine's start.", "replica")
    load = gauge("replica_load_seconds", "How long a load takes, in the mean.", "replica")
    requests = gauge(
        "node_on_demand_requests",
        "Requests for on-demand routes since the router's start; cold: after a load; hinted: loads before.",
        "node",
        "what",
    )
    waiting = gauge("node_cold_waiting", "Requests that wait for a load now.", "node")
    late = gauge("node_votes_dropped", "Requests that were reported too late to judge a release by them.", "node")
    for name, n in dropped.items():
        late.labels(name).set(n)
    ended = gauge("node_messages_refused", "Messages of a node that were refused, which ended its link.", "node")
    for name, n in refused.items():
        ended.labels(name).set(n)
    for node in nodes:
        for replica in node.replicas:
            slots.labels(replica.replica, "host").set(replica.slots)
            held.labels(replica.replica, "host").set(len(replica.loaded))
            if replica.batch_slots:
                slots.labels(replica.replica, "device").set(replica.batch_slots)
            if replica.on_device is not None:
                held.labels(replica.replica, "device").set(replica.on_device)
            evictions.labels(replica.replica).set(replica.evictions)
            if replica.load_s is not None:
                load.labels(replica.replica).set(replica.load_s)
        if (cold := node.cold) is not None:
            for what in ("asked", "cold", "refused", "hinted"):
                n = getattr(cold, what)
                requests.labels(node.name, what).set(n)
            waiting.labels(node.name).set(cold.waiting)
    return generate_latest(registry)


_POOLED = {
    "routes": "routes",
    "on_disk": "disk",
    "on_demand_requests": "asked",
    "on_demand_cold": "cold",
    "on_demand_refused": "refused",
    "cold_starts_minute": "minute",
    "cold_waiting": "waiting",
    "evictions": "evictions",
    "load_seconds": "load_s",
}
"""Metrics of pools -> the fields of `CapacityRow`, whose descriptions they have."""


def pool_metrics(pools: Iterable[CapacityRow]) -> bytes:
    """The metrics of pools as Prometheus text: of nodes that are heard now, and only what they measure."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"loradeck_pool_{name}", text, ("pool", *labels), registry=registry)

    known, heard = gauge("nodes", "Nodes of a pool."), gauge("nodes_heard", "Those that are heard now.")
    levels = gauge("slots", "Releases its engines hold at most.", "level"), gauge("loaded", "That they hold.", "level")
    gauges = {field: gauge(name, str(CapacityRow.model_fields[field].description)) for name, field in _POOLED.items()}
    for row in pools:
        heard.labels(row.name).set(row.nodes[0])
        known.labels(row.name).set(row.nodes[1])
        for field, one in gauges.items():
            if (figure := getattr(row, field)) is not None:
                one.labels(row.name).set(figure)
        for level, held in (("device", row.device), ("host", row.host)):
            if held is not None:
                for one, figure in zip(levels, reversed(held), strict=True):
                    one.labels(row.name, level).set(figure)
    return generate_latest(registry)


_SHARES = {
    "bad": "Share of the live release's checked answers of the last minute that were bad.",
    "failed": "Share of the requests for the live release in the last minute that failed.",
    "refused": "Share of the requests for the live release in the last minute that routers refused; of fewer "
    f"than {ENOUGH} requests only where that is surely too much.",
}

SLICE = 20
"""Rows that are read between two turns of the event loop: a scrape must not keep a rollback waiting."""


async def pointer_metrics(rows: Iterable[TenantRow]) -> bytes:
    """The metrics of pointers as Prometheus text: a series for each flag that alerts, the last minute's shares, and
    replicas that are only listed.

    `rows` are built as they are taken.
    """
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"loradeck_pointer_{name}", text, ("tenant", "route", "release", *labels), registry=registry)

    flag = gauge(
        "flag_moved_timestamp_seconds",
        "For each flag of a pointer that alerts: when its live release went live, in seconds since 1970 UTC.",
        "flag",
    )
    shares = {name: gauge(f"{name}_share", text) for name, text in _SHARES.items()}
    refusable = gauge(
        "refused_limit",
        "Share that routers may refuse, of the pointers whose refused share is said: what the route promises, or 5 %.",
    )
    burning = gauge(
        "burning_promises",
        "Promises of the route so far exceeded, for an hour or six, that their error budget is gone within days.",
    )
    listed = gauge(
        "listed_replicas",
        "Placed replicas whose engine lists the live release while no canary tells it from its base or its prior.",
    )
    unheard = gauge(
        "unheard_replicas",
        "Placed replicas that do not answer their node, or whose node is lost: nobody knows what they answer with.",
    )
    again = gauge(
        "asked_again_requests",
        "Requests since the move that the release beneath, or a shadow, was asked again or not (shed), and the bad.",
        "what",
    )
    failing = gauge(
        "check_failures",
        "Answers of the live release since the move that failed a check; with makes_bad 0 they are not bad for it.",
        "check",
        "makes_bad",
    )
    judged = gauge(
        "judged_answers",
        "Answers of the live release since the move by what came of asking the route's judge.",
        "what",
    )
    minutes = gauge(
        "minute_requests",
        "Requests for the live release in the last minute, and the units of evidence among them.",
        "what",
    )
    for number, row in enumerate(rows):
        release = row.live.label if row.live is not None else ""
        if row.units is not None:
            minutes.labels(row.tenant, row.route, release, "requests").set(row.minute.attempted)
            minutes.labels(row.tenant, row.route, release, "units").set(row.units)
        for name in alerting(row):
            # Half a millisecond on: templates cut a time to milliseconds, and must not cut it to the one before.
            moved = ((row.pointer.moved_ms or 0) + 0.5) / 1000
            flag.labels(row.tenant, row.route, release, name).set(moved)
        if row.listed:
            listed.labels(row.tenant, row.route, release).set(row.listed)
        if lost := sum(replica.lost for replica in row.replicas):
            unheard.labels(row.tenant, row.route, release).set(lost)
        if row.again is not None:
            counts, other = row.again.counts, row.again.release.label
            for what, n in (("asked", counts.asked), ("shed", counts.shed), ("bad", counts.bad[1])):
                again.labels(row.tenant, row.route, other, what).set(n)
        for makes_bad, failed in (("1", row.cause.faults), ("0", row.cause.noticed)):
            for check, n in failed.items():
                failing.labels(row.tenant, row.route, release, check, makes_bad).set(n)
        for outcome in Judgement:  # and nothing else that a node may call it
            if said := row.cause.judged.get(outcome):
                judged.labels(row.tenant, row.route, release, outcome.value).set(said)
        minute, limit = row.minute, refused_limit(row)
        refused = refused_share(minute, limit)
        if refused is not None:
            refusable.labels(row.tenant, row.route, release).set(limit)
        if row.burning:
            burning.labels(row.tenant, row.route, release).set(len(row.burning))
        for name, share in zip(_SHARES, (minute.bad_share, minute.failed_share, refused), strict=True):
            if share is not None:
                shares[name].labels(row.tenant, row.route, release).set(share)
        if number % SLICE == SLICE - 1:
            await asyncio.sleep(0)
    return await asyncio.to_thread(generate_latest, registry)  # a quarter of a second for 10,000 series
