"""What follows from the log and is kept beside it, so that a hub that starts reads the newest events alone."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from pydantic import BaseModel

from loradeck.hub.log.log import Log
from loradeck.hub.log.store_thread import StoreThread
from loradeck.schemas.log import Event
from loradeck.store.interface import StoreError

PAGE = 1000
"""Events that are read at once."""


class AtRev(BaseModel):
    """What follows from the log up to a rev."""

    rev: int


T = TypeVar("T", bound=AtRev)


class Kept(Generic[T]):
    """A setting of the store that holds what follows from the log. Whoever changes `state` writes down its rev.

    `name`: of the setting. A store without it begins at the log's end: what it is about did not exist before. That is
    written at once, so that a hub which ends before the first `save` loses none of what came since.
    """

    def __init__(self, log: Log, store: StoreThread, name: str, kind: type[T]) -> None:
        """Reads it, or writes where it begins; blocking."""
        text = store.now(lambda s: s.meta(name))
        self._log, self._store, self._name = log, store, name
        self.state = kind.model_validate_json(text) if text else kind(rev=log.state.rev)
        self._saved = self.state.rev if text else -1
        if not text:
            with suppress(StoreError):  # a hub on a full disk starts, too
                store.now(lambda s: s.set_meta(name, self.state.model_dump_json()))

    def unread(self) -> Iterator[Event]:
        """The events after its rev, oldest first; blocking."""
        while self.state.rev < self._log.state.rev:
            yield from self._store.now(lambda s: s.since(self.state.rev, PAGE))

    async def save(self) -> None:
        """Writes it where the log has grown since."""
        rev = self.state.rev
        if rev != self._saved:
            text = self.state.model_dump_json()
            await self._store(lambda s: s.set_meta(self._name, text), background=True)
            self._saved = rev
