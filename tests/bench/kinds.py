"""The kinds of figures, and which of them may have a budget.

A budget has to say the same on every machine. A time, a rate and a share of a core do not: two machines of one kind
differ by a factor of two in them. So they are notes, and what has the budget is their ratio to something that is
measured beside them in the same run.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

Reference = Literal["floor", "peer", "setting"]
"""What a ratio is to: what the same machine takes for what cannot be left out; what people would use in the place of
what is measured; or a time that is set (a lease, a pause), which no processor makes shorter.
"""


class Kind(StrEnum):
    """What a figure depends on. All but notes may have a budget."""

    FLOOR = "ratio to a floor"
    PEER = "ratio to a peer"
    SETTING = "ratio to a setting"
    COUNT = "count"
    SIZE = "size"
    NOTE = "note"


_OF_REFERENCE: dict[Reference, Kind] = {"floor": Kind.FLOOR, "peer": Kind.PEER, "setting": Kind.SETTING}

_RATIOS = frozenset({"x", "x mean", "x 1/n", "% off"})

_COUNTS = frozenset(
    {"answers", "failed", "items", "moves", "refused", "releases", "requests", "steps", "streams", "tensors", "unlike"}
    | {"weights"}
)

_SIZES = frozenset({"MB", "bytes", "kB"})
"""The same objects take as much memory, and the same lines as many bytes, on a fast machine and on a slow one."""

_NOTES = frozenset(
    {"%", "1/s", "bytes/s", "ms", "moves/s", "requests/s", "s", "s of CPU", "tokens/s", "us"}
)  # `%`: of a core, or of what was asked


def kind_of(unit: str, reference: Reference | None = None) -> Kind:
    """The kind of a figure.

    `reference`: what it is a ratio to; None: it is no ratio.

    Raises:
        ValueError: the unit is unknown, is no ratio's although a reference is named, or is one although none is.
    """
    if (reference is not None) is not (unit in _RATIOS):
        named = f"a ratio to a {reference}" if reference is not None else "a ratio that names nothing it is to"
        raise ValueError(f"a figure in {unit!r} cannot be {named}")
    if reference is not None:
        return _OF_REFERENCE[reference]
    for units, kind in ((_COUNTS, Kind.COUNT), (_SIZES, Kind.SIZE), (_NOTES, Kind.NOTE)):
        if unit in units:
            return kind
    raise ValueError(f"nobody has said of which kind a figure in {unit!r} is")


def may_have_budget(kind: Kind) -> bool:
    """Tells whether a budget on a figure of this kind says the same on every machine."""
    return kind is not Kind.NOTE
