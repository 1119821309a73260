"""What `/metrics` says of this hub, as Prometheus text."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.03, 0.06, 0.12, 0.25, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counters and histograms of one hub, in a registry of its own."""

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

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A figure that is read when somebody scrapes."""
        Gauge(f"loradeck_{name}", text, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        return generate_latest(self.registry)
