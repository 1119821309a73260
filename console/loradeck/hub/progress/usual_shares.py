"""What is usual on each route, by its own last two weeks: shares of bad answers and failed requests, and how many."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from loradeck.hub.log.background import Background
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.clocks import HOUR_MS, MINUTE_MS
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.quality.detection import HOURS, Limits, usual_share
from loradeck.rules.quality.promises import FAST, burning, overspent
from loradeck.schemas.ids import PointerKey
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.progress.usual_shares")

DEFAULT = 0.02
"""Share that counts as usual on a route that promises nothing and has no history yet."""

AGAIN_S = 3600
"""Seconds in which all histories are read."""

BURNING_S = 300
"""Seconds in which the last hours of all routes that promise a share are read, by the minute."""


class Shares(NamedTuple):
    """Shares of bad answers and of failed requests, 0 to 1; None: not known."""

    bad: float | None = None
    errors: float | None = None


@dataclass(eq=False)
class UsualShares:
    """Reads the routes' histories one after the other, so that no move waits for it."""

    _state: FoldedLog
    _store: StoreThread
    _clock: Clock
    _background: Background
    _known: dict[PointerKey, Shares] = field(default_factory=dict, init=False)
    _hourly: dict[PointerKey, float] = field(default_factory=dict, init=False)
    _overspent: dict[PointerKey, tuple[str, ...]] = field(default_factory=dict, init=False)
    _burning: dict[PointerKey, tuple[str, ...]] = field(default_factory=dict, init=False)
    _due: list[PointerKey] = field(default_factory=list, init=False)
    """The routes whose last hours are still to be read in this round."""
    _next_round: float = field(default=0.0, init=False)
    _at_once: int = field(default=1, init=False)
    _read_in: dict[PointerKey, int] = field(default_factory=dict, init=False)
    """The hour in which a route's history was read last."""

    def of(self, key: PointerKey) -> Limits:
        """Returns the shares that a route promises, or else those that are usual there."""
        config, usual = self._state.config(key), self._known.get(key, Shares())
        promised = config.objectives
        return Limits(
            next(share for share in (promised.bad, usual.bad, DEFAULT) if share is not None),
            next(share for share in (promised.errors, usual.errors, DEFAULT) if share is not None),
            promised.ttft_ms,
            promised.token_ms,
            promised.noticed if promised.noticed is not None else DEFAULT,
            config.checks.watched,
            promised.corrected,
            promised.judged,
        )

    def requests(self, key: PointerKey) -> float | None:
        """The requests an hour that are usual on a route; None: it has no history that was read yet."""
        return self._hourly.get(key)

    def overspent(self, key: PointerKey) -> tuple[str, ...]:
        """Says what a route has had more of for days than it promises, by its history of an hour ago at most."""
        return self._overspent.get(key, ())

    def burning(self, key: PointerKey) -> tuple[str, ...]:
        """Says what spends the error budget of a route within days, by its minutes of five minutes ago at most."""
        return self._burning.get(key, ())

    def knows_burning(self, key: PointerKey) -> bool:
        """Tells whether the minutes of a route were read since the hub began, or need not be: it promises no share."""
        return key in self._burning or not self._state.config(key).objectives.shares

    def tick(self) -> None:
        """Reads the next histories; called once a second. Each is read once an hour, its last hours more often."""
        self._tick_minutes()
        hour, a_tick = self._clock.now_ms() // HOUR_MS, 1 + len(self._state.pointers) // AGAIN_S
        keys = list(islice((key for key in self._state.pointers if self._read_in.get(key) != hour), a_tick))
        self._read_in.update(dict.fromkeys(keys, hour))
        if keys:
            self._background.spawn(self._read(keys, hour))

    def _tick_minutes(self) -> None:
        if not self._due and (now := self._clock.monotonic()) >= self._next_round:
            configs = ((key, self._state.config(key)) for key in self._state.pointers)
            self._due = [key for key, config in configs if config.objectives.shares]
            due = set(self._due)
            self._burning = {key: said for key, said in self._burning.items() if key in due}
            self._next_round, self._at_once = now + BURNING_S, 1 + len(self._due) // BURNING_S
        keys, self._due = self._due[: self._at_once], self._due[self._at_once :]
        if keys:
            self._background.spawn(self._read_minutes(keys, self._clock.now_ms() // MINUTE_MS))

    async def _read_minutes(self, keys: Sequence[PointerKey], minute: int) -> None:
        since = minute - max(window.long for window in FAST)
        try:
            found = await self._store(lambda s: {key: s.minutes(*key, since=since) for key in keys}, background=True)
        except StoreError as error:
            log.error("minutes not read code=%s %s", error.code, error)
            return
        for key, minutes in found.items():
            self._burning[key] = burning(minutes, minute, self._state.config(key).objectives)
            await asyncio.sleep(0)  # half a millisecond each, and a rollback may wait

    async def _read(self, keys: Sequence[PointerKey], hour: int) -> None:
        """Reads histories, and removes what is too old to be kept: also of routes that nobody asks any more."""
        try:
            since = hour - HOURS
            found = await self._store(lambda s: {key: s.hours(*key, since=since) for key in keys}, background=True)
            await self._store(lambda s: s.expire_hours(keys, hour), background=True)
        except StoreError as error:
            log.error("histories not read code=%s %s", error.code, error)
            return
        for key, hours in found.items():
            counts = list(hours.values())
            self._overspent[key] = overspent(hours, hour, self._state.config(key).objectives)
            self._hourly.pop(key, None)
            if counts:
                self._hourly[key] = sum(c.attempted for c in counts) / len(counts)
            self._known[key] = Shares(
                usual_share([(c.bad, c.checked) for c in counts]), usual_share([(c.failed, c.admitted) for c in counts])
            )
