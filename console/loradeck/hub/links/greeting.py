"""The answer to a node's hello: whether it gets a table, and what it is owed beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from loradeck.hub.fleet.nodes import Node, NodeLink
from loradeck.hub.links.node_events import NodeEvents
from loradeck.hub.links.pins import Pins
from loradeck.hub.recovery.recover import BEHIND, Recovery
from loradeck.hub.recovery.startup import Startup
from loradeck.schemas.link import Hello, NodeOrder


@dataclass(eq=False)
class Greeting:
    """Greets nodes. One that is ahead of the log is welcome, and gets no table.

    `_joined` is called last with every node and its hello: whoever gives nodes work answers there.
    """

    _events: NodeEvents
    _recovery: Recovery
    _startup: Startup
    _pins: Pins
    _joined: Callable[[Node, Hello], None]

    async def hello(self, hello: Hello, link: NodeLink) -> Node:
        """Keeps a hello, and returns its node. `behind` is set on one that is ahead of the log."""
        behind = await self._recovery.is_behind(hello)
        node = self._events.linked(hello, link)
        node.behind = BEHIND if behind else None
        return node

    def greeted(self, node: Node, hello: Hello, link: NodeLink) -> None:
        """Puts on the link what the node is owed beside its welcome."""
        if node.behind is not None:
            self._recovery.found_behind(node, hello)
        else:
            self._startup.greeted(node.name)
            link.steer()
            for pin in hello.pins:
                if self._pins.is_over(node.name, pin):
                    link.put_unpin((pin.tenant, pin.route))
        self._pins.reported(node)
        link.put_message(NodeOrder(cordoned=node.cordoned, drained=node.drained))
        self._joined(node, hello)
