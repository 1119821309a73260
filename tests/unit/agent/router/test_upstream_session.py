"""Sessions to engines, where aiohttp is another than the one they were written for."""

from __future__ import annotations

import sys
from typing import Any, cast

import aiohttp
import pytest

from loradeck_agent.router.engine_pools import _AsGiven


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="there aiohttp sends every body")
async def test_an_aiohttp_that_keeps_a_body_elsewhere_sends_it_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    async def send(self: aiohttp.ClientRequest, conn: object) -> None:
        sent.append(self)

    monkeypatch.delattr(aiohttp.ClientRequest, "_body")
    monkeypatch.setattr(aiohttp.ClientRequest, "send", send)
    request = cast("Any", _AsGiven.__new__(_AsGiven))
    await request.send(type("Connection", (), {"protocol": None}))
    assert sent == [request]
