"""The version of the wire, and the features that a node's router announces.

The version is one integer for table, link, feed and control socket. Programs of neighbouring versions work together:
each side says its own in its first message, and both keep to the lower one. What is only added to a message needs no
new version, since readers ignore fields that they do not know. A field that must not be ignored is announced as a
feature, and an entry that rests on it names it in `TableEntry.needs`.
"""

from collections.abc import Iterable
from enum import StrEnum

PROTOCOL = 2
"""The version that this program speaks best. Version 1 had no number in its messages."""


class Feature(StrEnum):
    """A part of table entries that a router must act on, or refuse the entry."""

    CANDIDATE = "candidate"
    """A second release on a pointer that a share of callers gets."""
    ON_DEMAND = "on_demand"
    """A release that is loaded when it is asked for, and whose gap is the base or a refusal."""


SUPPORTED: frozenset[str] = frozenset(Feature)
"""The features that this program's router acts on."""


def agreed(theirs: int) -> int | None:
    """The version that two sides speak: the lower one, of two that are neighbours or equal.

    Returns:
        None: they are more than one version apart and do not work together.
    """
    return min(PROTOCOL, theirs) if abs(PROTOCOL - theirs) <= 1 else None


def unknown_features(needs: Iterable[str], supported: Iterable[str] = SUPPORTED) -> list[str]:
    """The features among `needs` that are not supported, sorted."""
    return sorted(set(needs).difference(supported))


SIGNED_URLS = "x-loradeck-signed-urls"
"""Request header of an agent that follows the hub's redirect to a signed URL of its object store. Any value."""

ROWS = "x-loradeck-rows"
"""Request header of who sends a file with rows of a dataset or suite: the hub seals it as it arrives. Any value."""
