"""Placement: whether a node carries a route's labels."""

from __future__ import annotations

from collections.abc import Mapping


def fits(labels: Mapping[str, str], placement: Mapping[str, str]) -> bool:
    """Whether a node carries every label that the placement asks for; an empty placement fits every node."""
    return all(labels.get(name) == value for name, value in placement.items())
