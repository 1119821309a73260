"""Limits of each caller's key on this node: requests at once, bodies in memory, requests and tokens a minute."""

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

from loradeck.rules.serving.rate_limits import Bucket, take
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.table import KeyLimits
from loradeck_agent.router.admission import Refusal

log = logging.getLogger(__name__)

KEPT = 10_000
"""Buckets that are kept; when there are more, those that are full again are let go."""

BUSY_S = 1
"""When a caller may try again that has too much under way: nobody knows when its own requests end."""

Rate = tuple[str, PointerKey, str]
"""A caller, a route, and what is counted."""


@dataclass(slots=True)
class UnderWay:
    """The requests of one key that are not over yet: how many, and the bytes of their bodies."""

    requests: int = 0
    bodies: int = 0


class CallerLimits:
    """Limits each caller's key by its requests that are not over yet and by those of the last minute.

    `node`: the limits where a route sets none.
    """

    def __init__(self, node: KeyLimits) -> None:
        self.node = node
        self._under_way: dict[str, UnderWay] = {}
        self._buckets: dict[Rate, Bucket] = {}
        self._told: dict[tuple[str, str], float] = {}

    def _refuse(self, caller: str, what: str, message: str, retry_after_s: int = BUSY_S) -> Refusal:
        """The refusal of one request too many. A key's first of a minute is logged, since no count shows them."""
        now = time.monotonic()
        if now >= self._told.get((caller, what), 0.0):
            if len(self._told) > KEPT:
                self._told.clear()
            self._told[caller, what] = now + 60
            log.warning("the key %s… is refused: %s", caller[:12], message)
        fix = f"Try again in {retry_after_s} s."
        return Refusal(429, "rate_limit_exceeded", message, fix, retry_after_s, param=what)

    def request(self, caller: str, routes: Iterable[KeyLimits], body: int) -> "_Place":
        """Holds a place for one request of a caller, with `body` bytes, until it is over; or says why there is none.

        Args:
            caller: digest of its key.
            routes: the limits of the routes that it may use. The most generous counts, for the body that names the
                route is not read yet.
        """
        node = self.node
        mine = self._under_way.setdefault(caller, UnderWay())
        refusal = None
        routes = tuple(routes)
        if mine.requests >= _most(node.concurrent, [one.concurrent for one in routes]):
            message = f"This key has {mine.requests} requests under way here."
            refusal = self._refuse(caller, "concurrent_requests", message)
        elif mine.bodies + body > _most(node.body_bytes, [one.body_bytes for one in routes]):
            message = f"This key has {mine.bodies} bytes of requests under way here."
            refusal = self._refuse(caller, "request_bytes", message)
        return _Place(self._under_way, caller, mine, body, refusal)

    def spend(self, caller: str, key: PointerKey, route: KeyLimits, tokens: int) -> Refusal | None:
        """Takes a request and its tokens from what a caller may ask of a route in a minute, or says why not."""
        per_minute = (
            ("requests", 1, _first(route.requests_per_minute, self.node.requests_per_minute)),
            ("tokens", tokens, _first(route.tokens_per_minute, self.node.tokens_per_minute)),
        )
        now = time.monotonic()
        taken: dict[Rate, Bucket] = {}
        for what, amount, most in per_minute:
            if most is None:
                continue
            rate = (caller, key, what)
            taken[rate], wait = take(self._buckets.get(rate), amount, most, now)
            if wait:
                message = f"This key may ask for {most} {what} of {'/'.join(key)} a minute on this node."
                return self._refuse(caller, what, message, math.ceil(wait))
        self._buckets |= taken
        if len(self._buckets) > KEPT:
            self._let_go(now)
        return None

    def _let_go(self, now: float) -> None:
        """Forgets buckets that nobody has taken from for a minute: they are full again."""
        self._buckets = {rate: bucket for rate, bucket in self._buckets.items() if now - bucket.at < 60}


@dataclass(slots=True)
class _Place:
    """The place of one request, held for the length of a block. A generator would cost as much as the limits do."""

    _all: dict[str, UnderWay]
    _caller: str
    _mine: UnderWay
    _body: int
    _refusal: Refusal | None

    def __enter__(self) -> Refusal | None:
        if self._refusal is None:
            self._mine.requests += 1
            self._mine.bodies += self._body
        return self._refusal

    def __exit__(self, *exc: object) -> None:
        mine = self._mine
        if self._refusal is None:
            mine.requests -= 1
            mine.bodies -= self._body
            if not mine.requests:
                self._all.pop(self._caller, None)


def _first(route: int | None, node: int | None) -> int | None:
    """The limit of a route, or else of the node; None is no limit."""
    return node if route is None else route


def _most(node: int | None, routes: list[int | None]) -> float:
    """The most generous of the limits of some routes."""
    most = 0
    for route in routes:
        limit = node if route is None else route
        if limit is None:
            return math.inf
        most = max(most, limit)
    return most if routes else math.inf
