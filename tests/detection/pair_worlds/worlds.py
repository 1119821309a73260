"""The worlds: streams of pairs in order of time, drawn from a seed.

An answer is the body's: who sends the same body again is answered alike, by both releases.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from heapq import heappop, heappush, merge
from itertools import accumulate, count, takewhile
from random import Random
from typing import NamedTuple

from tests.detection.pair_worlds.pair import MINUTE_S, Pair

NODES = ("gpu-01", "gpu-02", "gpu-03")
CALLERS = 200
RUN_S = 1800.0
RATE = 4.0
"""Pairs a second where a world says nothing else."""

ASKED_AGAIN = 5
TURNS = 12
CONVERSATIONS = 40
PROMPTS = 8
LOOP_EACH_S = 0.5
ANSWER_S = 4.0
"""How long an answer takes: who is in flight when an engine dies was asked so many seconds before."""

OVERLOADED = 0.2
"""Share of live answers that are overdue in the minute of overload."""

WAIT_S = (1.0, 1.0, 1.0, 1.0, 1.0)
BACK_OFF_S = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds that a caller waits before each time that he asks again, after an answer that took `QUICK_S`."""

QUICK_S = 1.0


class Aim(Enum):
    """What a rule has to do in a world. SHOWN: nothing, for what is wrong there is beyond it, but it is shown."""

    STAYS = "stays"
    MOVES = "moves back"
    SHOWN = "only shown"


class Shares(NamedTuple):
    """Shares of bodies by whose answer is bad."""

    prior_only: float
    live_only: float
    both: float = 0.0

    @classmethod
    def independent(cls, prior: float, live: float) -> Shares:
        """Of releases that answer badly independently of each other."""
        return cls(prior * (1 - live), live * (1 - prior), prior * live)

    @property
    def discordant(self) -> float:
        """Share of bodies that exactly one of the two answers badly."""
        return self.prior_only + self.live_only

    def drawn(self, random: Random) -> tuple[bool, bool]:
        """Whether a body's live answer is bad, and whether its prior's is."""
        drawn = random.random()
        if drawn < self.live_only:
            return True, False
        if drawn < self.discordant:
            return False, True
        is_bad = drawn < self.discordant + self.both
        return is_bad, is_bad


EQUAL = Shares(0.02, 0.02, 0.01)
EQUAL_AND_WORSE = Shares(0.05, 0.05, 0.01)
EQUAL_AND_GOOD = Shares(0.002, 0.002, 0.01)
BROKEN = Shares(0.25, 0.25, 0.25)
"""A broken caller: his bodies are as often bad on the one as on the other."""

FAILED = Shares(0.0, 0.5, 0.01)
"""A caller whom only the new release fails."""


class Scene:
    """What the streams of one run share: the random numbers, the callers, the names of conversations."""

    def __init__(self, seed: str) -> None:
        """`seed`: the same one draws the same."""
        self.random = Random(seed)
        self._numbers = count()
        self._weights = list(accumulate(1 / rank for rank in range(1, CALLERS + 1)))

    def caller(self) -> int:
        """A caller by Zipf's law: the first asks as often as the second and the third by half and a third."""
        return bisect(self._weights, self.random.random() * self._weights[-1])

    def node(self) -> str:
        """A node, each as often."""
        return NODES[int(self.random.random() * len(NODES))]

    def conversation(self) -> int:
        """The name of a new conversation."""
        return next(self._numbers)

    def moments(self, rate: float) -> Iterator[float]:
        """Moments without end, so many a second, independent of each other."""
        at = 0.0
        while True:
            at += self.random.expovariate(rate)
            yield at

    def singles(self, rate: float, shares: Shares, others: Mapping[int, Shares] | None = None) -> Iterator[Pair]:
        """Conversations of one request each. `others`: the shares of callers who have their own."""
        own = others or {}
        for at in self.moments(rate):
            caller = self.caller()
            live, prior = own.get(caller, shares).drawn(self.random)
            yield Pair(at, caller, self.conversation(), self.node(), live, prior)

    def talks(self, rate: float, shares: Shares) -> Iterator[Pair]:
        """Conversations of twelve bodies in a row, each answered as its first is."""
        return followed(self.singles(rate / TURNS, shares), lambda first: self._again(first, [5.0] * (TURNS - 1)))

    def asks_again(self, pairs: Iterator[Pair], waits_s: tuple[float, ...] = WAIT_S) -> Iterator[Pair]:
        """Pairs of which half of the callers send the same again after a bad answer of the live release."""
        again = set(self.random.sample(range(CALLERS), CALLERS // 2))

        def follow(pair: Pair) -> Iterable[Pair]:
            if pair.live_bad and pair.caller in again:
                return self._again(pair, [QUICK_S + wait for wait in waits_s])
            return ()

        return followed(pairs, follow)

    def loop(self, at_s: float, seconds: float) -> Iterator[Pair]:
        """An agent who repeats one request that only the new release answers badly."""
        caller, conversation = self.caller(), self.conversation()
        for number in range(int(seconds / LOOP_EACH_S)):
            yield Pair(at_s + number * LOOP_EACH_S, caller, conversation, self.node(), True, False)

    def loops(self) -> list[Iterator[Pair]]:
        """Three of a minute each."""
        return [self.loop(self.random.uniform(0, RUN_S - MINUTE_S), MINUTE_S) for _ in range(3)]

    def one_key(self, rate: float, shares: Shares, conversations: int) -> Iterator[Pair]:
        """Different bodies, all of one caller and of a few conversations that go on."""
        for at in self.moments(rate):
            conversation = self.random.randrange(conversations)
            yield Pair(at, 0, conversation, self.node(), *shares.drawn(self.random))

    def prompts(self, rate: float, is_one_key: bool) -> Iterator[Pair]:
        """Eight fixed prompts, of which the new release answers the first badly and both the others well."""
        for at in self.moments(rate):
            prompt = self.random.randrange(PROMPTS)
            yield Pair(at, 0 if is_one_key else self.caller(), prompt, self.node(), prompt == 0, False)

    def death(self, pairs: Iterator[Pair]) -> Iterator[Pair]:
        """Pairs of which those lose the live half that are in flight when a node's engine dies, once in a run."""
        at, node = self.random.uniform(MINUTE_S, RUN_S), self.node()
        return changed(pairs, lambda pair: pair.node == node and at - ANSWER_S <= pair.at_s < at, True, False)

    def overload(self, pairs: Iterator[Pair]) -> Iterator[Pair]:
        """Pairs of which many have an overdue live half in one minute, and the prior is asked afterwards."""
        at = self.random.uniform(0, RUN_S - MINUTE_S)
        return changed(
            pairs,
            lambda pair: at <= pair.at_s < at + MINUTE_S and self.random.random() < OVERLOADED,
            True,
            None,
        )

    def broken(self, callers: int, shares: Shares = BROKEN) -> Iterator[Pair]:
        """Singles of which so many callers, whichever they are, have shares of their own."""
        return self.singles(RATE, EQUAL, dict.fromkeys(self.random.sample(range(CALLERS), callers), shares))

    def _again(self, first: Pair, gaps_s: list[float]) -> Iterable[Pair]:
        return [replace(first, at_s=first.at_s + gap, node=self.node()) for gap in accumulate(gaps_s)]


def followed(pairs: Iterator[Pair], follow: Callable[[Pair], Iterable[Pair]]) -> Iterator[Pair]:
    """Pairs in order of time, among them those that `follow` says each one has for consequence."""
    waiting: list[tuple[float, int, Pair]] = []
    numbers = count()
    for pair in pairs:
        while waiting and waiting[0][0] <= pair.at_s:
            yield heappop(waiting)[2]
        yield pair
        for later in follow(pair):
            heappush(waiting, (later.at_s, next(numbers), later))


def changed(
    pairs: Iterator[Pair], concerns: Callable[[Pair], bool], live_bad: bool, prior_bad: bool | None
) -> Iterator[Pair]:
    """Pairs of which those concerned are judged otherwise. `prior_bad`: None leaves that half as it is."""
    for pair in pairs:
        if concerns(pair):
            yield replace(pair, live_bad=live_bad, prior_bad=pair.prior_bad if prior_bad is None else prior_bad)
        else:
            yield pair


def in_order(*streams: Iterator[Pair]) -> Iterator[Pair]:
    """Streams as one, in order of time."""
    return merge(*streams, key=lambda pair: pair.at_s)


def _all_at_once(scene: Scene) -> Iterator[Pair]:
    asked = in_order(scene.singles(RATE / 2, EQUAL), scene.talks(RATE / 2, EQUAL))
    return in_order(scene.asks_again(asked), *scene.loops(), scene.loop(scene.random.uniform(0, 300), 1500))


@dataclass(frozen=True)
class World:
    """A stream, and what a rule has to do in it.

    `shares`: those that a rule has to find, None: none. `rate`: pairs a second. `conversations`: how many there are
    where they go on for the whole run.
    """

    name: str
    aim: Aim
    stream: Callable[[Scene], Iterator[Pair]]
    rate: float = RATE
    shares: Shares | None = None
    conversations: int | None = None

    @property
    def seconds(self) -> float:
        """How long a run lasts: half an hour, and longer where it takes ten times the bound."""
        return RUN_S if self.shares is None else max(RUN_S, 10 * needed(self.shares) / self.rate)

    def pairs(self, seed: int) -> Iterator[Pair]:
        """The pairs of a run, in order of time."""
        return takewhile(lambda pair: pair.at_s < self.seconds, self.stream(Scene(f"{self.name} {seed}")))


def needed(shares: Shares, bar: float = 52_000) -> float:
    """How many pairs any rule needs on average to find shares, if it is wrong in one of `bar` runs while they are even.

    Wald's bound: each pair with one bad half brings at most the divergence of its coin from a fair coin.
    """
    coin = shares.live_only / shares.discordant
    divergence = sum(side * math.log(2 * side) for side in (coin, 1 - coin) if side)
    return math.log(bar) / divergence / shares.discordant


def bound_s(world: World) -> tuple[float, float] | None:
    """Seconds until there are as many pairs as are needed, and as many minutes of conversations."""
    if world.shares is None:
        return None
    pairs = needed(world.shares)
    if world.conversations is None:
        return pairs / world.rate, pairs / world.rate
    minutes, rest = divmod(pairs, world.conversations)
    return pairs / world.rate, minutes * MINUTE_S + rest / world.rate


def _rise(prior: float, live: float, rate: float) -> World:
    shares = Shares.independent(prior, live)
    name = f"{prior * 100:g} → {live * 100:g} %, {rate:g} a second"
    return World(name, Aim.MOVES, lambda scene: scene.singles(rate, shares), rate, shares)


CLEAR = Shares.independent(0.01, 0.3)

WORLDS = (
    World("2/2, nothing repeats", Aim.STAYS, lambda scene: scene.singles(RATE, EQUAL)),
    World("5/5, nothing repeats", Aim.STAYS, lambda scene: scene.singles(RATE, EQUAL_AND_WORSE)),
    World("2/2, asks again", Aim.STAYS, lambda scene: scene.asks_again(scene.singles(RATE, EQUAL))),
    World("2/2, asks again, 40 a second", Aim.STAYS, lambda scene: scene.asks_again(scene.singles(40, EQUAL)), 40),
    World(
        "2/2, asks again, waits twice as long each time",
        Aim.STAYS,
        lambda scene: scene.asks_again(scene.singles(RATE, EQUAL), BACK_OFF_S),
    ),
    World("2/2, loops of a minute", Aim.STAYS, lambda scene: in_order(scene.singles(RATE, EQUAL), *scene.loops())),
    World(
        "0.2/0.2, loops of a minute",
        Aim.STAYS,
        lambda scene: in_order(scene.singles(RATE, EQUAL_AND_GOOD), *scene.loops()),
    ),
    World(
        "0.2/0.2, a loop of 25 minutes",
        Aim.STAYS,
        lambda scene: in_order(
            scene.singles(RATE, EQUAL_AND_GOOD), scene.loop(scene.random.uniform(0, 300), 25 * MINUTE_S)
        ),
    ),
    World("0.2/0.2, conversations of twelve", Aim.STAYS, lambda scene: scene.talks(RATE, EQUAL_AND_GOOD)),
    World("2/2, all at once", Aim.STAYS, _all_at_once),
    World("2/2, one broken caller of 200", Aim.STAYS, lambda scene: scene.broken(1)),
    World("2/2, two broken callers of 200", Aim.STAYS, lambda scene: scene.broken(2)),
    World("2/2, one caller of 200 whom only the new one fails", Aim.STAYS, lambda scene: scene.broken(1, FAILED)),
    World(
        "2/2, one key, forty conversations",
        Aim.STAYS,
        lambda scene: scene.one_key(RATE, EQUAL, CONVERSATIONS),
        conversations=CONVERSATIONS,
    ),
    World(
        "1 → 30 %, one conversation alone",
        Aim.STAYS,
        lambda scene: scene.one_key(RATE, CLEAR, 1),
        conversations=1,
    ),
    World("one key, eight prompts, one broke", Aim.STAYS, lambda scene: scene.prompts(RATE, True)),
    World(
        "2/2, one node of three claims bad answers",
        Aim.STAYS,
        lambda scene: changed(scene.singles(RATE, EQUAL), lambda pair: pair.node == NODES[2], True, False),
    ),
    World("200 callers, eight prompts, one broke", Aim.SHOWN, lambda scene: scene.prompts(RATE, False)),
    World("2/2, an engine dies", Aim.SHOWN, lambda scene: scene.death(scene.singles(RATE, EQUAL))),
    World("2/2, a minute of overload", Aim.SHOWN, lambda scene: scene.overload(scene.singles(RATE, EQUAL))),
    *(_rise(0.01, 0.3, rate) for rate in (40, 4, 1, 0.05)),
    *(_rise(0.01, 0.12, rate) for rate in (40, 4, 1, 0.05)),
    *(_rise(0.02, 0.06, rate) for rate in (40, 4, 1, 0.05)),
    World(
        "1 → 30 %, one key, forty conversations, 40 a second",
        Aim.MOVES,
        lambda scene: scene.one_key(40, CLEAR, CONVERSATIONS),
        40,
        CLEAR,
        CONVERSATIONS,
    ),
    World(
        "1 → 30 %, one node of three claims good answers",
        Aim.MOVES,
        lambda scene: changed(scene.singles(RATE, CLEAR), lambda pair: pair.node == NODES[2], False, False),
        RATE,
        Shares(*(2 / 3 * share for share in CLEAR)),
    ),
)
