"""The switch on its own: which entry it applies, when it flips, how it acknowledges, and what the disk has by then."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.disks import read_only
from tests.integration.router.running import BASE, OTHER_BASE, entry, pin, release, sha

from loradeck.schemas.link import Ack
from loradeck.schemas.log import GENESIS
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.position import Position
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.table import CandidateRef, Gap, ReleaseRef, ResponseChecks, RouteResidency, TableEntry
from loradeck_agent.router.admission import Admission
from loradeck_agent.router.cold_queue import ColdQueue
from loradeck_agent.router.counters import Stats
from loradeck_agent.router.engine_pools import Replicas
from loradeck_agent.router.hub_silence import HubSilence
from loradeck_agent.router.switch import Switch, Unacceptable
from loradeck_agent.router.table import Contents, Table, TableFault, read_contents
from loradeck_agent.router.wire import Cursor, EngineAt, InForce

V1, V2, V3 = release("v1"), release("v2"), release("v3")
OTHER = release("v9", base=OTHER_BASE)
KEY = ("acme", "production")
HASH = "c" * 64


def at(name: str = "e0", *ready: ReleaseRef, base: str = BASE) -> EngineAt:
    return EngineAt(replica=name, socket=f"/{name}.sock", base=base, ready=tuple(ref.id for ref in ready))


class Node:
    """A switch with its table, admission and engines; nothing listens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = Table(folder)
        self.admission = Admission(HubSilence(self.table), Stats(), ColdQueue())
        self.replicas = Replicas()
        self.switch = Switch(self.table, self.admission, self.replicas)
        self.rev = 0

    @property
    def held(self) -> Contents:
        return self.table.contents

    def send(self, *entries: TableEntry, epoch: int = 1, rev: int | None = None, hash_: str = HASH) -> list[Ack]:
        self.rev = self.rev + 1 if rev is None else rev
        return list(self.switch.directive(Cursor(epoch, self.rev, hash_), entries).acks)

    def engines(self, *engines: EngineAt) -> list[Ack]:
        return self.switch.engines(engines)

    def answers(self, key: tuple[str, str] = KEY) -> str | None:
        return self.admission.answers(key)

    async def started(self, untold: Sequence[tuple[str, str]] = ()) -> Node:
        self.switch.start(untold)
        return self

    async def restart(self) -> Node:
        await self.close()
        node = Node(self.folder)
        node.rev = self.rev
        node.switch.start()
        return node

    async def close(self) -> None:
        await self.replicas.close()
        self.table.close()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path / "router")
    yield made
    await made.close()


# ---- on-demand routes ------------------------------------------------------------------------------------------


def cold_and_code(acks: list[Ack]) -> list[tuple[AckState, str | None]]:
    return [(ack.state, ack.code) for ack in acks]


@pytest.mark.parametrize(("gap", "answers"), [(Gap.LEFT, None), (Gap.REFUSE, None), (Gap.BASE, "base")])
async def test_an_on_demand_route_flips_before_its_load_and_nobody_gets_the_left_release(
    tmp_path: Path, gap: Gap, answers: str | None
) -> None:
    node = Node(tmp_path / "on-demand")
    node.engines(at("e0", V1))
    on_demand = {"residency": RouteResidency.ON_DEMAND, "gap": gap}
    assert cold_and_code(node.send(entry(V1, 1).model_copy(update=on_demand))) == [(AckState.FLIPPED, None)]
    flipped = node.send(entry(V2, 2).model_copy(update=on_demand))
    assert cold_and_code(flipped) == [(AckState.FLIPPED, "not_ready")]
    assert node.answers() not in (V1.id, V2.id)
    assert (node.answers() is None) == (answers is None)
    again = await node.restart()
    assert again.answers() == node.answers(), "the flip is durable"
    assert cold_and_code(again.engines(at("e0", V1, V2))) == [(AckState.FLIPPED, None)]
    assert again.answers() == V2.id
    assert cold_and_code(again.engines(at("e0"))) == [(AckState.FLIPPED, "not_ready")], "unloaded, and flipped still"
    await again.close()


async def test_an_on_demand_route_does_not_flip_where_no_engine_could_load_it(node: Node) -> None:
    node.engines(at("e0", V1))
    on_demand = {"residency": RouteResidency.ON_DEMAND}
    node.send(entry(V1, 1).model_copy(update=on_demand))
    assert cold_and_code(node.send(entry(OTHER, 2).model_copy(update=on_demand))) == [(AckState.WAITING, "no_engine")]


def brief(acks: Sequence[Ack]) -> list[tuple[str, str, str | None, int]]:
    return [(ack.replica, ack.state.value, ack.code, ack.generation) for ack in acks]


FLIPPED = ("e0", "flipped", None)
WAITING = ("e0", "waiting", "not_ready")
STALE = ("e0", "failed", "stale")


# ---- directives ------------------------------------------------------------------------------------------------


async def test_an_acknowledgement_names_its_entry_its_engine_and_the_time_of_the_swap(node: Node) -> None:
    node.engines(at("e0", V1))
    before_ms, before_ns = time.time() * 1000, time.monotonic_ns()
    (ack,) = node.send(entry(V1, 3, epoch=2, route="staging"), epoch=2)
    assert (ack.tenant, ack.route, ack.epoch, ack.generation) == ("acme", "staging", 2, 3)
    assert (ack.release, ack.replica, ack.state, ack.code, ack.detail) == (V1.id, "e0", AckState.FLIPPED, None, "")
    assert before_ms - 1 <= ack.at_ms <= time.time() * 1000 + 1
    assert ack.mono_ns is not None
    assert before_ns <= ack.mono_ns <= time.monotonic_ns()
    (gone,) = node.send(entry(None, 4, epoch=2, route="staging"), epoch=2)
    assert (gone.release, gone.state) == (None, AckState.FLIPPED)


async def test_a_flip_is_on_the_disk_before_a_caller_gets_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.engines(at("e0", V1, V2))
    node.send(entry(V1))
    seen: list[str | None] = []
    sync = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: (seen.append(node.answers()), sync(file))[1])
    node.send(entry(V2, 2))
    assert seen == [V1.id], "one sync, and callers were still answered by the release before"
    assert node.answers() == V2.id
    on_disk = read_contents(node.folder)
    assert on_disk == node.held
    assert on_disk.in_force[KEY] == InForce(tenant="acme", route="production", epoch=1, generation=2, release=V2)


async def test_the_cursor_moves_forward_with_a_directive_and_never_back(node: Node) -> None:
    node.engines(at("e0", V1))
    node.send(entry(V1), rev=7, hash_="7" * 64)
    assert (node.held.cursor, node.held.cursor.hash) == (Cursor(1, 7), "7" * 64)
    node.send(rev=6, hash_="6" * 64)
    assert (node.held.cursor, node.held.cursor.hash) == (Cursor(1, 7), "7" * 64)
    node.send(rev=7, hash_="8" * 64)
    assert node.held.cursor.hash == "7" * 64, "the same position is not written again"
    node.send(rev=8, hash_="8" * 64)
    assert node.held.cursor == Cursor(1, 8)
    node.send(epoch=2, rev=1, hash_="9" * 64)
    assert (node.held.cursor, node.held.cursor.hash) == (Cursor(2, 1), "9" * 64)
    assert read_contents(node.folder).cursor == Cursor(2, 1)


async def test_a_stale_entry_is_refused_and_the_ones_beside_it_are_applied(node: Node) -> None:
    node.engines(at("e0", V1, V2))
    node.send(entry(V2, 5))
    acks = node.send(entry(V1, 4), entry(V1, 1, route="staging"))
    assert brief(acks) == [(*STALE, 4), (*FLIPPED, 1)]
    assert acks[0].detail == "generation 5 of epoch 1 is held here"
    assert (node.answers(), node.answers(("acme", "staging"))) == (V2.id, V1.id)
    assert node.held.entries[KEY] == entry(V2, 5)


@pytest.mark.parametrize("late", [entry(V1, 4, epoch=2), entry(V1, 9, epoch=1), entry(V1, 5, epoch=2)])
async def test_an_older_fence_or_another_release_under_the_same_one_is_stale(node: Node, late: TableEntry) -> None:
    node.engines(at("e0", V1, V2))
    node.send(entry(V2, 5, epoch=2), epoch=2)
    assert brief(node.send(late, epoch=2)) == [(*STALE, late.generation)]
    assert (node.answers(), node.held.entries[KEY]) == (V2.id, entry(V2, 5, epoch=2))


async def test_an_entry_older_than_one_that_still_waits_is_stale(node: Node) -> None:
    node.engines(at("e0", V1, V2))
    node.send(entry(V1))
    node.send(entry(V3, 5))
    assert brief(node.send(entry(V2, 4))) == [(*STALE, 4)]
    assert node.answers() == V1.id
    assert brief(node.engines(at("e0", V1, V2, V3))) == [(*FLIPPED, 5)]


@pytest.mark.parametrize(("rev", "state"), [(6, STALE), (7, FLIPPED), (8, FLIPPED)])
async def test_settings_under_an_equal_fence_are_applied_from_a_position_not_behind(
    node: Node, rev: int, state: tuple[str, str, str | None]
) -> None:
    node.engines(at("e0", V1))
    node.send(entry(V1), rev=7)
    more = entry(V1, keys=(sha("second"),))
    assert brief(node.send(more, rev=rev)) == [(*state, 1)]
    applied = state is FLIPPED
    assert (node.admission.tenants_of("second") is not None) is applied
    assert (node.admission.tenants_of("acme-key") is not None) is not applied
    assert brief(node.send(entry(V1) if not applied else more, rev=1)) == [(*FLIPPED, 1)], "a repetition is not stale"


async def test_a_repetition_writes_nothing_and_is_acknowledged_as_the_first_time(node: Node) -> None:
    node.engines(at("e0", V1))
    first = node.send(entry(V1))
    before = (node.folder / "table.jsonl").read_bytes()
    again = node.send(entry(V1), rev=1)
    assert again == first
    assert again[0].mono_ns == first[0].mono_ns
    assert (node.folder / "table.jsonl").read_bytes() == before


@pytest.mark.parametrize("where", ["current", "preparing", "beneath"])
@pytest.mark.parametrize("fault", ["tenant", "digest"])
async def test_a_release_of_another_tenant_or_not_its_own_digest_makes_an_entry_bad(
    node: Node, where: str, fault: str
) -> None:
    ref = release("v1", tenant="globex") if fault == "tenant" else V2.model_copy(update={"id": V3.id})
    bad: dict[str, Any] = {"current": {}, "preparing": {"preparing": ref}, "beneath": {"beneath": (V3, ref)}}[where]
    made = entry(ref if where == "current" else V1, **bad)
    node.engines(at("e0", V1))
    (ack,) = node.send(made)
    assert (ack.state, ack.code) == (AckState.FAILED, "bad_entry")
    told = f"belongs to globex, not to {made.tenant}" if fault == "tenant" else "is not the digest of its own parts"
    assert ack.detail == f"release {ref.id} {told}"
    assert (node.held.entries, node.answers()) == ({}, None)
    assert node.held.cursor == Cursor(1, 1), "the log is followed all the same"


async def test_an_entry_that_needs_a_feature_of_tomorrow_is_refused_and_the_one_before_serves_on(node: Node) -> None:
    node.engines(at("e0", V1, V2))
    node.send(entry(V1, 1))
    (ack,) = node.send(entry(V2, 2, needs=("of_tomorrow",)))
    assert (ack.state, ack.code, ack.generation) == (AckState.FAILED, "unknown_feature", 2)
    assert ack.detail == "this router cannot serve it: it lacks of_tomorrow"
    assert node.answers() == V1.id


async def test_every_refused_entry_of_a_directive_is_acknowledged(node: Node) -> None:
    node.engines(at("e0", V1, V2))
    node.send(entry(V2, 5), entry(V2, 5, route="staging"))
    foreign = release("v1", tenant="globex")
    acks = node.send(
        *(entry(V1, route=route, needs=("of_tomorrow",)) for route in ("c", "d")),
        entry(V1, 4),
        entry(foreign, route="a"),
        entry(V1, 4, route="staging"),
        entry(foreign, route="b"),
        entry(V1, 6),
    )
    assert [(ack.route, ack.code) for ack in acks] == [
        ("c", "unknown_feature"),
        ("d", "unknown_feature"),
        ("production", "stale"),
        ("a", "bad_entry"),
        ("staging", "stale"),
        ("b", "bad_entry"),
        ("production", None),
    ]


async def test_an_entry_whose_other_releases_are_in_order_is_good(node: Node) -> None:
    node.engines(at("e0", V1))
    assert brief(node.send(entry(V1, preparing=V2, beneath=(V3,)))) == [(*FLIPPED, 1)]


async def test_a_failure_is_acknowledged_by_the_engines_of_its_base_only(node: Node) -> None:
    node.engines(at("e0", V1), at("e1", base=OTHER_BASE), at("e2"))
    node.send(entry(V1, 5))
    assert [(ack.replica, ack.code) for ack in node.send(entry(V2, 4))] == [("e0", "stale"), ("e2", "stale")]
    assert [ack.replica for ack in node.send(entry(None, 4))] == ["e0", "e1", "e2"]


async def test_what_the_disk_refuses_is_acknowledged_as_failed_and_is_not_in_force(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node.engines(at("e0", V1, V2))
    node.send(entry(V1, 2))
    before = (node.folder / "table.jsonl").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        acks = node.send(entry(V2, 3), entry(V1, 1), entry(V1, route="staging"))
    assert [(a.code, a.route, a.generation) for a in acks] == [
        ("stale", "production", 1),
        ("disk_full", "production", 3),
        ("disk_full", "staging", 1),
    ]
    assert all(ack.state is AckState.FAILED for ack in acks)
    assert "table.jsonl: full" in acks[1].detail
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert caplog.records[0].getMessage().startswith("disk_full: ")
    assert (node.answers(), node.answers(("acme", "staging"))) == (V1.id, None)
    assert (node.folder / "table.jsonl").read_bytes() == before
    assert brief(node.send(entry(V2, 3))) == [(*FLIPPED, 3)]


async def test_on_a_read_only_disk_a_flip_is_made_in_memory_does_not_count_and_is_durable_once_there_is_a_disk(
    node: Node, tmp_path: Path
) -> None:
    node.engines(at("e0", V1, V2))
    node.send(entry(V1, 1))
    with read_only(node.folder):
        node.table.close()
        node = await Node(node.folder).started()
        node.engines(at("e0", V1, V2))
        assert node.answers() == V1.id
        (ack,) = node.send(entry(V2, 2), rev=7)
        assert (ack.state, ack.code) == (AckState.FAILED, "volatile")
        assert os.strerror(errno.EROFS) in ack.detail
        assert (node.answers(), node.switch.volatile) == (V2.id, (KEY,))
        assert node.held.cursor.rev < 7, "what is not on the disk is not vouched for"
        with pytest.raises(TableFault, match=r"^read_only: "):
            node.switch.pin(pin(V1))
        assert read_contents(node.folder).entries[KEY].generation == 1

        node.table.close()
        node = await Node(node.folder).started(untold=[KEY])
        assert node.answers() is None, "it lacks a move, and knows only that"
        node.send(entry(V2, 2), rev=7)
        assert node.answers() == V2.id
    again = node.switch.directive(Cursor(1, 7, HASH), [entry(V2, 2)])
    assert (brief(again.acks), again.durable, node.switch.volatile) == ([(*FLIPPED, 2)], True, ())
    assert read_contents(node.folder).cursor.rev == 7
    assert (await node.restart()).answers() == V2.id


@pytest.mark.parametrize("entries", [(), (entry(V1),)], ids=["no entries", "no engine of the base"])
async def test_whether_a_directive_is_durable_is_answered_without_an_acknowledgement_too(
    node: Node, monkeypatch: pytest.MonkeyPatch, entries: tuple[TableEntry, ...]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        refused = node.switch.directive(Cursor(1, 1, HASH), entries)
    assert (refused.acks, refused.durable) == ((), False)
    assert (node.held.entries, node.held.cursor) == ({}, Cursor())
    taken = node.switch.directive(Cursor(1, 1, HASH), entries)
    assert (taken.acks, taken.durable) == ((), True)
    assert read_contents(node.folder).cursor == Cursor(1, 1)


# ---- who answers meanwhile -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "who"),
    [(Gap.LEFT, "v1 answers"), (Gap.BASE, "the base alone answers"), (Gap.REFUSE, "nothing answers")],
)
async def test_a_waiting_entry_names_who_answers_in_its_place(node: Node, gap: Gap, who: str) -> None:
    node.engines(at("e0", V1))
    node.send(entry(V1, gap=gap))
    (ack,) = node.send(entry(V2, 2, gap=gap))
    assert (ack.state, ack.code, ack.detail) == (AckState.WAITING, "not_ready", f"gap policy {gap.value}: {who}")


async def test_a_release_without_a_label_is_named_by_the_head_of_its_id(node: Node) -> None:
    unnamed = V1.model_copy(update={"label": ""})
    node.engines(at("e0", V1))
    node.send(entry(unnamed))
    (ack,) = node.send(entry(V2, 2))
    assert ack.detail == f"gap policy left: {V1.id[:6]} answers"


async def test_a_first_entry_that_is_not_ready_has_nobody_to_answer(node: Node) -> None:
    node.engines(at("e0"))
    (ack,) = node.send(entry(V1))
    assert (ack.code, ack.detail, node.answers()) == ("not_ready", "gap policy left: nothing answers", None)


async def test_a_first_entry_that_is_not_ready_is_answered_by_the_base_alone_where_its_policy_says_so(
    node: Node,
) -> None:
    node.engines(at("e0"))
    (ack,) = node.send(entry(V1, gap=Gap.BASE))
    assert (ack.code, ack.detail) == ("not_ready", "gap policy base: the base alone answers")


# ---- engines ---------------------------------------------------------------------------------------------------


async def test_the_first_report_of_engines_is_answered_for_every_entry_and_later_ones_for_what_changed(
    node: Node,
) -> None:
    node.send(entry(V1), entry(V2, route="staging"))
    assert [brief([a])[0] for a in node.engines(at("e0", V1, V2))] == [(*FLIPPED, 1)] * 2
    assert node.engines(at("e0", V1, V2)) == []
    lost = node.engines(at("e0", V1))
    assert [(a.route, a.code) for a in lost] == [("staging", "not_ready")]
    assert node.engines(at("e0", V1)) == []


async def test_after_a_restart_the_first_report_is_answered_for_every_entry_again(node: Node) -> None:
    node.engines(at("e0", V1))
    node.send(entry(V1))
    again = await node.restart()
    assert again.answers() == V1.id, "served alone, from the table"
    assert again.admission.tenants_of("acme-key") == {"acme"}
    assert brief(again.engines(at("e0", V1))) == [(*FLIPPED, 1)]
    assert again.engines(at("e0", V1)) == []
    await again.close()
    node.table = Table(node.folder)


async def test_a_release_that_becomes_ready_flips_and_one_that_is_lost_is_left_behind(node: Node) -> None:
    node.engines(at("e0", V1))
    node.send(entry(V1))
    assert brief(node.send(entry(V2, 2))) == [(*WAITING, 2)]
    assert brief(node.engines(at("e0", V1, V2))) == [(*FLIPPED, 2)]
    assert node.answers() == V2.id
    assert brief(node.engines(at("e0", V1))) == [(*WAITING, 2)]
    assert node.answers() is None, "the release before does not come back by itself"
    assert brief(node.engines(at("e0", V1, V2))) == [(*FLIPPED, 2)]


async def test_only_entries_that_rest_on_a_change_of_engines_are_looked_at(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.engines(at("e0", V1), at("e1", base=OTHER_BASE))
    node.send(entry(V1), entry(V2, route="staging"), entry(OTHER, route="other"), entry(None, route="gone"))
    swapped: list[str] = []
    swap = node.admission.swap
    monkeypatch.setattr(node.admission, "swap", lambda entry, plan: (swapped.append(entry.route), swap(entry, plan))[1])

    def looked_at(*engines: EngineAt) -> set[str]:
        swapped.clear()
        node.engines(*engines)
        return set(swapped)

    other = at("e1", base=OTHER_BASE)
    assert looked_at(at("e0", V1), other) == set()
    assert looked_at(at("e0", V1, V3), other) == set(), "nobody waits for it"
    assert looked_at(at("e0", V1, V2), other) == {"staging"}
    assert looked_at(at("e0", V2), other) == {"production"}
    assert looked_at(at("e0", V2)) == {"other"}, "its engine is gone"
    assert looked_at(at("e0", V2), other) == {"other"}
    assert looked_at(at("e0", V2), other, at("e2")) == {"production", "staging"}, "one more of their base"
    moved = at("e0", V2).model_copy(update={"socket": "/elsewhere.sock"})
    assert looked_at(moved, other, at("e2")) == {"production", "staging"}
    assert looked_at(at("e0", OTHER, base=OTHER_BASE), other, at("e2")) == {"production", "staging", "other"}


async def test_an_entry_rests_on_its_candidate_too(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.engines(at("e0", V1))
    candidate = CandidateRef(release=V2, generation=2, permille=1000, salt="5a1c02b7")
    node.send(entry(V1, 2, candidate=candidate, needs=("candidate",)))
    swapped: list[str] = []
    swap = node.admission.swap
    monkeypatch.setattr(node.admission, "swap", lambda entry, plan: (swapped.append(entry.route), swap(entry, plan))[1])
    node.engines(at("e0", V1, V2))
    assert swapped == ["production"], "a share of the callers gets it from now on"


async def test_a_pinned_pointer_that_is_withdrawn_is_not_said_to_be_before_its_pin_ends(node: Node) -> None:
    node.engines(at("e0", V1, V2))
    node.send(entry(V1), entry(V1, route="staging"))
    node.switch.pin(pin(V2))
    gone = node.switch.directive(Cursor(1, 9, HASH), (entry(None, 2), entry(None, 2, route="staging")))
    assert gone.withdrawn == (("acme", "staging"),)


async def test_the_hubs_signature_of_a_position_is_held_with_it(node: Node) -> None:
    signed = Position(log="a" * 32, incarnation="i" * 32, epoch=1, rev=7, hash=HASH, signature="b" * 128)
    node.switch.directive(Cursor(1, 7, HASH, signed), (entry(V1),))
    assert (await node.restart()).held.cursor.witness == signed


async def test_engines_of_two_bases_that_change_at_once_concern_the_entries_of_both(node: Node) -> None:
    node.engines(at("e0", V1), at("e1", OTHER, base=OTHER_BASE))
    node.send(entry(V1), entry(OTHER, route="other"))
    acks = node.engines(at("e2", V1), at("e3", OTHER, base=OTHER_BASE))
    assert [(a.route, a.replica, a.state.value) for a in acks] == [
        ("production", "e2", "flipped"),
        ("other", "e3", "flipped"),
    ]


async def test_a_pinned_release_and_one_in_force_are_watched_too(node: Node) -> None:
    node.engines(at("e0", V1, V2, V3))
    node.send(entry(V1), entry(V1, route="staging"))
    node.send(entry(V2, 2, route="staging"))
    node.switch.pin(pin(V3))
    assert node.answers() == V3.id
    node.engines(at("e0", V1, V2))
    assert node.answers() is None
    node.engines(at("e0", V1, V2, V3))
    assert node.answers() == V3.id
    node.engines(at("e0", V1, V3))
    node.send(entry(V3, 3, route="staging", gap=Gap.LEFT))
    assert node.answers(("acme", "staging")) == V3.id


async def test_the_release_that_stands_in_is_watched_while_the_newest_one_waits(node: Node) -> None:
    node.engines(at("e0", V1))
    node.send(entry(V1))
    node.send(entry(V2, 2))
    assert node.answers() == V1.id
    (ack,) = node.engines(at("e0"))
    assert (node.answers(), ack.detail) == (None, "gap policy left: nothing answers")
    (ack,) = node.engines(at("e0", V1))
    assert (node.answers(), ack.detail) == (V1.id, "gap policy left: v1 answers")


async def test_engines_are_durable_and_an_unchanged_report_is_not_written(node: Node) -> None:
    node.engines(at("e0", V1))
    assert read_contents(node.folder).engines == (at("e0", V1),)
    before = (node.folder / "table.jsonl").read_bytes()
    node.engines(at("e0", V1))
    assert (node.folder / "table.jsonl").read_bytes() == before
    node.engines()
    assert read_contents(node.folder).engines == ()


async def test_what_an_engine_holds_besides_for_on_demand_routes_alone_is_written_with_the_next_change(
    node: Node,
) -> None:
    on_demand: dict[str, Any] = {"residency": RouteResidency.ON_DEMAND, "gap": Gap.REFUSE}
    node.engines(at("e0"))
    node.send(entry(V1, route="one", **on_demand), entry(V2, route="two", **on_demand), entry(V3))
    before = (node.folder / "table.jsonl").read_bytes()
    (ack,) = node.engines(at("e0", V1))
    assert (ack.state, ack.code, node.answers(("acme", "one"))) == (AckState.FLIPPED, None, V1.id)
    assert (node.folder / "table.jsonl").read_bytes() == before
    again = await node.restart()
    try:
        assert (again.held.engines, again.answers(("acme", "one"))) == ((at("e0"),), None), "its requests wait"
        again.engines(at("e0", V1))
        assert again.answers(("acme", "one")) == V1.id
        again.engines(at("e0", V2))
        assert read_contents(again.folder).engines == (at("e0", V2),), "one holds less"
        for ready in ((V2, V3), (V2, V3, release("v8"))):
            again.engines(at("e0", *ready))
            assert read_contents(again.folder).engines == (at("e0", *ready),), "it is always there, or may be"
        again.send(entry(V3, 2))
        again.engines(at("e0", V2))
        again.switch.pin(pin(V1).model_copy(update={"route": "one"}))
        again.engines(at("e0", V2, V1))
        assert read_contents(again.folder).engines == (at("e0", V2, V1),), "a pin has chosen it"
    finally:
        await again.close()


@pytest.mark.parametrize("change", ["always", "pin", "cursor"])
async def test_a_router_that_was_killed_after_any_change_answers_by_what_engines_had_loaded_on_demand_before_it(
    node: Node, change: str
) -> None:
    on_demand: dict[str, Any] = {"residency": RouteResidency.ON_DEMAND, "gap": Gap.REFUSE}
    node.engines(at("e0"))
    node.send(entry(V1, **on_demand))
    node.engines(at("e0", V1))
    lines = (node.folder / "table.jsonl").read_bytes().count(b"\n")
    if change == "pin":
        node.switch.pin(pin(V1))
    else:
        node.send(*[entry(V1, gap=Gap.REFUSE)] * (change == "always"))
    assert read_contents(node.folder) == node.held
    assert (node.folder / "table.jsonl").read_bytes().count(b"\n") == lines + 1, "with that change, in one write"
    before = (node.folder / "table.jsonl").stat().st_size
    node.send()
    assert (node.folder / "table.jsonl").stat().st_size - before < 300, "and once"
    again = await node.restart()
    assert again.answers() == V1.id
    await again.close()


async def test_a_flip_that_the_disk_refused_is_made_at_the_next_report_though_nothing_else_changed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.engines(at("e0", V1))
    node.send(entry(V1), entry(V1, route="staging"))
    node.send(entry(V2, 2))

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", broken)
            acks = node.engines(at("e0", V1, V2))
        assert brief(acks) == [("e0", "failed", "table_write_failed", 2)]
        assert "broken" in acks[0].detail
        assert (node.answers(), node.answers(("acme", "staging"))) == (V1.id, V1.id)
    assert brief(node.engines(at("e0", V1, V2))) == [(*FLIPPED, 2)]
    assert node.answers() == V2.id
    before = (node.folder / "table.jsonl").read_bytes()
    assert node.engines(at("e0", V1, V2)) == []
    assert (node.folder / "table.jsonl").read_bytes() == before


async def test_every_flip_that_the_disk_refused_is_acknowledged_and_so_is_what_needs_no_flip(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node.engines(at("e0", V1))
    node.send(entry(V1, route="a"), entry(V1, route="b"), entry(V1, route="c"))
    node.send(entry(V2, 2, route="a"), entry(V2, 2, route="b"))

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        acks = node.engines(at("e0", V2))
    assert [(ack.route, ack.code) for ack in acks] == [
        ("a", "table_write_failed"),
        ("b", "table_write_failed"),
        ("c", "not_ready"),
    ]
    assert "table_write_failed" in caplog.records[0].getMessage()


async def test_engines_that_the_disk_refused_to_keep_are_used_all_the_same(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node.engines(at("e0", V1))
    node.send(entry(V1))

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        acks = node.engines(at("e0"), at("e1", V1))
    assert [(a.replica, a.state.value) for a in acks] == [("e0", "waiting"), ("e1", "flipped")]
    assert node.answers() == V1.id
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_each_engine_acknowledges_for_itself(node: Node) -> None:
    node.engines(at("e0", V1), at("e1"), at("e2", base=OTHER_BASE))
    assert brief(node.send(entry(V1))) == [("e0", "flipped", None, 1), ("e1", "waiting", "not_ready", 1)]
    assert brief(node.engines(at("e0", V1), at("e1", V1), at("e2", base=OTHER_BASE))) == [("e1", "flipped", None, 1)]


async def test_a_tombstone_is_acknowledged_by_every_engine(node: Node) -> None:
    node.engines(at("e0", V1), at("e1", base=OTHER_BASE))
    node.send(entry(V1))
    acks = node.send(entry(None, 2, keys=()))
    assert brief(acks) == [("e0", "flipped", None, 2), ("e1", "flipped", None, 2)]
    assert (node.answers(), node.admission.tenants_of("acme-key")) == (None, None)
    assert node.held.in_force[KEY].release is None, "what was before it is not there to go on with"
    node.send(entry(V2, 3))
    assert node.answers() is None


async def test_a_pointer_withdrawn_and_placed_again_under_the_same_fence_is_served_again(node: Node) -> None:
    node.engines(at("e0", V1))
    node.send(entry(V1))
    assert brief(node.send(entry(None))) == [(*FLIPPED, 1)]
    assert node.answers() is None
    assert brief(node.send(entry(V1), rev=1)) == [(*STALE, 1)]
    assert node.answers() is None
    assert brief(node.send(entry(V1), rev=3)) == [(*FLIPPED, 1)]
    assert node.answers() == V1.id


async def test_the_engines_that_a_pointer_left_acknowledge_a_base_that_no_engine_here_runs(node: Node) -> None:
    node.engines(at("e0", V1), at("e1"))
    node.send(entry(V1))
    (ack,) = node.send(entry(OTHER, 2))
    assert (ack.replica, ack.state, ack.code) == ("e0", AckState.WAITING, "no_engine")
    assert ack.detail == "gap policy left: v1 answers"
    acks = node.engines(at("e0", V1), at("e1"), at("e2", base=OTHER_BASE))
    assert brief(acks) == [("e2", "waiting", "not_ready", 2)]
    assert node.send(entry(OTHER, route="never-served"))[0].replica == "e2"


async def test_an_entry_of_a_base_without_engines_that_served_nothing_is_held_in_silence(node: Node) -> None:
    node.engines(at("e0", V1))
    assert node.send(entry(OTHER)) == []
    assert node.held.entries[KEY] == entry(OTHER)


async def test_merged_weights_rest_on_the_engines_of_their_own_base(node: Node) -> None:
    made = Release(tenant="acme", form=Form.MERGED, base=BASE, adapter=V1.release.adapter, merged=OTHER_BASE)
    ref = ReleaseRef(id=made.id, release=made)
    node.engines(at("e0", V1))
    node.send(entry(ref, gap=Gap.BASE))
    assert node.answers() is not None, "the base alone, by the engine that runs it"
    node.engines()
    assert node.answers() is None
    assert brief(node.engines(at("e1", ref, base=OTHER_BASE))) == [("e1", "flipped", None, 1)]
    assert node.answers() == ref.id


# ---- pins ------------------------------------------------------------------------------------------------------


async def test_a_pin_is_in_force_over_the_hub_until_it_is_taken_off(node: Node) -> None:
    node.engines(at("e0", V1, V2, V3))
    node.send(entry(V1))
    (ack,) = node.switch.pin(pin(V2))
    assert (ack.state, ack.code, ack.detail) == (AckState.WAITING, "pinned", "v2 by ann")
    assert node.answers() == V2.id
    assert node.held.in_force[KEY].pinned
    assert read_contents(node.folder).pins == {KEY: pin(V2)}
    assert brief(node.send(entry(V3, 2))) == [("e0", "waiting", "pinned", 2)]
    assert node.answers() == V2.id
    again = await node.restart()
    assert again.answers() == V2.id
    again.engines(at("e0", V1, V2, V3))
    assert brief(again.switch.unpin(KEY)) == [(*FLIPPED, 2)]
    assert again.answers() == V3.id
    assert read_contents(node.folder).pins == {}
    await again.close()
    node.table = Table(node.folder)


@pytest.mark.parametrize("gap", list(Gap))
async def test_a_pin_answers_whatever_the_gap_policy_is_and_is_no_gap(node: Node, gap: Gap) -> None:
    node.engines(at("e0", V1, V2))
    node.send(entry(V1, gap=gap))
    node.switch.pin(pin(V2))
    assert node.answers() == V2.id
    node.engines(at("e0", V1, V2, V3))
    node.send(entry(V3, 2, gap=gap))
    assert node.answers() == V2.id


async def test_a_pinned_release_without_a_label_is_named_by_its_id(node: Node) -> None:
    node.engines(at("e0", V1, V2))
    node.send(entry(V1))
    (ack,) = node.switch.pin(pin(V2.model_copy(update={"label": ""})))
    assert ack.detail == f"{V2.id} by ann"


async def test_a_pin_to_a_release_that_is_not_ready_flips_when_it_is(node: Node) -> None:
    node.engines(at("e0", V1))
    node.send(entry(V1))
    node.switch.pin(pin(V2))
    assert node.answers() == V1.id, "the gap policy: what was there before the pin"
    assert not node.held.in_force[KEY].pinned
    node.engines(at("e0", V1, V2))
    assert node.answers() == V2.id
    assert node.held.in_force[KEY].pinned


async def test_a_pin_to_the_hubs_own_release_counts_as_flipped_and_is_in_force_as_a_pin(node: Node) -> None:
    node.engines(at("e0", V1))
    node.send(entry(V1))
    assert brief(node.switch.pin(pin(V1))) == [(*FLIPPED, 1)]
    assert node.held.in_force[KEY].pinned, "so that the hub's entry is flipped to again when the pin ends"
    assert brief(node.switch.unpin(KEY)) == [(*FLIPPED, 1)]
    assert not node.held.in_force[KEY].pinned


async def test_pinning_the_same_again_and_unpinning_nothing_write_nothing(node: Node) -> None:
    node.engines(at("e0", V1, V2))
    node.send(entry(V1))
    node.switch.pin(pin(V2))
    before = (node.folder / "table.jsonl").read_bytes()
    node.switch.pin(pin(V2))
    assert (node.folder / "table.jsonl").read_bytes() == before
    node.switch.unpin(KEY)
    before = (node.folder / "table.jsonl").read_bytes()
    assert brief(node.switch.unpin(KEY)) == [(*FLIPPED, 1)]
    assert node.switch.unpin(("acme", "unknown")) == []
    assert (node.folder / "table.jsonl").read_bytes() == before


async def test_a_pin_of_an_unknown_or_removed_route_or_of_another_tenants_release_is_refused(node: Node) -> None:
    node.engines(at("e0", V1, V2))
    with pytest.raises(Unacceptable) as refused:
        node.switch.pin(pin(V2))
    assert (refused.value.status, refused.value.code, refused.value.detail) == (404, "unknown_route", "acme/production")
    assert "route" in refused.value.title
    assert refused.value.fix
    node.send(entry(V1))
    with pytest.raises(Unacceptable) as refused:
        node.switch.pin(pin(release("v2", tenant="globex")))
    assert (refused.value.status, refused.value.code) == (400, "bad_release")
    assert "belongs to globex" in refused.value.detail
    node.send(entry(None, 2))
    with pytest.raises(Unacceptable) as refused:
        node.switch.pin(pin(V2))
    assert refused.value.code == "unknown_route"
    assert node.held.pins == {}


async def test_a_pin_or_unpin_that_the_disk_refuses_changes_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    node.engines(at("e0", V1, V2))
    node.send(entry(V1))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        with pytest.raises(TableFault):
            node.switch.pin(pin(V2))
    assert (node.held.pins, node.answers()) == ({}, V1.id)
    node.switch.pin(pin(V2))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", full)
        with pytest.raises(TableFault):
            node.switch.unpin(KEY)
    assert (node.held.pins, node.answers()) == ({KEY: pin(V2)}, V2.id)


async def test_a_stale_entry_is_refused_under_a_pin_too_and_settings_are_applied(node: Node) -> None:
    node.engines(at("e0", V1, V2, V3))
    node.send(entry(V1, 4))
    node.switch.pin(pin(V2))
    assert brief(node.send(entry(V3, 3))) == [(*STALE, 3)]
    assert brief(node.send(entry(V3, 4))) == [(*STALE, 4)], "another release under the same fence"
    more = entry(V1, 4, checks=ResponseChecks(min_chars=5))
    assert brief(node.send(more)) == [("e0", "waiting", "pinned", 4)]
    assert node.held.entries[KEY] == more


# ---- compaction ------------------------------------------------------------------------------------------------


async def test_a_bloated_file_is_compacted_after_the_flip_and_a_failure_costs_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    node.engines(at("e0", V1, V2, V3))
    node.send(entry(V1))
    monkeypatch.setattr(Table, "bloated", True)
    node.send(entry(V2, 2))
    assert (node.folder / "table.jsonl").read_bytes().count(b"\n") == 1
    assert read_contents(node.folder) == node.held, "the flip is in what was compacted"

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "rename", broken)
    assert brief(node.send(entry(V3, 3))) == [(*FLIPPED, 3)]
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "the table was not compacted: [Errno 5] broken")
    ]
    assert read_contents(node.folder) == node.held


async def test_a_file_that_is_not_bloated_is_only_appended_to(node: Node) -> None:
    node.engines(at("e0", V1, V2))
    lines = (node.folder / "table.jsonl").read_bytes().count(b"\n")
    node.send(entry(V1), hash_=GENESIS)
    node.send(entry(V2, 2))
    assert (node.folder / "table.jsonl").read_bytes().count(b"\n") == lines + 2
