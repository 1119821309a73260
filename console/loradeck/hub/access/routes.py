"""Routes that read nothing of a request's body before its caller is known to be allowed it, and then only so much.

A request with text that is none is refused: NUL, which PostgreSQL keeps in no text, and halves of a surrogate pair,
which are no Unicode and can only be written in JSON.
"""

import inspect
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive

from loradeck.hub.access.auth import CALLER, Allowed, authenticated
from loradeck.schemas.ids import Role

MIB = 1 << 20

_ESCAPED = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")
"""What JSON has to write for text that is none. Pairs of surrogates, and a backslash before `u0000`, look alike."""

_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class Guarded(APIRoute):
    """A route whose caller is checked, its role and its tenant, and the length of the body, before the body is read."""

    body_bytes: ClassVar[Mapping[Role, int]] = {
        Role.VIEWER: 0,
        Role.OPERATOR: MIB,  # a review is the longest that one sends
        Role.RELEASER: 16 * MIB,  # manifests; files go to blobs
        Role.AGENT: 16 * MIB,  # reports of evaluations
    }
    """Bytes that a body may have, by the caller's role."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
        for given in inspect.get_annotations(endpoint, eval_str=True).values():
            body = getattr(given, "__origin__", given)  # of Annotated[body, ...]
            if isinstance(body, type) and issubclass(body, BaseModel):
                body.model_rebuild()
                body.model_config["defer_build"] = (
                    False  # else FastAPI's field is deferred too, and warns when it is built
                )
        super().__init__(path, endpoint, **settings)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind the checks."""
        handler = super().get_route_handler()
        guards = [d.call for d in self.dependant.dependencies if isinstance(d.call, Allowed)]
        resource = str(next(iter(self.tags), ""))

        async def guarded(request: Request) -> Response:
            caller = authenticated(request)
            for guard in guards:
                caller = guard.check(caller, resource, request.path_params.get("tenant"))
            request.scope[CALLER] = caller
            if "\0" in request.scope["path"] or "%00" in request.url.query:
                raise HTTPException(422, "the path and the query of a request may not have NUL in them")
            return await handler(_bounded(request, self.body_bytes.get(caller.role, 0)))

        return guarded


class _Bounded(Request):
    """A request whose body has been bounded, and whose JSON holds no string that is no text."""

    async def json(self) -> Any:
        """The body as JSON. Raises: HTTPException 422."""
        parsed = await super().json()
        if _ESCAPED.search(await self.body()) is not None and not _is_text(parsed):
            raise HTTPException(422, "a string of the body has NUL or half of a surrogate pair in it")
        return parsed


def _is_text(value: Any) -> bool:
    if isinstance(value, str):
        return _NO_TEXT.search(value) is None
    if isinstance(value, dict):
        return all(map(_is_text, (*value, *value.values())))
    return not isinstance(value, list) or all(map(_is_text, value))


def _bounded(request: Request, most: int) -> Request:
    """The request, whose body has no more than `most` bytes.

    Raises: HTTPException 413, here where its length is announced, else by the read that passes it.
    """
    length, receive = request.headers.get("content-length"), request.receive
    if length is not None:
        # The server reads no more than was announced.
        if not length.isdecimal() or len(length) > 20 or int(length) > most:
            raise _too_large(most)
    elif "transfer-encoding" in request.headers:
        receive = _counted(receive, most)
    return _Bounded(request.scope, receive)


def _counted(receive: Receive, most: int) -> Receive:
    left = most

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise _too_large(most)
        return message

    return counted


def _too_large(most: int) -> HTTPException:
    # FastAPI turns every other exception while a body is read into a 400.
    return HTTPException(413, f"the body of this request may have {most} bytes")
