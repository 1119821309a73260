"""Whether the hub lives, whether it moves anything, and its figures."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from loradeck.hub.access.auth import caller_of
from loradeck.hub.api.moves import Viewer, hub_of
from loradeck.hub.views.metrics import pointer_metrics

router = APIRouter(tags=["health"])


def _anybody(request: Request) -> None:
    """Open on the own socket; elsewhere any valid token.

    Raises: Refused `unauthenticated`.
    """
    caller_of(request, hub_of(request).tokens)


@router.get("/healthz")
async def healthz(request: Request) -> dict[str, Any]:
    """Answers as long as the process lives."""
    _anybody(request)
    return {"ok": True}


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """200 while moves are made, else 503 with the problem code that they get."""
    _anybody(request)
    hub = hub_of(request)
    state, refusing = hub.log.state, hub.moves_allowed.refusing
    body = {"ready": refusing is None, "refusing": refusing, "epoch": state.epoch, "rev": state.rev}
    return JSONResponse(body, 200 if refusing is None else 503)


@router.get("/metrics")
async def metrics(request: Request, caller: Viewer) -> Response:
    """The hub's own metrics, and those of all pointers that alerts are made from, as Prometheus text."""
    hub = hub_of(request)
    entries = hub.tables.entries
    pointers = await pointer_metrics(hub.rows.tenant(key) for key in tuple(entries) if key in entries)
    return Response(hub.metrics.text() + pointers, media_type="text/plain; version=0.0.4; charset=utf-8")
