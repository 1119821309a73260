"""Placement: whether a node carries a route's labels, and which labels it is believed to carry."""

from collections.abc import Mapping


def fits(labels: Mapping[str, str], placement: Mapping[str, str]) -> bool:
    """Tells whether a node carries every label that the placement asks for; an empty placement fits every node."""
    return all(labels.get(name) == value for name, value in placement.items())


def believed(
    said: Mapping[str, str], *, bound: Mapping[str, str] | None, known: Mapping[str, str] | None
) -> Mapping[str, str]:
    """The labels that a node is placed by, whatever it says later: those that its credential binds, or its first ones.

    Args:
        said: the labels of its hello.
        bound: those of the credential by which it has linked; None: it binds none.
        known: those that it was placed by until now, or that a person has allowed since; None: it is new.
    """
    if bound is not None:
        return bound
    return said if known is None else known
