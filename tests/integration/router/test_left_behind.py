"""A pointer moves to a base that no engine of this node runs: the router says that it stays behind, and who answers."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.router.running import OTHER_BASE, Running, pin, release
from tests.integration.router.running import unchecked as entry
from tests.integration.router.upstream import Upstream

from loradeck.schemas.table import Gap

V1, V2, X1 = release("v1"), release("v2"), release("x1", base=OTHER_BASE)


def said(acks: list[dict[str, Any]]) -> list[tuple[str, str, str | None, int, str]]:
    return [(a["replica"], a["state"], a["code"], a["generation"], a["detail"]) for a in acks]


@pytest.mark.parametrize(
    ("gap", "detail"),
    [
        (Gap.LEFT, "gap policy left: v1 answers"),
        (Gap.REFUSE, "gap policy refuse: nothing answers"),
        (Gap.BASE, "gap policy base: nothing answers"),
    ],
)
async def test_the_engine_that_served_a_pointer_waits_and_the_gap_policy_is_told(
    router: Running, engine: Upstream, gap: Gap, detail: str
) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1, gap=gap))
    assert said(await router.table(entry(X1, 2, gap=gap))) == [("e0", "waiting", "no_engine", 2, detail)]
    answer = await router.ask()
    if gap is Gap.LEFT:
        assert answer.text == f"e0:{V1.engine_name}"
    else:
        assert (answer.status, answer.code) == (503, "not_ready")


async def test_a_node_that_never_served_the_pointer_says_nothing(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    assert await router.table(entry(X1)) == []
    assert (await router.ask()).code == "not_ready"


async def test_back_on_its_base_the_engine_flips_at_once(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    await router.table(entry(X1, 2))
    assert said(await router.table(entry(V2, 3))) == [("e0", "flipped", None, 3, "")]
    assert (await router.ask()).text == f"e0:{V2.engine_name}"


async def test_with_an_engine_of_its_base_only_that_one_counts(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1))
    await router.table(entry(X1, 2))
    other = {"replica": "e1", "socket": engine.socket, "base": OTHER_BASE, "base_name": "base", "ready": []}
    first = {"replica": "e0", "socket": engine.socket, "base": V1.release.base, "base_name": "base", "ready": [V1.id]}
    acks = (await router.post("/control/engines", {"replicas": [first, other]}))["acks"]
    assert said(acks) == [("e1", "waiting", "not_ready", 2, "gap policy left: v1 answers")]
    other["ready"] = [X1.id]
    acks = (await router.post("/control/engines", {"replicas": [first, other]}))["acks"]
    assert said(acks) == [("e1", "flipped", None, 2, "")]
    assert (await router.ask()).text == f"e0:{X1.engine_name}"  # the same upstream behind both sockets


async def test_a_pin_to_the_left_base_is_told_as_one(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    await router.table(entry(X1, 2))
    acks = (await router.post("/control/pin", pin(V2, over=(1, 2)).model_dump(mode="json")))["acks"]
    assert said(acks) == [("e0", "waiting", "pinned", 2, "v2 by ann")]
