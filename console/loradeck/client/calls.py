"""Sends calls to a hub: reads, calls that are sent once, or twice, or looked up by key when the answer was lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, TypeVar

from pydantic import BaseModel, TypeAdapter

from loradeck.client.backoff import Backoff
from loradeck.client.errors import LEAVES_OPEN, ApiError, HubUnreachable, NotUnderstood, OutcomeUnknown
from loradeck.client.transport import AnswerLost, Params, Transport, segment
from loradeck.schemas.moves import MoveResult

T = TypeVar("T")
Wait = Literal["committed", "flipped", "proven"]
"""How far a move must be before the hub answers."""

LOOKUP_S = 10.0
"""Seconds for which a lost answer is looked up before the outcome is called unknown."""


class Waiting(TypedDict, total=False):
    """How long a move's answer may wait: until which state of the replicas, and seconds at most."""

    wait: Wait
    timeout: float


class Calls:
    """Sends the calls to one hub, in one way for each kind of call. `lookup_s`: as `LOOKUP_S`."""

    def __init__(self, transport: Transport, *, lookup_s: float | None = None) -> None:
        self.transport = transport
        self._lookup_s = LOOKUP_S if lookup_s is None else lookup_s

    @property
    def where(self) -> str:
        """The hub's address, for people."""
        return self.transport.where

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections."""
        await self.transport.aclose()

    async def move(self, key: str) -> MoveResult | None:
        """The result of the move that was sent under a key; None if nothing was moved under it."""
        try:
            return await self._get(MoveResult, f"moves/{segment(key)}")
        except ApiError as error:
            if error.code == "unknown_key":
                return None
            raise

    async def _move(self, path: str, request: BaseModel, wait: Wait | None = None, timeout: float = 60) -> MoveResult:
        key = getattr(request, "idempotency_key", "")
        began = time.monotonic()

        async def send(spent: float = 0.0) -> MoveResult:
            left = max(0.0, timeout - spent)
            params = {"wait": wait, "timeout": left if wait is not None else None}
            return await self.transport.ask(
                MoveResult, "POST", path, body=request, params=params, extra_s=left, repeatable=False
            )

        try:
            return await send()
        except (AnswerLost, NotUnderstood):
            pass
        except ApiError as error:
            if error.code not in LEAVES_OPEN:
                raise
        deadline = time.monotonic() + self._lookup_s
        for pause in Backoff(0.1, 2.0).pauses():
            await asyncio.sleep(pause)
            # Looked up first. Sent again if it never arrived, or joined again if it is still being prepared: the key
            # keeps it from moving twice.
            asked = False
            try:
                found = await self.move(key)
                if found is not None and found.pending is None:
                    return found
                asked = True
                return await send(time.monotonic() - began)
            except (AnswerLost, HubUnreachable):
                pass
            except ApiError as error:
                if asked and error.code not in LEAVES_OPEN:
                    raise
            if time.monotonic() > deadline:
                break
        raise OutcomeUnknown(key, detail=self.where)

    async def _get(self, kind: type[T], path: str, /, *, extra_s: float = 0.0, **params: Any) -> T:
        """Asks for what lies under a path. A parameter that is None is not sent."""
        return await self.transport.ask(kind, "GET", path, params=params, extra_s=extra_s)

    async def _post(
        self,
        kind: type[T] | TypeAdapter[T],
        path: str,
        body: BaseModel | None = None,
        *,
        extra_s: float = 0.0,
        **params: str | None,
    ) -> T:
        """Sends a POST that may be sent twice, once more when the answer was lost."""
        return await self.transport.ask(kind, "POST", path, body=body, params=params, extra_s=extra_s, repeatable=True)

    async def _put(
        self,
        kind: type[T],
        path: str,
        body: BaseModel,
        reason: str,
        *,
        break_glass: bool = False,
        was: str | None = None,
    ) -> T:
        """Replaces settings, once more when the answer was lost."""
        params = {"reason": reason or None, "break_glass": "true" if break_glass else None, "was": was}
        return await self.transport.ask(kind, "PUT", path, body=body, params=params, repeatable=True)

    async def _write(
        self,
        kind: type[T],
        path: str,
        body: BaseModel | Mapping[str, Any] | None = None,
        *,
        repeatable: bool = False,
        extra_s: float = 0.0,
    ) -> T:
        """Sends a POST that is no move. Raises `OutcomeUnknown`, without a key, when its answer was lost."""
        try:
            return await self.transport.ask(kind, "POST", path, body=body, repeatable=repeatable, extra_s=extra_s)
        except (AnswerLost, NotUnderstood) as error:
            raise OutcomeUnknown(None, detail=error.detail) from None

    async def _delete(self, path: str, params: Params | None = None) -> None:
        """Sends a DELETE, once more when its answer was lost."""
        try:
            await self.transport.request("DELETE", path, params=params, repeatable=True)
        except (AnswerLost, NotUnderstood) as error:
            raise OutcomeUnknown(None, detail=error.detail) from None
