"""Placement: a route's labels resolved to replicas, unreachable ones included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ReplicaFacts:
    """One engine as the hub knows it. `base`: digest of the weights it runs, None until it reported them.

    `linked`: its node has a link to the hub. `slots`: number of adapters it holds at once.
    """

    node: str
    replica: str
    labels: Mapping[str, str]
    base: str | None
    linked: bool
    slots: int = 0


def fits(labels: Mapping[str, str], placement: Mapping[str, str]) -> bool:
    """Whether a node carries every label that the placement asks for; an empty placement fits every node."""
    return all(labels.get(name) == value for name, value in placement.items())


def placed(
    replicas: Iterable[ReplicaFacts], placement: Mapping[str, str], base: str | None
) -> tuple[ReplicaFacts, ...]:
    """Replicas with these labels that run this base, sorted by name. Unreachable ones count: they may still answer.

    With `base` None, replicas of every base.
    """
    chosen = (r for r in replicas if fits(r.labels, placement) and (base is None or r.base == base))
    return tuple(sorted(chosen, key=lambda r: (r.node, r.replica)))
