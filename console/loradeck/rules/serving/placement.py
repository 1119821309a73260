"""Where a route's releases belong: labels resolved to replicas, those that are not heard from counted too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ReplicaFacts:
    """One engine as the hub knows it. `base`: digest of the weights it runs, None while it has not said.

    `linked`: its node is heard from. `slots`: adapters it holds at once.
    """

    node: str
    replica: str
    labels: Mapping[str, str]
    base: str | None
    linked: bool
    slots: int = 0


def fits(labels: Mapping[str, str], placement: Mapping[str, str]) -> bool:
    """Whether a node carries every label that is asked for. {} asks for none."""
    return all(labels.get(name) == value for name, value in placement.items())


def placed(
    replicas: Iterable[ReplicaFacts], placement: Mapping[str, str], base: str | None
) -> tuple[ReplicaFacts, ...]:
    """Replicas with these labels that run this base, by name. Unreachable ones count: they may still answer.

    `base` None: whatever they run.
    """
    chosen = (r for r in replicas if fits(r.labels, placement) and (base is None or r.base == base))
    return tuple(sorted(chosen, key=lambda r: (r.node, r.replica)))


def placed_nodes(nodes: Mapping[str, Mapping[str, str]], placement: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the nodes (name -> labels) that carry the labels, sorted."""
    return tuple(sorted(name for name, labels in nodes.items() if fits(labels, placement)))
