"""The hub's app serves the routes that its resources have built, and builds none of them anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from loradeck.hub.app import RESOURCES, create_app


def test_each_app_serves_the_very_routes_of_its_resources() -> None:
    """An app that includes a router builds its routes again: at a hub's first calls a quarter of a second of a core."""
    hub: Any = SimpleNamespace(metrics=SimpleNamespace(refuse=None))
    of_resources = [route for resource in RESOURCES for route in resource.router.routes]
    assert len(of_resources) > 60
    served = create_app(hub).routes
    assert [route for route in served if any(route is one for one in of_resources)] == of_resources
