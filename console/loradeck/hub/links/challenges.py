"""The links under each node's name, and the challenges of older ones when another opens: `rules.serving.one_link`."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from loradeck.hub.fleet.node import NodeLink
from loradeck.rules.serving.one_link import Linked, who_counts
from loradeck.schemas.link import Challenge

log = logging.getLogger("loradeck.hub.links.challenges")


@dataclass(slots=True, eq=False)
class _Held:
    link: NodeLink
    boot: str
    asked: float | None = None
    proved: bool = False
    nonce: str = ""
    entering: asyncio.Future[bool] | None = None
    """Set as long as it waits for whether it counts."""


@dataclass(slots=True, eq=False)
class _Name:
    held: list[_Held] = field(default_factory=list)
    present: _Held | None = None
    """The one that counts; None: none does."""


@dataclass(eq=False)
class Challenges:
    """Decides which link of a node counts. `_clock` is monotonic, in seconds."""

    _clock: Callable[[], float]
    _contested: Callable[[str, list[NodeLink]], None]
    _names: dict[str, _Name] = field(default_factory=dict, init=False)

    async def enter(self, name: str, link: NodeLink, boot: str) -> bool:
        """Takes in a link whose agent has said hello. Returns whether it counts, once that is known.

        Those that are open under its name are challenged. It waits for their answers, unless its agent is theirs.
        """
        known, new = self._names.setdefault(name, _Name()), _Held(link, boot)
        for other in [one for one in known.held if one.entering is not None]:
            self._end(known, other)  # it has no welcome yet, so it cannot answer
        self._forget_closing(known)
        for other in known.held:
            self._ask(name, other)
        known.held.append(new)
        if len(known.held) == 1:
            known.present = new
            return True
        entering: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        new.entering = entering
        self._judge(name)
        return await entering

    def answered(self, name: str, link: NodeLink, nonce: str) -> None:
        """An agent has answered a challenge over its link. An answer to anything else changes nothing."""
        for one in self._held(name):
            if one.link is link and one.asked is not None and one.nonce == nonce:
                one.asked, one.proved = None, True
                self._judge(name)
                return

    def again(self, name: str, link: NodeLink) -> None:
        """Challenges a link that does not count once more, so that a dead one is noticed."""
        for one in self._held(name):
            if one.link is link:
                self._ask(name, one)

    def left(self, name: str, link: NodeLink) -> None:
        """A link has ended."""
        known = self._names.get(name)
        if known is not None:
            known.held = [one for one in known.held if one.link is not link]
            self._judge(name)

    def _held(self, name: str) -> list[_Held]:
        known = self._names.get(name)
        return known.held if known is not None else []

    def _ask(self, name: str, one: _Held) -> None:
        if one.asked is not None:
            return
        one.asked, one.nonce = self._clock(), secrets.token_hex(16)
        one.link.put_message(Challenge(nonce=one.nonce))
        patience_s = Linked(one.boot, one.asked, one.proved).patience_s
        asyncio.get_running_loop().call_later(patience_s + 0.01, self._judge, name)

    def _forget_closing(self, known: _Name) -> None:
        known.held = [one for one in known.held if not one.link.closing]

    def _end(self, known: _Name, one: _Held) -> None:
        known.held.remove(one)
        one.link.replaced()

    def _judge(self, name: str) -> None:
        known = self._names.get(name)
        if known is None:
            return
        self._forget_closing(known)
        if not known.held:
            del self._names[name]
            return
        held = list(known.held)
        present = held.index(known.present) if known.present in held else None
        counts, dead = who_counts([Linked(one.boot, one.asked, one.proved) for one in held], present, self._clock())
        for place in dead:
            log.warning("link replaced node=%s: its agent did not answer", name)
            self._end(known, held[place])
        if counts is None and known.held:
            self._both(name, known)
        elif counts is not None and held[counts] is not known.present:
            self._one(name, known, held[counts])

    def _one(self, name: str, known: _Name, one: _Held) -> None:
        before, known.present = known.present, one
        if before is not None:
            before.link.counts = False  # its agent came back by another; if it answers after all, there are two
        if one.entering is None:
            log.warning("one link is left node=%s", name)
            known.held.remove(one)
            one.link.left_alone()
            return
        self._enters(one, True)

    @staticmethod
    def _enters(one: _Held, counts: bool) -> None:
        entering, one.entering = one.entering, None
        if entering is not None and not entering.done():
            entering.set_result(counts)

    def _both(self, name: str, known: _Name) -> None:
        changed = known.present is not None or any(one.entering is not None for one in known.held)
        known.present = None
        for one in known.held:
            one.link.counts = False
        if changed:
            self._contested(name, [one.link for one in known.held])
        for one in known.held:
            self._enters(one, False)
