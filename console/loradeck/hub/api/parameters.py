"""Parameters that many calls take: the hub, the caller by its role, and how far a move must be before the answer."""

from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Query, Request

from loradeck.hub.access.auth import Allowed, Caller
from loradeck.hub.hub import Hub
from loradeck.schemas.ids import Role

PAGE = "/tenants/{tenant}/routes/{route}"
"""The path of one pointer."""

Viewer = Annotated[Caller, Depends(Allowed(Role.VIEWER))]
Operator = Annotated[Caller, Depends(Allowed(Role.OPERATOR))]
Backward = Annotated[Caller, Depends(Allowed(Role.OPERATOR, backward=True))]
Releaser = Annotated[Caller, Depends(Allowed(Role.RELEASER))]
Local = Annotated[Caller, Depends(Allowed(None))]

# Calls that agents make too.
Reader = Annotated[Caller, Depends(Allowed(Role.VIEWER, agent=True))]
Maker = Annotated[Caller, Depends(Allowed(Role.RELEASER, agent=True))]

# Calls that ask `Caller.at` or `Caller.sees` of each tenant that they are about.
ViewerOfEach = Annotated[Caller, Depends(Allowed(Role.VIEWER, each=True))]
ReaderOfEach = Annotated[Caller, Depends(Allowed(Role.VIEWER, agent=True, each=True))]
OperatorOfEach = Annotated[Caller, Depends(Allowed(Role.OPERATOR, each=True))]
ReleaserOfEach = Annotated[Caller, Depends(Allowed(Role.RELEASER, each=True))]
MakerOfEach = Annotated[Caller, Depends(Allowed(Role.RELEASER, agent=True, each=True))]


async def hub_of(request: Request) -> Hub:
    """The hub that serves a request."""
    hub: Hub = request.app.state.hub
    return hub


ThisHub = Annotated[Hub, Depends(hub_of)]


@dataclass(frozen=True)
class Waiting:
    """The level that a move must reach before it is answered, and the seconds after which it is answered anyway."""

    level: str
    timeout: float


AT_ONCE = Waiting("committed", 0)
"""Answers as soon as the move is committed."""


async def waiting(
    wait: Literal["committed", "flipped", "proven"] = "committed",
    timeout: Annotated[float, Query(ge=0, le=600, description="seconds the answer may wait")] = 60,
) -> Waiting:
    """The wait that a request's query asks for."""
    return Waiting(wait, timeout)


Wait = Annotated[Waiting, Depends(waiting)]
