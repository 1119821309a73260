"""What the chain of a ledger shows, where a request is looked for, and the ids that carry their time."""

import uuid
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.clocks import DAY_MS, HOUR_MS
from loradeck.rules.data import answer_ledger as rules
from loradeck.rules.merkle import Frontier, is_in, path_of
from loradeck.rules.serving.request_ids import request_id, time_of
from loradeck.schemas.answer_ledger import Anchor, Segment
from loradeck.schemas.ids import GENESIS

NOW = 1_790_000_000_000


def segment(seq: int, prev: str = GENESIS, **fields: object) -> Segment:
    told = {
        "node": "n1",
        "tenant": "acme",
        "chain": "c" * 32,
        "seq": seq,
        "prev": prev,
        "first_ms": NOW,
        "last_ms": NOW + 1,
        "rows": 1,
        "sha256": f"{seq:064x}",
        "size": 9,
        "received_ms": NOW,
    }
    return Segment.model_validate(told | fields)


def chain(length: int) -> list[Segment]:
    return [segment(n, GENESIS if n == 1 else f"{n - 1:064x}") for n in range(1, length + 1)]


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_an_id_is_a_uuid_of_version_7_and_gives_its_time_back(now_ms: int, random: bytes) -> None:
    made = request_id(now_ms, random)
    read = uuid.UUID(made)

    assert (read.version, read.variant, len(made)) == (7, uuid.RFC_4122, 32)
    assert time_of(made) == time_of(str(read)) == now_ms


@given(st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_ids_of_the_same_millisecond_differ_where_their_random_bits_do(one: bytes, other: bytes) -> None:
    low = (1 << 74) - 1
    same = int.from_bytes(one) & low == int.from_bytes(other) & low

    assert (request_id(NOW, one) == request_id(NOW, other)) == same


@pytest.mark.parametrize("text", ["", "r-1", "f" * 32, str(uuid.UUID(int=0)), "eb1c8429c1e04817ad47e50b0db9fe1e"])
def test_an_id_of_a_callers_own_has_no_time(text: str) -> None:
    assert time_of(text) is None


def test_a_request_is_looked_for_at_the_time_in_its_id_or_at_the_one_that_is_said_or_in_the_last_days() -> None:
    told = request_id(NOW, b"0123456789")

    assert rules.window(told, None, NOW + 99 * DAY_MS) == (
        NOW - rules.SKEW_MS,
        NOW + HOUR_MS + rules.SKEW_MS,
    )
    assert rules.window("r-1", NOW, NOW + DAY_MS) == (NOW - HOUR_MS, NOW + HOUR_MS)
    assert rules.window("r-1", None, NOW)[0] == NOW - rules.LOOK_BACK_DAYS * DAY_MS


def test_a_whole_chain_leaves_no_doubt_wherever_it_is_looked_at() -> None:
    links = chain(4)

    assert all(rules.chain_doubts(links[max(0, n - 1) :], links[n]) == [] for n in range(4))


def test_a_chain_whose_beginning_has_gone_by_policy_leaves_no_doubt() -> None:
    links = chain(4)[2:]

    assert rules.chain_doubts(links, links[0]) == []


def test_a_gap_a_fork_and_a_broken_link_are_each_said() -> None:
    links = chain(4)
    other = segment(2, sha256="e" * 64, prev=links[0].sha256)

    assert rules.chain_doubts([links[0], links[3]], links[0]) == [
        "segments 2 to 3 of the chain never came, or were removed"
    ]
    assert "two segments 2" in rules.chain_doubts([links[0], links[1], other], links[1])[0]
    assert rules.chain_doubts([links[0], segment(2, "f" * 64)], links[0]) == ["segment 2 does not go on from segment 1"]
    assert rules.chain_doubts([segment(1, "f" * 64)], segment(1, "f" * 64)) != []


def test_a_segment_is_refused_that_is_another_nodes_or_tenants_or_of_a_time_to_come() -> None:
    assert rules.flaw_of(segment(1), "n1", "acme", NOW) is None
    assert rules.flaw_of(segment(1), "n2", "acme", NOW)
    assert rules.flaw_of(segment(1), "n1", "globex", NOW)
    assert rules.flaw_of(segment(1, version=2), "n1", "acme", NOW)
    assert rules.flaw_of(segment(1, first_ms=NOW + 2), "n1", "acme", NOW)
    assert rules.flaw_of(segment(1, last_ms=NOW + 2 * DAY_MS), "n1", "acme", NOW)
    assert rules.flaw_of(segment(1, first_ms=NOW - 2 * DAY_MS), "n1", "acme", NOW)


@given(st.integers(1, 40), st.data())
def test_a_path_shows_its_own_line_and_no_other(size: int, data: st.DataObject) -> None:
    lines = [f"{n}".encode() for n in range(size)]
    at = data.draw(st.integers(0, size - 1))
    head, path = Frontier().extended(lines).head, path_of(lines, at)

    assert is_in(lines[at], at, head, path)
    assert not is_in(b"another", at, head, path)
    assert not is_in(lines[at], at + 1, head, path)
    assert not is_in(lines[at], at, head, [*path, GENESIS])
    assert not path or not is_in(lines[at], at, head, path[:-1])


def test_an_anchor_holds_for_its_own_segment_alone() -> None:
    links = chain(3)
    lines = [rules.leaf(one) for one in links]
    head = Frontier().extended(lines).head
    anchor = Anchor(line=7, root=head.root, at=1, size=3, path=tuple(path_of(lines, 1)))

    assert rules.anchor_holds(links[1].model_copy(update={"anchor": anchor}))
    assert not rules.anchor_holds(links[2].model_copy(update={"anchor": anchor}))
    assert not rules.anchor_holds(links[1])


def test_many_requests_are_looked_for_newest_first_once_and_not_in_the_future() -> None:
    ids = [request_id(ms, b"0123456789") for ms in (NOW, NOW + 30 * DAY_MS, NOW - 9 * DAY_MS, 0)]
    spans = rules.spans([*ids, "r-1"], NOW)
    assert all(later[0] > earlier[1] for later, earlier in pairwise(spans))
    assert all(until - since < rules.SPAN_MS for since, until in spans)
    assert spans[0][0] <= NOW <= spans[0][1] < NOW + 2 * HOUR_MS
    for one in [ids[0], ids[2], ids[3], "r-1"]:
        since, until = rules.window(one, None, NOW)
        looked = sum(max(0, min(until, b) - max(since, a) + 1) for a, b in spans)
        assert looked >= min(until, NOW) - since
