"""Notices reach a real HTTP server: signed, in order, again after a failure, and none is lost with the hub."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import PROVENANCE, Deck, key, running
from tests.fleets.waiting import until
from tests.integration.hub.test_candidates import call
from tests.integration.hub.test_counting import lose
from tests.integration.hub.test_guard import votes

from loradeck.rules.clocks import MINUTE_MS
from loradeck.schemas.attestation import AttestationKind
from loradeck.schemas.counts import Counts
from loradeck.schemas.jobs import Job, JobState
from loradeck.schemas.manifest import DatasetManifest
from loradeck.schemas.notice import Messenger, Notice, NoticeKind, Severity
from loradeck.store.interface import StoreError


@pytest.fixture(autouse=True)
def quick_ticks() -> None:
    """A hub here looks as seldom as in the product: its own looks would come between the steps of a test."""


KEY = bytes(range(32))
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"


@dataclass
class Receiver:
    """Somebody's own program. `answers` are the statuses of its next answers; 204 after that."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    got: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + body
        right = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert request.headers["webhook-signature"] == right
        assert request.content_type == "application/cloudevents+json"
        event = json.loads(body)
        assert event["id"] == request.headers["webhook-id"]
        status = self.answers.pop(0) if self.answers else 204
        if status < 300:
            self.got.append(event)
        else:
            self.refused.append(event["id"])
        return web.Response(status=status)

    async def take_words(self, request: web.Request) -> web.Response:
        self.got.append(await request.json())
        return web.Response()

    def titles(self) -> list[str]:
        return [event["data"]["title"] for event in self.got]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_post("/", found.take)
    app.router.add_post("/words", found.take_words)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    yield found
    await runner.cleanup()


def channels(folder: Path, port: int, more: str = "", *, name: str = "oncall") -> Path:
    """A file of one webhook."""
    path = folder / "channels.toml"
    path.touch(0o600)
    url = f"http://127.0.0.1:{port}/"
    lines = ("[[channel]]", f'name = "{name}"', 'kind = "webhook"', f'url = "{url}"', f'secret = "{SECRET}"', more)
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
async def deck(data: Path, tmp_path: Path, receiver: Receiver) -> AsyncIterator[Deck]:
    async with running(data, notices=channels(tmp_path, receiver.port, 'least = "info"')) as deck:
        yield deck


async def test_a_node_that_is_lost_is_told_and_told_again_when_it_is_back(deck: Deck, receiver: Receiver) -> None:
    agent = await LinkedAgent(deck, "n1").join()
    await lose(deck, agent)
    await until(lambda: receiver.got, "it is told")
    (event,) = receiver.got
    assert (event["specversion"], event["type"], event["subject"]) == ("1.0", "loradeck.notice.node_lost", "n1")
    assert event["data"]["severity"] == "page"
    assert event["data"]["command"] == "loradeck node show n1"
    back = await LinkedAgent(deck, "n1").join()
    await until(lambda: len(receiver.got) == 2, "its end is told")
    assert receiver.titles()[1] == "over: n1: not heard for longer than its TTL"
    await back.leave()


async def test_what_guard_does_is_told_with_its_evidence(deck: Deck, receiver: Receiver) -> None:
    await deck.tenant(guard="rollback")
    one, two, other = [await deck.release(seed=seed) for seed in (1, 2, 3)]
    agent = await LinkedAgent(deck, "n1").join()
    await deck.promote(one)
    await deck.promote(two)
    await call(deck, "start", release=other, unit="user", named=["ann"])
    await votes(agent, **{two: 0, other: 4})
    await until(lambda: any("guard acted" in title for title in receiver.titles()), "guard's move is told")
    event = next(event for event in receiver.got if event["type"] == "loradeck.notice.guard")
    assert event["subject"] == "acme/production"
    assert event["data"]["detail"].startswith("guard: bad 40.0% of 100 votes of 24 callers")
    await agent.leave()


async def test_what_happens_once_is_told_by_its_kind_and_severity(deck: Deck) -> None:
    await deck.tenant()
    agent = await LinkedAgent(deck, "n1").join()
    one = await deck.release(seed=1)
    await deck.promote(one)
    hub, notifier = deck.hub, deck.hub.notifier
    assert notifier is not None
    held = {"held": True, "reason": "wait", "expected_generation": 1, "idempotency_key": key()}
    await deck.ok("POST", "tenants/acme/routes/production/hold", held)
    for seq, passed in ((901, True), (902, False)):
        gate = hub.attestations.draft(AttestationKind.GATE, one, "acme", {"passed": passed}, "hub", "production")
        notifier.attested(gate.model_copy(update={"seq": seq}), ())
    notifier.job_changed(
        Job.model_construct(id="j1", kind="train", tenant="acme", state=JobState.FAILED, message="no disk")
    )
    want = {("hold", "info"), ("gate_passed", "info"), ("gate_failed", "ticket"), ("job_failed", "ticket")}
    found = set[tuple[str, str]]()
    async with asyncio.timeout(60):
        while not want <= found:
            rows = (await notifier.listed(50)).notices
            found = {(row.notice.kind.value, row.notice.severity.value) for row in rows}
            await asyncio.sleep(0.05)
    assert any(row.notice.title == f"acme/production: {one[:12]} passed its gate" for row in rows)
    await agent.leave()


async def test_whoever_has_to_read_a_card_is_asked_once_for_each_card(deck: Deck, receiver: Receiver) -> None:
    await deck.tenant(controls={"stakeholders": ["legal", "ann"]})
    agent = await LinkedAgent(deck, "n1").join()
    one, path = await deck.release(), "tenants/acme/routes/production/promote"

    async def refused() -> None:
        asked = {"release": one, "expected_generation": 0, "idempotency_key": key()}
        await deck.refused(409, "not_acknowledged", "POST", path, asked)

    await refused()
    await until(lambda: receiver.got, "they are asked")
    await refused()
    leaks = deck.hub.attestations.draft(AttestationKind.LEAK, one, "acme", {"leaks": 1}, "job j1")
    await deck.hub.attestations.add(leaks)
    await refused()
    await until(lambda: len(receiver.got) == 2, "they are asked for the card as it is now")
    assert [event["data"]["people"] for event in receiver.got] == [["legal", "ann"]] * 2
    assert receiver.got[0]["data"]["command"] == f"loradeck gate acknowledge acme production {one[:12]}"
    assert receiver.titles()[0].endswith("awaits legal, ann")
    await agent.leave()


async def test_nobody_is_asked_about_a_release_that_was_live_once_and_a_store_that_is_away_costs_no_notice(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, notifier = await LinkedAgent(deck, "n1").join(), deck.hub.notifier
    assert notifier is not None
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    await deck.promote(one)
    await deck.promote(two)
    await deck.tenant(controls={"stakeholders": ["legal"]})
    add, draft = deck.hub.attestations.add, deck.hub.attestations.draft
    read = {"against": None, "differences": "d" * 64, "person": "legal"}
    await add(draft(AttestationKind.ACKNOWLEDGED, one, "acme", read, "legal", route="production"))
    await add(draft(AttestationKind.LEAK, two, "acme", {"leaks": 1}, "job j1"))

    failed = {"release": one, "against": None, "suite": "5" * 64, "passed": False, "checks": []}

    async def asked() -> list[str]:
        await notifier.tick()
        told = (await notifier.listed(100)).notices
        return [row.notice.kind.value for row in told if row.notice.kind.value in ("card_awaits", "gate_failed")]

    assert await asked() == []  # one was live before two, and goes nowhere
    with monkeypatch.context() as away:
        away.setattr(notifier, "unread", lambda *_: _away())
        await add(draft(AttestationKind.GATE, one, "acme", failed, "job j2", route="production"))
        notifier.card_awaits(("acme", "production"), one)
        with pytest.raises(StoreError):
            await notifier.tick()
    assert sorted(await asked()) == ["card_awaits", "gate_failed"]
    await agent.leave()


async def _away() -> None:
    raise StoreError("the store does not answer")


def test_a_channel_of_people_is_told_only_what_asks_one_of_them() -> None:
    of_legal = Messenger(name="legal", kind="apprise", url=SecretStr("json://x"), people=("legal",))
    asks = Notice(
        id="1", kind=NoticeKind.CARD_AWAITS, severity=Severity.TICKET, at_ms=0, title="read", people=("legal",)
    )
    assert of_legal.takes(asks)
    assert not of_legal.takes(asks.model_copy(update={"people": ("ann",)}))
    assert not of_legal.takes(asks.model_copy(update={"people": ()}))
    assert of_legal.model_copy(update={"people": ()}).takes(asks)


async def test_notices_come_in_order_and_again_after_a_failure(deck: Deck, receiver: Receiver) -> None:
    receiver.answers = [503]
    notifier = deck.hub.notifier
    assert notifier is not None
    for number in range(3):
        notifier.test("oncall", f"person {number}")
    await until(lambda: notifier.outbox.rows()[0].error, "the first attempt fails")
    (row,) = notifier.outbox.rows()
    assert (row.waiting, row.dead, row.error) == (3, 0, "it answered 503")
    assert await deck.ok("POST", "notices/retry", {"channel": "oncall"}) == 3
    await until(lambda: len(receiver.got) == 3, "all are given")
    assert [title[-1] for title in receiver.titles()] == ["0", "1", "2"]
    assert receiver.got[0]["id"] == receiver.refused[0], "under the same id, so that it is known"


async def test_what_a_channel_refuses_for_good_is_set_aside_and_the_next_is_given(
    deck: Deck, receiver: Receiver
) -> None:
    receiver.answers = [400]
    notifier = deck.hub.notifier
    assert notifier is not None
    notifier.test("oncall", "ann")
    notifier.test("oncall", "bob")
    await until(lambda: receiver.got, "the second is given")
    await until(lambda: len(deck.hub.store.now(lambda s: s.deliveries())) == 1, "and that is written down")
    assert receiver.titles() == ["this is a test, asked for by bob"]
    listed = await deck.ok("GET", "notices")
    (channel,) = listed["channels"]
    assert (channel["dead"], channel["waiting"]) == (1, 0)
    assert [row["waiting"][0]["error"] for row in listed["notices"] if row["waiting"]] == ["it answered 400"]
    assert "loradeck_notices_given_up 1.0" in deck.hub.metrics.text().decode()


async def test_a_hub_that_ends_loses_no_notice(data: Path, tmp_path: Path, receiver: Receiver) -> None:
    receiver.answers = [503]
    file = channels(tmp_path, receiver.port)
    async with running(data, notices=file) as deck:
        assert deck.hub.notifier is not None
        deck.hub.notifier.test("oncall", "ann")
        await until(lambda: receiver.refused, "the attempt fails")
    async with running(data, notices=file) as deck:
        assert await deck.ok("POST", "notices/retry", {"channel": "oncall"}) == 1
        await until(lambda: receiver.got, "it is given by the next hub")
    assert receiver.got[0]["id"] == receiver.refused[0]


async def test_a_promise_that_burns_neither_ends_nor_pages_again_while_a_hub_has_not_read_its_minutes(
    deck: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deck.tenant(objectives={"errors": 0.05})
    agent = await LinkedAgent(deck, "n1").join()
    await deck.promote(await deck.release(seed=1))
    usual, notifier, acme, told = deck.hub.usual_shares, deck.hub.notifier, ("acme", "production"), list[Notice]()
    assert notifier is not None
    minute = deck.hub.clock.now_ms() // MINUTE_MS
    await deck.hub.store(lambda s: s.add_minutes(minute, {acme: Counts.over(failed=80, finished=20)}))
    monkeypatch.setattr(notifier.outbox, "tell", told.extend)

    async def burns(minute: int) -> list[bool]:
        """Has the minutes read; returns whether each notice of it so far was of its end."""
        await usual._read_minutes([acme], minute)
        await notifier.tick()
        return [one.over for one in told if one.kind is NoticeKind.BURNING]

    notifier._owed[acme] = None
    assert await burns(minute) == [False]
    usual._burning.clear()  # as a hub that has just started
    await notifier.tick()
    assert await burns(minute) == [False]
    assert await burns(minute + 1000) == [False, True]
    await agent.leave()


async def test_a_silence_keeps_back_what_it_names_and_is_over_when_it_is_ended(deck: Deck, receiver: Receiver) -> None:
    made = await deck.ok("POST", "silences", {"node": "n1", "seconds": 600, "reason": "new disks"})
    for name in ("n1", "n2"):
        await lose(deck, await LinkedAgent(deck, name).join())
    await until(lambda: receiver.got, "n2 is told")
    assert [event["subject"] for event in receiver.got] == ["n2"]
    assert (await deck.ok("GET", "notices"))["silences"][0]["by"] == made["by"]
    await deck.ok("DELETE", f"silences/{made['id']}")
    assert (await deck.ok("GET", "notices"))["silences"] == []


async def test_a_channel_of_some_tenants_hears_nothing_of_others(
    data: Path, tmp_path: Path, receiver: Receiver
) -> None:
    file = channels(tmp_path, receiver.port, 'tenants = ["acme"]\nleast = "info"')
    async with running(data, notices=file) as deck:
        for tenant in ("bolt", "acme"):
            await deck.tenant(tenant)
            held = {"held": True, "expected_generation": 0, "idempotency_key": key(), "reason": f"of {tenant}"}
            await deck.ok("POST", f"tenants/{tenant}/routes/production/hold", held)
        await until(lambda: receiver.got, "acme's is told")
        assert [event["data"]["detail"] for event in receiver.got] == ["of acme"]


async def test_a_file_that_others_can_read_is_refused_and_the_channels_stay_as_they_were(
    deck: Deck, tmp_path: Path
) -> None:
    notifier = deck.hub.notifier
    assert notifier is not None
    file = tmp_path / "channels.toml"
    file.write_text("[[channel]]\n")
    os.chmod(file, 0o644)
    await until(lambda: notifier.outbox.channels.fault, "it is read again")
    assert "chmod 600" in notifier.outbox.channels.fault
    assert [row.name for row in notifier.outbox.rows()] == ["oncall"]
    file.write_text("[[channel]]\nname = 1\n")
    os.chmod(file, 0o600)
    await until(lambda: "chmod" not in notifier.outbox.channels.fault, "it is read again")
    assert SECRET not in notifier.outbox.channels.fault


async def test_a_hub_without_channels_says_how_to_have_some(data: Path) -> None:
    async with running(data) as deck:
        answer = await deck.local.get("notices")
        assert answer.json()["code"] == "no_channels"


async def test_a_service_behind_apprise_is_told_in_words(data: Path, tmp_path: Path, receiver: Receiver) -> None:
    file = channels(tmp_path, receiver.port)
    file.write_text(f'[[channel]]\nname = "chat"\nkind = "apprise"\nurl = "json://127.0.0.1:{receiver.port}/words"\n')
    async with running(data, notices=file) as deck:
        assert deck.hub.notifier is not None
        deck.hub.notifier.test("chat", "ann")
        await until(lambda: receiver.got, "it is told")
    assert receiver.got[0]["title"] == "Loradeck: this is a test, asked for by ann"


def _in_days(deck: Deck, days: int) -> None:
    """The hub's clock from now on, which looks again at once."""
    now_ms = deck.hub.clock.now_ms
    deck.hub.clock.now_ms = lambda: now_ms() + days * 86_400_000
    deck.hub.dated._looked = None


async def test_certificates_near_their_end_are_told_until_they_are_renewed(
    data: Path, tmp_path: Path, receiver: Receiver
) -> None:
    file = channels(tmp_path, receiver.port)
    async with running(data, notices=file, nodes=True) as deck:
        agent = await LinkedAgent(deck, "n1").join()
        members = deck.hub.membership
        assert members is not None
        now_ms = deck.hub.clock.now_ms()
        members.until_ms |= {"n1": now_ms + 85 * 86_400_000, "gone": 0}
        deck.hub.dated._looked = None
        await deck.hub.notifier.tick()  # type: ignore[union-attr]
        assert receiver.got == []
        _in_days(deck, 80)
        await until(lambda: len(receiver.got) == 2, "both are told")
        told = {event["data"].get("node"): event["data"]["title"] for event in receiver.got}
        assert told["n1"].startswith("n1: its certificate ends on ")
        assert told[None].endswith("and was not renewed: the hub's own")
        text = (await deck.local.get("http://hub/metrics")).text
        assert text.count('loradeck_near_timestamp_seconds{dataset="",kind="certificate_ends"') == 2
    for _ in range(2):  # so that the one before, which a hub with this machine's clock would show, is of then too
        members.authority.serve([], now_ms + 80 * 86_400_000)
    async with running(data, notices=file, nodes=True) as deck:
        _in_days(deck, 80)
        await until(lambda: len(receiver.got) == 3, "the end of the hub's is told, of the node's nothing is known")
        assert receiver.titles()[-1].startswith("over: the hub: its certificate")
    await agent.leave()


async def test_rows_near_the_end_of_their_retention_expected_days_and_deprecated_releases_are_told(
    deck: Deck, receiver: Receiver
) -> None:
    await deck.tenant()
    agent = await LinkedAgent(deck, "n1").join()
    release = await deck.release(seed=1)
    await deck.promote(release)
    entry = await deck.blob(b'{"prompt": "p", "answer": "a"}\n')
    kept = PROVENANCE.model_copy(update={"retention_days": 30})
    manifest = DatasetManifest(tenant="acme", name="tickets", rows=1, files=(entry,), provenance=kept)
    await deck.ok("POST", "datasets", manifest.model_dump(mode="json"))
    adapter = deck.hub.catalogue.releases[release].adapter
    in_20_days = deck.hub.clock.now_ms() + 20 * 86_400_000
    day = {"at_ms": in_20_days, "what": "the licence of the price lists ends"}
    await deck.ok("PUT", "tenants/acme/data-policy?reason=contract", {"expected_changes": [day]})
    stated = {"kind": "deprecation", "tenant": "acme", "subject": adapter, "by": ""}
    await deck.ok("POST", "attestations", {**stated, "body": {"from_ms": in_20_days, "reason": "v2 is out"}})
    assert deck.hub.dated.near() == []
    _in_days(deck, 17)
    await until(lambda: len(receiver.got) == 3, "all are told")
    told = {event["type"].rpartition(".")[2]: event for event in receiver.got}
    assert told["retention_ends"]["subject"] == "acme/tickets"
    assert told["expected"]["subject"] == "acme"
    assert told["expected"]["data"]["title"].endswith(": the licence of the price lists ends")
    assert told["deprecated"]["subject"] == "acme/production"
    assert told["deprecated"]["data"]["title"].endswith(": v2 is out")
    await deck.tenant("zeta")
    theirs = (await (await deck.client_of("viewer", "zeta")).get(f"http://127.0.0.1:{deck.port}/metrics")).text
    assert "acme" not in theirs
    await agent.leave()
