"""Calls that go into the audit trail: all that may change something, and reads that a handler has marked."""

from typing import Any

from fastapi import Request

from loradeck.hub.access.auth import CALLER
from loradeck.hub.log.audit import AuditTrail

MARKED = "loradeck.audit"
"""The key in an ASGI scope under which a handler says what a call was about."""

_PASSED_OVER = "loradeck.audit.none"

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_FILES = ("/v1/blobs/", "/v1/ledger/")
"""Files come in by their digest, hundreds for one adapter. The document that names them is what is recorded; segments
of the answer ledger are anchored together."""


def mark(request: Request, **subject: str) -> None:
    """Says what a call is about, beside the names in its path, and has it recorded even if it is a read."""
    request.scope[MARKED] = subject


def pass_over(request: Request) -> None:
    """Has a call not recorded: data from a node, which says itself where it comes from and comes as often as callers
    like.
    """
    request.scope[_PASSED_OVER] = True


async def audited(trail: AuditTrail, app: Any, scope: Any, receive: Any, send: Any) -> None:
    """Serves a call through an ASGI app, and notes it with the status of its answer.

    The answer to a call that makes a token waits until its line is written: a token without one counts as forged.
    """
    if scope["type"] == "websocket":
        trail.called(scope[CALLER], scope["path"].rpartition("/")[2], {})
        await app(scope, receive, send)
        return
    noted, status = False, None

    def note() -> None:
        nonlocal noted
        method, marked = scope["method"], scope.get(MARKED)
        if (
            not noted
            and _PASSED_OVER not in scope
            and (marked is not None or not (method in _READS or scope["path"].startswith(_FILES)))
        ):
            named = {name: str(value) for name, value in scope.get("path_params", {}).items()}
            path = getattr(scope.get("route"), "path", None) or scope["path"][:200]
            trail.called(scope[CALLER], f"{method} {path}", named | (marked or {}), status)
        noted = True

    async def watched(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            if "token" in (scope.get(MARKED) or {}):
                note()
                await trail.flush()
        await send(message)

    try:
        await app(scope, receive, watched)
    finally:
        note()
