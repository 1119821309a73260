"""A client of a scripted hub."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from tests.unit.client.client_script import Script

from loradeck.client.api import HubApi
from loradeck.client.connect import Endpoint
from loradeck.client.transport import Transport


@pytest.fixture
def hub_of() -> Callable[..., HubApi]:
    """A client of the scripted hub."""

    def make(script: Script, lookup_s: float = 10.0) -> HubApi:
        point = Endpoint(where="unix:/run/hub.sock", base_url="http://hub", socket=None, token=None, tls=None)
        http = httpx.AsyncClient(transport=httpx.MockTransport(script), base_url="http://hub/v1/")
        return HubApi(Transport(point, http), lookup_s=lookup_s)

    return make
