"""A token file that has changed is read again when the hub does not know the old token any more."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from loradeck.client.config import Context
from loradeck.client.connect import Endpoint, Hubs
from loradeck.client.errors import ApiError
from loradeck.client.transport import Transport, http_client


def point(token: str) -> Endpoint:
    return Endpoint(where="hub", base_url="http://hub", socket=Path("/none"), token=token, tls=None)


async def transport(tokens: list[str], known: str, seen: list[str]) -> Transport:
    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        if seen[-1] == f"Bearer {known}":
            return httpx.Response(200, json={"ok": True})
        return httpx.Response(401, json={"status": 401, "code": "unauthenticated", "title": "no valid token"})

    http = http_client(point(tokens[0]))
    http._transport = httpx.MockTransport(answer)
    hubs = Hubs(Context(name="t", socket=Path("/none")))
    hubs.endpoint = lambda: point(tokens[-1])  # type: ignore[method-assign]
    return Transport(point(tokens[0]), http, hubs)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_that_was_refused_goes_again_with_the_new_token_and_later_ones_have_it(method: str) -> None:
    seen: list[str] = []
    made = await transport(["old", "new"], "new", seen)
    assert await made.request(method, "state")
    assert await made.request("GET", "state")
    assert seen == ["Bearer old", "Bearer new", "Bearer new"]
    await made.aclose()


async def test_without_a_new_token_the_refusal_stands(tmp_path: Path) -> None:
    seen: list[str] = []
    made = await transport(["old"], "new", seen)
    with pytest.raises(ApiError, match="no valid token"):
        await made.request("POST", "state")
    assert seen == ["Bearer old"]
    await made.aclose()
