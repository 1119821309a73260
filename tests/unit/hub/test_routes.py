"""The hub's app serves the routes that its resources have built, and builds none of them anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fastapi.routing import APIRoute

from loradeck.hub.access.auth import Allowed
from loradeck.hub.app import RESOURCES, create_app


def test_each_app_serves_the_very_routes_of_its_resources() -> None:
    """An app that includes a router builds its routes again: at a hub's first calls a quarter of a second of a core."""
    hub: Any = SimpleNamespace(metrics=SimpleNamespace(refuse=None))
    of_resources = [route for resource in RESOURCES for route in resource.router.routes]
    assert len(of_resources) > 60
    served = create_app(hub).routes
    assert [route for route in served if any(route is one for one in of_resources)] == of_resources


def test_every_route_asks_who_calls_but_two_that_say_whether_the_hub_is_up_and_the_feed_that_asks_itself() -> None:
    """tests/attacks/test_tenants_apart.py asks each route that asks who calls with another tenant's token."""
    hub: Any = SimpleNamespace(metrics=SimpleNamespace(refuse=None))
    served = create_app(hub).routes
    open_ = [
        route.path
        for route in served
        if not isinstance(route, APIRoute)
        or not any(isinstance(asked.call, Allowed) for asked in route.dependant.dependencies)
    ]
    assert sorted(open_) == ["/healthz", "/readyz", "/v1/feed"]
