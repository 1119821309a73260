"""The FastAPI app: every resource, every error a problem document."""

from __future__ import annotations

from fastapi import Depends, FastAPI, Request
from starlette.responses import JSONResponse, Response

from loradeck.hub.access import problems
from loradeck.hub.access.auth import Allowed
from loradeck.hub.access.openapi import document
from loradeck.hub.access.routes import Guarded
from loradeck.hub.api import (
    attestations,
    backup,
    blobs,
    candidates,
    events,
    feed,
    health,
    jobs,
    joining,
    moves,
    nodes,
    registry,
    reviews,
    rewind,
    sign_in,
    state,
    tenants,
    tokens,
)
from loradeck.hub.hub import Hub
from loradeck.hub.views.status import VERSION
from loradeck.schemas.ids import Resource, Role

RESOURCES = (
    state, tenants, moves, candidates, rewind, registry, reviews, blobs, attestations, jobs, nodes, events,
    tokens, joining, sign_in, backup, health, feed,
)  # fmt: skip


def create_app(hub: Hub) -> FastAPI:
    """An app that serves one hub."""
    app = FastAPI(title="Loradeck hub", version=VERSION, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.hub = hub
    app.router.route_class = Guarded
    problems.install(app, hub.metrics.refuse)
    for resource in RESOURCES:
        app.include_router(resource.router)

    viewer = Depends(Allowed(Role.VIEWER, each=True))

    @app.get("/openapi.json", include_in_schema=False, tags=[Resource.STATE], dependencies=[viewer])
    async def openapi(_: Request) -> Response:
        return JSONResponse(document(app))

    return app
