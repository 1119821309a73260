"""Directives and what callers get: flips, gaps, fences, pins."""

from __future__ import annotations

from tests.integration.router.running import OTHER_BASE, Running, entry, pin, release
from tests.integration.router.upstream import Upstream

V1, V2, V3 = release("v1"), release("v2"), release("v3")


async def test_a_flip_is_acknowledged_and_the_next_answer_is_the_new_releases(
    router: Running, engine: Upstream
) -> None:
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    assert (await router.ask()).text == f"e0:{V1.engine_name}"
    acks = await router.table(entry(V2, 2))
    assert [(a["replica"], a["state"], a["epoch"], a["generation"], a["release"]) for a in acks] == [
        ("e0", "flipped", 1, 2, V2.id)
    ]
    answer = await router.ask()
    assert answer.text == f"e0:{V2.engine_name}"
    assert answer.headers["x-loradeck-release"] == V2.id
    assert answer.headers["x-loradeck-base"] == V2.release.base
    assert answer.headers["x-loradeck-adapter"] == V2.release.adapter
    assert answer.headers["x-loradeck-generation"] == "2"
    assert answer.headers["x-loradeck-replica"] == "e0"
