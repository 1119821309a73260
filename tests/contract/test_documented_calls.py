"""docs/architecture.md lists every call that a program answers, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from aiohttp import web
from fastapi import FastAPI

from loradeck.hub.app import create_app
from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.feedback import FEEDBACK_PATH
from loradeck_agent.embedded.server import EngineServer
from loradeck_agent.router.control import Control
from loradeck_agent.router.engine_pools import COMPLETIONS

TEXT = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
CALL = re.compile(r"`(?:(GET|HEAD|POST|PUT|DELETE) )?([^ `]+)`")

Calls = dict[tuple[str, str], set[str]]
"""(method, path with nameless parameters) to the names of its query."""


def section(heading: str) -> str:
    found = re.search(rf"^### {re.escape(heading)}$(.*?)(?=^##)", TEXT, re.M | re.S)
    assert found is not None, heading
    return found.group(1)


def in_table(heading: str, under: str = "") -> Calls:
    """The calls in the first column of a section's table. `/word` after a call is its sibling."""
    calls: Calls = {}
    for row in section(heading).splitlines():
        if row.startswith("| `"):
            for method, path, query in _of_cell(row.split(" | ")[0]):
                calls[method, path if path.startswith("/") else f"{under}/{path}"] = query
    return calls


def _of_cell(cell: str) -> Iterator[tuple[str, str, set[str]]]:
    method = before = ""
    for verb, written in CALL.findall(cell):
        path, _, query = re.sub(r"\{\w+\}", "{}", written.replace("…", "tenants/{t}")).partition("?")
        if not verb and path.count("/") == 1 and "/" in before.strip("/"):
            path = before.rpartition("/")[0] + path
        method, before = verb or method, path
        yield method, path, {name.partition("=")[0] for name in query.split("&") if name}


def of_openapi(app: FastAPI) -> Calls:
    return {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path)): {
            parameter["name"] for parameter in call.get("parameters", ()) if parameter["in"] == "query"
        }
        for path, calls in app.openapi()["paths"].items()
        for method, call in calls.items()
    }


def of_aiohttp(app: web.Application) -> set[tuple[str, str]]:
    return {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }


def test_every_call_of_the_hub_is_documented_and_every_documented_one_is_served() -> None:
    documented, served = in_table("HTTP, under `/v1`", "/v1"), of_openapi(create_app(mock.Mock()))
    del documented["GET", "/openapi.json"]  # the document itself is not in it
    assert documented.keys() == served.keys()
    moves = {call for call, query in served.items() if query == {"wait", "timeout"}}
    assert {call: query for call, query in served.items() if query and call not in moves} == {
        call: query for call, query in documented.items() if query
    }
    pointer = "/v1/tenants/{}/routes/{}"
    verbs = ("promote", "rollback", "undo", "fallback", *(f"candidate/{verb}" for verb in ("start", "finish", "abort")))
    moving = [*(f"{pointer}/{verb}" for verb in verbs), "/v1/undo", "/v1/rewind", "/v1/campaigns/{}/rewind"]
    assert moves == {("POST", path) for path in moving}


def test_every_call_on_the_routers_control_socket_is_documented() -> None:
    control = Control(
        boot="boot",
        contents=mock.Mock(),
        switch=mock.Mock(),
        admission=mock.Mock(),
        hub_silence=mock.Mock(),
        connections=mock.Mock(),
        stats=mock.Mock(),
        trace=mock.Mock(),
        samples=mock.Mock(),
        cold=mock.Mock(),
        hands_over=mock.Mock(),
        build="",
    )
    assert in_table("Router").keys() == of_aiohttp(control.app())


def test_what_callers_of_the_router_may_reach_is_documented() -> None:
    line = section("Router").partition("Callers: ")[2].partition(", and nothing")[0]
    documented = {(method, path) for method, path in CALL.findall(line)}
    posted = {("POST", path) for path in (*COMPLETIONS, FEEDBACK_PATH)}
    assert documented == posted | {("GET", "/v1/models"), ("GET", "/healthz")}


def test_the_engine_contract_is_what_the_embedded_engine_serves() -> None:
    build = EngineBuild.model_construct()
    engine = EngineServer(boot="b", build=build, base_name="base", slots=1)
    assert in_table("Engine contract").keys() == of_aiohttp(engine.app())
