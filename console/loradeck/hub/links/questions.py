"""Questions to nodes that are under way, by the token that comes back with the answer."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from loradeck.hub.fleet.node import Node
from loradeck.schemas.link import DownMessage


class Answering(Protocol):
    """A message that answers a question."""

    @property
    def ask(self) -> str:
        """The token of the question."""


Answer = TypeVar("Answer", bound=Answering)


@dataclass(eq=False)
class Questions(Generic[Answer]):
    """The questions of one kind that wait for an answer."""

    _asked: dict[str, tuple[str, asyncio.Future[Answer]]] = field(default_factory=dict, init=False)

    def answered(self, node: Node, answer: Answer) -> None:
        """Hands a node's answer to whoever waits for it. One that nobody waits for, or another node's, is dropped."""
        name, waiting = self._asked.get(answer.ask, ("", None))
        if waiting is not None and name == node.name and not waiting.done():
            waiting.set_result(answer)

    async def put(self, node: Node, question: Callable[[str], DownMessage], seconds: float) -> Answer | None:
        """Sends `question(token)` to a node and returns its answer; None: not linked, or no answer in `seconds`."""
        token = secrets.token_hex(8)
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked[token] = (node.name, waiting)
        try:
            if node.link is None:
                return None
            node.link.put_message(question(token))
            async with asyncio.timeout(seconds):
                return await waiting
        except TimeoutError:
            return None
        finally:
            del self._asked[token]
