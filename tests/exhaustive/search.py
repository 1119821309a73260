"""A search over all worlds that steps lead to, breadth first: the steps to a violation are the fewest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

W = TypeVar("W", bound=Hashable)


class Violation(AssertionError):
    """An invariant does not hold; the text names the steps that led there."""


class Searched(NamedTuple):
    """How many worlds there are, and how many steps lead to them."""

    worlds: int
    steps: int


def search(start: W, steps: Callable[[W], Iterable[tuple[str, W]]], look: Callable[[W, W], None]) -> Searched:
    """Looks at every world once.

    Args:
        steps: of a world, each with its name and where it lead.
        look: raises a Violation about a step from one world to another.
    """
    came: dict[W, tuple[W | None, str]] = {start: (None, "")}
    todo = deque([start])
    taken = 0
    while todo:
        world = todo.popleft()
        for name, after in steps(world):
            taken += 1
            if after not in came:
                came[after] = (world, name)
                try:
                    look(world, after)
                except Violation as found:
                    raise Violation(f"{found}: {' / '.join(_path(came, after))}") from None
                todo.append(after)
    return Searched(len(came), taken)


def _path(came: dict[W, tuple[W | None, str]], world: W) -> list[str]:
    names: list[str] = []
    at: W | None = world
    while at is not None:
        at, name = came[at]
        names.append(name)
    return [name for name in reversed(names) if name]
