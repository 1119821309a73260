"""Whether events chain and hash as they say. Who reads them recomputes; nobody is taken at his word."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from loradeck.schemas.ids import digest_of
from loradeck.schemas.log import GENESIS, Event


@dataclass
class ChainCheck:
    """Checks each event once, when it comes. `broken` is the first fault that was found."""

    broken: str | None = None
    _hashes: dict[int, str] = field(default_factory=dict)
    _prev: dict[int, str] = field(default_factory=dict)

    def take(self, events: Iterable[Event]) -> None:
        """New events, in any order."""
        for event in events:
            if self._hashes.get(event.rev) == event.hash:
                continue
            if digest_of(event.model_dump(mode="json", exclude={"hash"}, exclude_defaults=True)) != event.hash:
                self._fault(f"rev {event.rev} does not have its own hash")
            self._hashes[event.rev] = event.hash
            self._prev[event.rev] = event.prev_hash
            before = self._hashes.get(event.rev - 1, GENESIS if event.rev == 1 else None)
            after = self._prev.get(event.rev + 1)
            if before is not None and before != event.prev_hash:
                self._fault(f"between rev {event.rev - 1} and {event.rev}")
            if after is not None and after != event.hash:
                self._fault(f"between rev {event.rev} and {event.rev + 1}")

    def _fault(self, where: str) -> None:
        self.broken = self.broken or where
