"""Rewind: a plan, then exactly that plan, but for what has moved since."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tests.fleets.linked.hub import Deck, key
from tests.integration.hub.conftest import Join

from loradeck.hub.fleet.link_socket import LinkSocket
from loradeck.hub.log.log import Published
from loradeck.hub.log.signing import Signing
from loradeck.schemas.moves import MoveResult, RewindPlan
from loradeck.schemas.table import SignedText
from loradeck.store.interface import Committed
from loradeck.store.sqlite import SqliteStore


async def three_tenants(deck: Deck, join: Join) -> tuple[int, dict[str, str], dict[str, str]]:
    """(rev at which all were on v1, their v1, the v2 they are on now)."""
    await join("n1", slots=16)
    first, second = {}, {}
    for name in ("acme", "bolt", "cedar"):
        await deck.tenant(name)
        first[name] = await deck.release(name, seed=1)
        await deck.promote(first[name], name)
    rev = deck.hub.log.state.rev
    for name in first:
        second[name] = await deck.release(name, seed=2)
        await deck.promote(second[name], name)
    return rev, first, second


async def plan(deck: Deck, **more: Any) -> RewindPlan:
    body = {"dry_run": True, "idempotency_key": key()} | more
    return RewindPlan.model_validate(await deck.ok("POST", "rewind", body))


async def execute(deck: Deck, plan: RewindPlan, **more: Any) -> MoveResult:
    generations = {f"{s.tenant}/{s.route}": s.generation for s in plan.steps}
    body = {"to_rev": plan.to_rev, "dry_run": False, "generations": generations, "idempotency_key": key()} | more
    return MoveResult.model_validate(await deck.ok("POST", "rewind?wait=proven&timeout=60", body))


async def test_a_dry_run_changes_nothing_and_executing_it_moves_all_in_one_txn(deck: Deck, join: Join) -> None:
    rev, first, second = await three_tenants(deck, join)
    before = deck.fingerprint()
    planned = await plan(deck, to_rev=rev)
    assert deck.fingerprint() == before
    assert {s.tenant: (s.from_release, s.to_release, s.skipped) for s in planned.steps} == {
        name: (second[name], first[name], None) for name in first
    }
    result = await execute(deck, planned, reason="back to the morning")
    assert {e.tenant: e.to_release for e in result.events} == first
    assert len({e.txn for e in result.events}) == 1
    assert result.reached == "proven"
    assert {name: deck.hub.log.state.pointers[name, "production"].release for name in first} == first


async def test_a_rewind_is_one_commit_one_frame_for_each_node_and_one_signature_for_each_pointer(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    rev, first, _ = await three_tenants(deck, join)
    await join("n2", slots=16)
    planned = await plan(deck, to_rev=rev)
    did: Counter[str] = Counter()
    write, commit, sign = LinkSocket.write_frame, SqliteStore.commit, Signing.entry

    def written(socket: LinkSocket, frame: bytes) -> bool:
        did["frames"] += b'"type":"desired"' in frame
        return write(socket, frame)

    def committed(store: SqliteStore, *args: Any, **more: Any) -> Committed:
        did["commits"] += 1
        return commit(store, *args, **more)

    def signed(signing: Signing, body: str) -> SignedText:
        did["signatures"] += 1
        return sign(signing, body)

    at_commit: list[Counter[str]] = []
    follow = deck.hub.progress.committed

    def followed(published: Published) -> None:
        at_commit.append(Counter(did))
        follow(published)

    deck.hub.log.followers[deck.hub.log.followers.index(follow)] = followed
    monkeypatch.setattr(LinkSocket, "write_frame", written)
    monkeypatch.setattr(SqliteStore, "commit", committed)
    monkeypatch.setattr(Signing, "entry", signed)
    body = {"to_rev": rev, "generations": {f"{s.tenant}/{s.route}": s.generation for s in planned.steps}}
    await deck.ok("POST", "rewind?wait=flipped&timeout=60", body | {"dry_run": False, "idempotency_key": key()})
    assert at_commit == [{"commits": 1, "frames": 2, "signatures": len(first)}]


async def test_what_lay_beneath_then_and_is_not_registered_any_more_does_not_come_back(deck: Deck, join: Join) -> None:
    """As after a registry was restored from an older copy: R must not be told to go where no node can follow."""
    await join("n1", slots=16)
    await deck.tenant()
    lost, then, now = [await deck.release(seed=n) for n in range(3)]
    await deck.promote(lost)
    await deck.promote(then)
    rev = deck.hub.log.state.rev
    await deck.promote(now)
    del deck.hub.catalogue.releases[lost]
    await execute(deck, await plan(deck, to_rev=rev))
    pointer = deck.hub.log.state.pointers["acme", "production"]
    assert (pointer.release, pointer.beneath) == (then, ())


async def test_a_pointer_that_moved_between_plan_and_execution_is_skipped_and_listed(deck: Deck, join: Join) -> None:
    rev, first, _ = await three_tenants(deck, join)
    planned = await plan(deck, to_rev=rev)
    await deck.rollback("bolt")
    moved = deck.hub.log.state.pointers["bolt", "production"]
    result = await execute(deck, planned)
    assert {e.tenant for e in result.events} == {"acme", "cedar"}
    assert deck.hub.log.state.pointers["bolt", "production"] == moved
    assert first["bolt"] == moved.release  # it got there by itself, and is no step any more


async def test_a_moved_pointer_that_is_elsewhere_is_named_among_the_skipped(deck: Deck, join: Join) -> None:
    rev, _, _ = await three_tenants(deck, join)
    planned = await plan(deck, to_rev=rev)
    third = await deck.release("bolt", seed=3)
    await deck.promote(third, "bolt")
    result = await execute(deck, planned)
    assert {e.tenant for e in result.events} == {"acme", "cedar"}
    (skipped,) = result.skipped
    assert (skipped.tenant, skipped.generation) == ("bolt", 3)
    assert skipped.skipped is not None
    assert "moved since" in skipped.skipped


async def test_a_time_means_the_last_rev_at_or_before_it_and_a_selection_only_its_tenants(
    deck: Deck, join: Join
) -> None:
    rev, first, _ = await three_tenants(deck, join)
    at_ms = next(e.at_ms for e in deck.hub.log.recent if e.rev == rev)
    planned = await plan(deck, time_ms=at_ms, tenants=["cedar"])
    assert planned.at_ms == at_ms
    assert [(s.tenant, s.to_release) for s in planned.steps] == [("cedar", first["cedar"])]
    nothing = await plan(deck, time_ms=1)
    assert (nothing.to_rev, nothing.at_ms) == (0, None)
    assert {s.skipped for s in nothing.steps} == {"nothing was live then"}


async def test_what_a_rewind_must_say_is_refused_by_name(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await join("n1")
    await deck.promote(await deck.release())
    base: dict[str, Any] = {"idempotency_key": key()}
    await deck.refused(422, "invalid_request", "POST", "rewind", base)
    await deck.refused(422, "invalid_request", "POST", "rewind", base | {"to_rev": 1, "time_ms": 1})
    await deck.refused(404, "unknown_rev", "POST", "rewind", base | {"to_rev": 99})
    await deck.refused(404, "unknown_tenant", "POST", "rewind", base | {"to_rev": 1, "tenants": ["nobody"]})
    await deck.refused(422, "plan_required", "POST", "rewind", base | {"to_rev": 1, "dry_run": False})


async def test_a_rewind_that_moves_nothing_commits_nothing(deck: Deck, join: Join) -> None:
    rev, _, _ = await three_tenants(deck, join)
    planned = await plan(deck, to_rev=rev)
    await execute(deck, planned)
    at = deck.hub.log.state.rev
    again = await execute(deck, planned)
    assert again.events == ()
    assert deck.hub.log.state.rev == at
