"""What simulated gateways and routers say to each other: the parts of a request and an answer that matter to moves."""

from __future__ import annotations

from dataclasses import dataclass

from loradeck.schemas.ids import Fence, PointerKey


@dataclass(frozen=True)
class Asked:
    """A request as a router gets it. `least`: by the oracle's record, a router that holds less must not answer it."""

    gateway: str
    key: PointerKey
    user: str
    header: str | None
    least: Fence | None


@dataclass(frozen=True)
class Began:
    """The first bytes of a router's answer: a refusal's code, or the fence in the header and the answer's number."""

    code: str | None = None
    fence: str | None = None
    number: tuple[int, int] = (0, 0)
