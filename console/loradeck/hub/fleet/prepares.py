"""The prepares that are pending: nodes make their releases resident, and R cancels them before it moves anything."""

from typing import NamedTuple

from loradeck.schemas.ids import PointerKey


class Prepare(NamedTuple):
    """A prepare by its id, and the release that nodes make resident."""

    id: str
    release: str


class Prepares:
    """The pending prepares, at most one for each pointer."""

    def __init__(self) -> None:
        self._pending: dict[PointerKey, Prepare] = {}

    def begin(self, key: PointerKey, prepare: Prepare) -> None:
        """Makes a prepare the pending one of its pointer."""
        self._pending[key] = prepare

    def end(self, key: PointerKey, prepare: str) -> None:
        """Ends a prepare; does nothing where it is no longer the pending one."""
        if self.pending(key) == prepare:
            del self._pending[key]

    def pending(self, key: PointerKey) -> str | None:
        """The id of the prepare that R would cancel; None: none is pending."""
        prepare = self._pending.get(key)
        return prepare.id if prepare else None

    def preparing(self, key: PointerKey) -> str | None:
        """The release that nodes make resident beside the current one; None: none is."""
        prepare = self._pending.get(key)
        return prepare.release if prepare else None

    def ids(self) -> list[str]:
        """The ids of all pending prepares."""
        return [prepare.id for prepare in self._pending.values()]

    def releases(self) -> set[str]:
        """The releases of all pending prepares."""
        return {prepare.release for prepare in self._pending.values()}
