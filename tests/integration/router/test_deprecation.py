"""Callers of a deprecated release are told with each answer, and named to the hub."""

from __future__ import annotations

from tests.integration.router.running import KEY, Running, entry, release, sha
from tests.integration.router.test_candidate import USERS, by_share, split
from tests.integration.router.upstream import Upstream

from loradeck.schemas.table import DeprecatedRelease

V1, V2 = release("v1"), release("v2")
OLD = DeprecatedRelease(release=V1.id, from_ms=1_688_169_599_000, until_ms=1_688_255_999_000)
TOLD = {"deprecation": "@1688169599", "sunset": "Sat, 01 Jul 2023 23:59:59 GMT"}


def said(headers: dict[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in TOLD if name in headers}


async def test_each_answer_of_a_deprecated_release_says_so_and_its_callers_are_named(
    router: Running, engine: Upstream
) -> None:
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1))
    assert said((await router.ask()).headers) == {}
    await router.table(entry(V1, deprecated=(OLD,)))
    assert said((await router.ask()).headers) == TOLD
    assert said((await router.ask(stream=True)).headers) == TOLD
    (row,) = await router.stats()
    assert row["called_by"] == {sha(KEY)[:16]: row["last_admitted_ms"]}
    await router.table(split(500).model_copy(update={"deprecated": (OLD,)}))
    await router.post("/control/hub", {"connected": True})
    arms = {user: said((await router.ask(also={"user": user})).headers) for user in USERS}
    assert {user for user, told in arms.items() if not told} == by_share(500), "who gets the candidate is not told"
    rows = {(row["generation"], row["release"]): "called_by" in row for row in await router.stats()}
    assert rows == {(1, V1.id): True, (2, V1.id): True, (2, V2.id): False}
