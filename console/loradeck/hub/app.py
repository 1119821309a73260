"""The ASGI app of the active hub: nodes' links, and the FastAPI app of all resources, each error a problem document."""

from typing import Any

from fastapi import Depends, FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.websockets import WebSocket

from loradeck.hub.access import problems
from loradeck.hub.access.auth import CALLER, Allowed
from loradeck.hub.access.problems import document, problem_of, problem_response
from loradeck.hub.access.routes import Guarded
from loradeck.hub.api import (
    attestations,
    backup,
    blobs,
    campaigns,
    candidates,
    collect,
    events,
    feedback,
    freshness,
    health,
    incidents,
    jobs,
    moves,
    nodes,
    notices,
    pools,
    registry,
    reviews,
    rewind,
    state,
    tenants,
    tokens,
)
from loradeck.hub.hub import Hub
from loradeck.hub.links.all_links import PATH
from loradeck.hub.log.audit import audited
from loradeck.hub.views.status import VERSION
from loradeck.schemas.ids import Resource, Role

RESOURCES = (
    state, tenants, moves, candidates, rewind, campaigns, registry, reviews, blobs, attestations, jobs, nodes, pools,
    events, incidents, notices, tokens, backup, collect, health, feedback, freshness,
)  # fmt: skip


def create_app(hub: Hub) -> FastAPI:
    """An app that serves one hub."""
    app = FastAPI(title="Loradeck hub", version=VERSION, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.hub = hub
    app.router.route_class = Guarded
    problems.install(app, hub.metrics.refuse)
    for resource in RESOURCES:  # `include_router` would build each route once more, at the first calls
        app.router.routes.extend(resource.router.routes)

    viewer = Depends(Allowed(Role.VIEWER, each=True))

    @app.get("/openapi.json", include_in_schema=False, tags=[Resource.STATE], dependencies=[viewer])
    async def openapi(_: Request) -> Response:
        return JSONResponse(document(app))

    return app


class Calls:
    """Serves what a hub's listeners let in, and notes it in the audit trail.

    Links do not go through the app: what the framework keeps on the stack of each connection would be 15 kB for every
    node of the fleet.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._app = create_app(hub)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serves one request or WebSocket."""
        hub = self._hub
        if not hub.log.serves() and scope["path"] != "/healthz":
            await problem_response(problem_of(hub.log.not_active()))(scope, receive, send)
            return
        if scope["type"] == "websocket" and scope["path"] == PATH:
            hub.audit.called(scope[CALLER], "link", {})
            await hub.accept_link(WebSocket(scope, receive, send))
            return
        await audited(hub.audit, self._app, scope, receive, send)
