"""A node whose agent's token is in the wrong hands: what it says about others, and about what it was never told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, feed, key, running, watch
from tests.fleets.waiting import until
from tests.integration.hub.test_feed import rows

from loradeck.hub.jobs.job_records import MOST_UPLOADED, Uploads
from loradeck.rules.errors import Refused
from loradeck.rules.serving.canaries import Stated, agreed
from loradeck.schemas.attestation import CanaryRecord
from loradeck.schemas.link import Report
from loradeck.schemas.moves import MoveResult
from loradeck.schemas.state import PreviewAction
from loradeck.schemas.telemetry import NvmlState

ACME = ("acme", "production")
ROLLBACK = "tenants/acme/routes/production/rollback"
LIES = {"attempted": 10_000, "admitted": 10_000, "finished": 10_000, "checked": 10_000, "bad": 10_000}


@pytest.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    async with running(tmp_path) as deck:
        await deck.tenant()
        yield deck


async def test_bad_figures_of_the_node_that_serves_a_tenant_leave_r_behind_a_question(deck: Deck) -> None:
    agent = await LinkedAgent(deck, "n1").join()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await deck.promote(one)
    await agent.report(agent.served(**LIES))
    await until(lambda: ACME in deck.hub.flags.now, "v1 is flagged")
    await deck.promote(two)
    await until(lambda: deck.hub.facts.flag(ACME, one), "it is recorded that nobody knows whose doing it was")
    preview = (await deck.row()).preview
    assert (preview.action, preview.target and preview.target.id) == (PreviewAction.ROLLBACK, one)
    assert preview.asks == "its answers were bad: bad 100.0% of 10000, cause unknown"

    body = {"expected_generation": 2, "to": one, "idempotency_key": key()}
    await deck.refused(409, "needs_confirmation", "POST", ROLLBACK, body)
    result = MoveResult.model_validate(await deck.ok("POST", ROLLBACK, {**body, "confirmed": True}))
    assert result.events[0].to_release == one


async def test_bad_figures_of_one_of_two_nodes_are_shown_as_its_word_alone_and_r_goes_on_unasked(deck: Deck) -> None:
    agent, other = await LinkedAgent(deck, "n1").join(), await LinkedAgent(deck, "n2").join()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await deck.promote(one)
    await other.report(other.served(attempted=100, admitted=100, finished=100, checked=100, bad=1))
    await agent.report(agent.served(**LIES))
    await until(lambda: deck.hub.rows.tenant(ACME).cause.alone, "one node alone says so")
    row = await deck.row()
    assert (row.cause.alone, "BAD" in row.flags) == ("n1", True)
    await deck.promote(two)
    preview = (await deck.row()).preview
    assert (preview.target and preview.target.id, preview.asks, preview.skipped) == (one, None, ())


@pytest.mark.parametrize("lie", ["elsewhere", "no engine", "to come"])
async def test_figures_of_what_a_node_was_not_told_to_serve_are_not_counted(deck: Deck, lie: str) -> None:
    placed = {"site": "eu"}
    await deck.tenant(placement=placed)
    honest = await LinkedAgent(deck, "n1", site="eu").join()
    liar = await LinkedAgent(deck, "n2", site="us" if lie == "elsewhere" else "eu").join()
    await deck.promote(await deck.release(seed=1))
    await honest.report(honest.served(attempted=60, admitted=60, finished=60, checked=60, bad=1))
    row = honest.served(**LIES).model_copy(update={"replica": "n2"})
    wrong: dict[str, dict[str, object]] = {
        "elsewhere": {},
        "no engine": {"replica": "n2.second"},
        "to come": {"generation": 2},
    }
    await liar.report(row.model_copy(update=wrong[lie]), row.model_copy(update={"tenant": "nobody"}))
    await until(lambda: deck.hub.counts.fault("n2"), "held back")
    await until(lambda: deck.hub.rows.tenant(ACME).minute.attempted == 60, "the honest node's are counted")
    assert "are not counted" in deck.hub.counts.fault("n2")
    assert deck.hub.counts.fault("n1") == ""
    now = await deck.row()
    assert (now.cause.live.bad, now.cause.alone, "BAD" in now.flags) == (1, "", False)
    assert {key for key in deck.hub.counts._counters if any(deck.hub.counts.counters(key))} <= {ACME}


# ---- canaries ----------------------------------------------------------------------------------------------------


def canary(release: str, token: int, **more: object) -> dict[str, object]:
    """An attestation of what a release answers, as an agent sends it."""
    item = {"prompt": "f" * 64, "tokens": [token], "margins": [3.0]}
    build = {"engine": "fake", "device": "cpu", "dtype": "float32"}
    body = {"release": release, "build": build, "items": [item], **more}
    return {"kind": "canary", "subject": release, "tenant": "acme", "body": body, "by": "?"}


async def test_a_node_records_no_canary_of_a_release_that_it_was_not_told_to_hold(deck: Deck) -> None:
    await deck.tenant(placement={"site": "eu"})
    await LinkedAgent(deck, "n1", site="eu").join()
    await LinkedAgent(deck, "n2", site="us").join()
    one = await deck.release(seed=1)
    await deck.promote(one)
    honest, liar, stranger = [await deck.as_role("agent", node) for node in ("n1", "n2", "n3")]
    for client in (liar, stranger):
        await deck.refused(409, "not_held", "POST", "attestations", canary(one, 9), client=client)
    await deck.refused(409, "not_held", "POST", "attestations", canary(await deck.release(seed=2), 9), client=honest)
    kept = await deck.ok("POST", "attestations", canary(one, 1), client=honest)
    assert (kept["by"], [a["seq"] for a in await deck.ok("GET", "attestations?kind=canary")]) == ("n1", [kept["seq"]])


async def test_a_node_withdraws_and_outvotes_nobody_and_a_releaser_does_with_a_reason(deck: Deck) -> None:
    await LinkedAgent(deck, "n1").join()
    await LinkedAgent(deck, "n2").join()
    one = await deck.release(seed=1)
    await deck.promote(one)
    honest, liar = await deck.as_role("agent", "n1"), await deck.as_role("agent", "n2")
    first = await deck.ok("POST", "attestations", canary(one, 1), client=honest)
    for more in ({"withdraws": [first["seq"]]}, {"reason": "because"}, {"withdraws": [first["seq"]], "reason": "so"}):
        await deck.refused(403, "forbidden", "POST", "attestations", canary(one, 9, **more), client=liar)
    for _ in range(3):
        await deck.ok("POST", "attestations", canary(one, 9), client=liar)
    alike = await deck.ok("POST", "attestations", canary(one, 1), client=liar)
    assert alike["by"] == "n2", "each has a voice of its own, also where it says what another has said"

    async def counts() -> dict[str, tuple[int, ...]]:
        listed = await deck.ok("GET", f"attestations?kind=canary&subject={one}")
        stated = [Stated(a["seq"], a["by"], CanaryRecord.model_validate(a["body"])) for a in listed]
        assert len({one.by for one in stated}) == len(stated) - 1, "what was said again is kept once"
        return {prompt: item.tokens for prompt, item in agreed(stated).items.items()}

    assert await counts() == {"f" * 64: (1,)}
    releaser = await deck.as_role("releaser")
    body = canary(one, 1, items=[], withdraws=[first["seq"], alike["seq"]])
    await deck.refused(422, "reason_required", "POST", "attestations", body, client=releaser)
    body = canary(one, 1, items=[], withdraws=[first["seq"], alike["seq"]], reason="another file")
    await deck.ok("POST", "attestations", body, client=releaser)
    listed = await deck.ok("GET", f"attestations?kind=canary&subject={one}")
    stated = [Stated(a["seq"], a["by"], CanaryRecord.model_validate(a["body"])) for a in listed]
    assert agreed(stated).items["f" * 64].tokens == (9,)


# ---- bounds ------------------------------------------------------------------------------------------------------


async def beside(deck: Deck) -> tuple[LinkedAgent, str, str]:
    """A fleet of one honest node that serves v2 over v1, and what R goes to."""
    honest = await LinkedAgent(deck, "n1").join()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await deck.promote(one)
    await deck.promote(two)
    return honest, one, two


BEYOND = {
    "an epoch of 2**70": ("epoch", str(2**70)),
    "a rev of 5,000 digits": ("rev", "1" + 4999 * "0"),
    "a version of the wire that is no number": ("protocol", "1e999"),
    "65 labels": ("labels", json.dumps({f"l{i}": "x" for i in range(65)})),
    "a long label": ("labels", json.dumps({"site": "x" * 254})),
    "endless memory": ("memory_gb", "1e999"),
    "65 engines": ("replicas", json.dumps([{"replica": f"n2.e{i}", "state": "up"} for i in range(65)])),
    "10,001 releases": ("replicas", json.dumps([{"replica": "n2", "state": "up", "loaded": ["a" * 64] * 10_001}])),
    "slots without number": ("replicas", json.dumps([{"replica": "n2", "state": "up", "slots": 2**64}])),
    "2,001 pins": ("pins", json.dumps([{}] * 2001)),
}


@pytest.mark.parametrize("beyond", BEYOND)
async def test_a_hello_beyond_its_bounds_ends_its_link_and_changes_nothing(deck: Deck, beyond: str) -> None:
    _, one, _ = await beside(deck)
    before = deck.fingerprint()
    liar = LinkedAgent(deck, "n2")
    field, text = BEYOND[beyond]
    said = json.dumps({**json.loads(liar.hello().model_dump_json()), field: "@"}).replace('"@"', text)
    liar.hello = lambda: said  # type: ignore[method-assign,assignment,return-value]
    await liar.join()
    await until(lambda: liar.closed, "the link has ended")
    assert liar.closed == (4400, "invalid_request")
    assert "n2" not in deck.hub.fleet.nodes
    assert deck.fingerprint()[:6] == before[:6]
    result = await deck.rollback()
    assert result.events[0].to_release == one


async def test_long_texts_and_endless_numbers_of_a_node_are_cut_or_end_its_link_and_consoles_go_on(deck: Deck) -> None:
    _, one, _ = await beside(deck)
    liar = LinkedAgent(deck, "n2")
    liar.replica = liar.replica.model_copy(
        update={"alarm": "\x1b]52;c;eA==\x07" + "x" * 1_000_000, "boot": "b" * 10_000}
    )
    await liar.join()
    async with feed(deck, "0:0") as socket:
        await liar.report()
        await until(lambda: deck.hub.fleet.nodes["n2"].replicas[0].alarm, "reported")
        ((alarm, boot),) = [(r.alarm, r.boot) for r in deck.hub.fleet.nodes["n2"].replicas]
        assert (len(alarm), len(boot)) == (2000, 2000)
        report = json.loads(Report(replicas=(), nvml=NvmlState.NO_GPU, rev=0, epoch=0).model_dump_json())
        host = {"cpu_percent": float("nan"), "memory_used": 1, "memory_total": 1, "load1": 0.0}
        await liar.send(json.dumps({**report, "host": host}))
        await until(lambda: liar.closed, "the link has ended")
        await deck.rollback(wait="committed")
        seen = await watch(socket, lambda ms: any(r.live and r.live.id == one for r in rows(ms)))
    assert max(len(message.model_dump_json()) for message in seen) < 100_000


async def test_a_node_without_a_job_sends_no_files_and_one_with_a_job_no_more_than_it_could_mean(deck: Deck) -> None:
    await LinkedAgent(deck, "n1").join()
    digest, client = hashlib.sha256(b"x").hexdigest(), await deck.as_role("agent", "n1")
    before = deck.fingerprint()
    answer = await client.put(f"blobs/{digest}", content=b"x")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert (deck.fingerprint(), deck.hub.blobs.has(digest)) == (before, False)
    uploads = Uploads()
    uploads.take("n1", frozenset({"job"}), MOST_UPLOADED)
    with pytest.raises(Refused, match="too_large"):
        uploads.take("n1", frozenset({"job"}), 1)
    uploads.take("n1", frozenset({"another job"}), 1)


# ---- labels ------------------------------------------------------------------------------------------------------


async def test_a_node_that_says_another_sites_label_is_not_given_that_sites_tenants(deck: Deck) -> None:
    await deck.tenant(placement={"site": "eu"})
    await LinkedAgent(deck, "n1", site="eu").join()
    liar = await LinkedAgent(deck, "n2", site="us").join()
    await deck.promote(await deck.release(seed=1))
    await liar.leave()
    liar.labels = {"site": "eu"}
    await liar.join()
    row = next(row for row in await deck.ok("GET", "nodes") if row["node"] == "n2")
    assert (row["labels"], row["says"], liar.entries) == ({"site": "us"}, {"site": "eu"}, {})
    assert (await deck.row()).placed == 1

    body = {"labels": {"site": "eu"}}
    for role in ("viewer", "operator", "agent"):
        client = await deck.as_role(role, "n2" if role == "agent" else None)
        await deck.refused(403, "forbidden", "POST", "nodes/n2/relabel", body, client=client)
    await deck.refused(409, "moved", "POST", "nodes/n2/relabel", {"labels": {"site": "secure"}})
    await deck.ok("POST", "nodes/n2/relabel", body, client=await deck.as_role("releaser"))
    await until(lambda: liar.closed, "it is to say hello anew")
    await liar.leave()
    await liar.join()
    await until(lambda: ACME in liar.entries, "a releaser has agreed")
    await deck.refused(409, "no_change", "POST", "nodes/n2/relabel", body)


async def test_a_token_with_labels_places_its_node_whatever_that_says_from_its_first_hello_on(deck: Deck) -> None:
    await deck.tenant(placement={"site": "eu"})
    made = {"name": "n2", "role": "agent", "node": "n2", "labels": {"site": "us"}}
    token = (await deck.ok("POST", "tokens", made))["token"]
    await deck.refused(
        422, "invalid_request", "POST", "tokens", {"name": "v", "role": "viewer", "labels": {"site": "us"}}
    )
    await LinkedAgent(deck, "n1", site="eu").join()
    liar = await LinkedAgent(deck, "n2", site="eu").join(token)
    await deck.promote(await deck.release(seed=1))
    assert (liar.entries, (await deck.row()).placed) == ({}, 1)
    await deck.ok("POST", "nodes/n2/relabel", {"labels": {"site": "eu"}})
    await until(lambda: liar.closed, "it is to say hello anew")
    await liar.leave()
    await liar.join(token)
    assert liar.entries == {}, "its token binds it still"
