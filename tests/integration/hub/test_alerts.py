"""The alert rules in docs/alerts.yml fit what a hub says, and lead to the row they are about."""

from __future__ import annotations

import math
import re
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fleets.linked.hub import Deck, key
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.cli import cli
from loradeck.client.times import moment
from loradeck.schemas.replica_state import AckState

RULES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[3] / "docs" / "alerts.yml").read_text(encoding="utf-8")
)["groups"][0]["rules"]
SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


async def scraped(deck: Deck) -> str:
    viewer = await deck.as_role("viewer")
    answer = await viewer.get(f"http://127.0.0.1:{deck.port}/metrics")
    assert answer.status_code == 200
    return answer.text


async def said(deck: Deck) -> dict[tuple[str, str], float]:
    text = await scraped(deck)
    return {(name, labels): float(value) for name, labels, value in SERIES.findall(text)}


def firing(rule: dict[str, Any], series: dict[tuple[str, str], float]) -> list[tuple[dict[str, str], float]]:
    """What a rule's expression selects; ours are `metric{label="value"} OP` a number, or another metric so labelled.

    The metric may stand in `increase(…)`: then it has grown from nothing.
    """
    match = re.fullmatch(r"(?:increase\()?(\w+)(?:\{(.*)\})?(?:\[\w+\]\))? (>|==) ([\w.]+)", rule["expr"])
    assert match, rule["expr"]
    name, wanted, sign, limit = match.groups()
    found = []
    for (metric, labels), value in series.items():
        number = series.get((limit, labels), math.nan) if limit.startswith("loradeck") else float(limit)
        met = value > number if sign == ">" else value == number
        if metric == name and (wanted or "") in labels and met:
            found.append((dict(re.findall(r'(\w+)="([^"]*)"', labels)), value))
    return found


async def test_the_first_release_of_a_tenant_opens_no_ticket(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await join("n1")
    await deck.promote(await deck.release(seed=1))
    assert "NOPRIOR" in (await deck.row()).flags
    series = await said(deck)
    assert {rule["alert"]: firing(rule, series) for rule in RULES}["LoradeckNoWayBack"] == []
    await deck.promote(await deck.release(seed=2))
    await deck.rollback()
    assert "NOPRIOR" in (await deck.row()).flags
    series = await said(deck)
    assert {rule["alert"]: firing(rule, series) for rule in RULES}["LoradeckNoWayBack"] == []


async def test_checks_that_only_alert_open_a_ticket_when_they_notice_more_than_is_promised_and_guard_does_nothing(
    deck: Deck, join: Join
) -> None:
    await deck.tenant(guard="rollback", checks={"content": {"alert_only": ["long", "language"]}})
    agent = await join("n1")
    release = await deck.release(seed=1)
    await deck.promote(release)
    said_of = {
        "votes": tuple((second, 20, 0, 20, 0) for second in range(100, 110)),
        "noticed": {"long": 60},
        "noticed_votes": {"long": tuple((second, 6) for second in range(100, 110))},
        "callers": 24,
        **dict.fromkeys(("attempted", "admitted", "finished", "checked"), 200),
    }
    await agent.report(agent.served().model_copy(update={"release": release, **said_of}))
    await until(lambda: deck.hub.health.drift(deck.hub.log.state.pointers["acme", "production"]), "it is seen")
    row = await deck.row()
    assert ("DRIFT" in row.flags, row.drift, row.guard) == (True, ("long 30.0% of 200, by n1 alone",), "")
    series = await said(deck)
    ((labels, _),) = {rule["alert"]: firing(rule, series) for rule in RULES}["LoradeckDrift"]
    assert (labels["tenant"], labels["release"]) == ("acme", "v1")


async def test_votes_that_are_reported_too_late_are_shown_at_their_node_and_open_a_ticket(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    agent, other = await join("n1"), await join("n2")
    await deck.promote(await deck.release(seed=1))
    late, now = (100, 7, 0, 7, 7), (170, 20, 0, 20, 0)
    for node, seconds in ((agent, (late, now)), (other, (now,))):
        counts = dict.fromkeys(("attempted", "admitted", "finished", "checked"), 27)
        await node.report(node.served().model_copy(update={"votes": seconds, "callers": 24, **counts}))
    await until(lambda: deck.hub.counts.fault("n1") != "", "it is a fault of the node")
    assert "7 requests of acme/production were reported too late" in deck.hub.counts.fault("n1")
    assert deck.hub.counts.fault("n2") == ""
    fires = {rule["alert"]: firing(rule, await said(deck)) for rule in RULES}["LoradeckVotesDropped"]
    assert fires == [({"node": "n1"}, 7.0)]


async def test_a_pointer_whose_ways_back_are_all_ruled_out_is_alerted_on_with_the_command_that_opens_it(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await join("n1")
    first = await deck.release(seed=1)
    await deck.promote(first)
    await deck.promote(await deck.release(seed=2))
    body = {"kind": "revocation", "subject": first, "tenant": "acme", "body": {"reason": "leaked data"}, "by": "me"}
    await deck.ok("POST", "attestations", body)
    series = await said(deck)
    fires = {rule["alert"]: firing(rule, series) for rule in RULES}
    ((labels, moved),) = fires["LoradeckNoWayBack"]
    assert (labels["tenant"], labels["route"], labels["release"]) == ("acme", "production", "v2")
    assert fires["LoradeckRefusingMoves"] == fires["LoradeckBadRelease"] == []
    rule = next(rule for rule in RULES if rule["alert"] == "LoradeckNoWayBack")
    written = datetime.fromtimestamp(moved, UTC).strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC")
    command = rule["annotations"]["command"].replace("{{ $value | humanizeTimestamp }}", written)
    for name, value in labels.items():
        command = command.replace(f"{{{{ $labels.{name} }}}}", value)
    program, *words = shlex.split(command)
    assert (program, words[:3]) == ("loradeck", ["open", "acme", "production"])
    at = moment(words[words.index("--at") + 1], now_ms=int(time.time() * 1000), zoneless=False)
    row = await deck.row()
    assert at == row.pointer.moved_ms


async def test_a_failed_promote_is_alerted_on_until_the_next_one(deck: Deck, join: Join) -> None:
    await deck.tenant()
    agent = await join("n1")
    one = await deck.release(seed=1)

    async def fires() -> list[tuple[dict[str, str], float]]:
        series = await said(deck)
        return {rule["alert"]: firing(rule, series) for rule in RULES}["LoradeckPromoteFailed"]

    agent.prepares = "fail"
    body = {"release": one, "expected_generation": 0, "idempotency_key": key()}
    answer = await deck.local.post("tenants/acme/routes/production/promote", json=body)
    assert answer.json()["code"] == "prepare_failed"
    ((labels, _),) = await fires()
    assert (labels["tenant"], labels["route"]) == ("acme", "production")
    agent.prepares = "finish"
    await deck.promote(one)
    assert await fires() == []


async def test_replicas_that_are_only_listed_are_counted_and_open_a_ticket(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.tenant("bolt")
    await join("n1")
    (await join("n2")).proof = AckState.LISTED
    await deck.promote(await deck.release())
    series = await said(deck)
    listed = {labels: value for (name, labels), value in series.items() if name == "loradeck_pointer_listed_replicas"}
    assert listed == {'release="v1",route="production",tenant="acme"': 1}
    ((labels, value),) = {rule["alert"]: firing(rule, series) for rule in RULES}["LoradeckOnlyListed"]
    assert (labels["tenant"], labels["release"], value) == ("acme", "v1", 1)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
async def test_every_rule_names_a_metric_that_a_hub_has_and_a_command_that_exists(
    deck: Deck, rule: dict[str, Any]
) -> None:
    name = re.search(r"loradeck_\w+", rule["expr"])
    assert name is not None
    text = await scraped(deck)
    assert f"# TYPE {name[0]} gauge" in text
    program, verb, *_ = shlex.split(rule["annotations"]["command"])
    assert program == "loradeck"
    assert verb == "--once" or verb in cli.commands or verb in cli.list_commands(None)  # type: ignore[arg-type]
    assert rule["labels"]["severity"] in ("page", "ticket")


async def test_a_replica_that_does_not_answer_or_whose_node_is_lost_is_alerted_on_until_it_is_heard(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    agent = await join("n1")
    await deck.promote(await deck.release(seed=1))

    async def fires() -> list[tuple[dict[str, str], float]]:
        series = await said(deck)
        return {rule["alert"]: firing(rule, series) for rule in RULES}["LoradeckUnheard"]

    assert await fires() == []
    agent.replica = agent.replica.model_copy(update={"answers": False, "alarm": "the router does not answer"})
    await agent.report()
    node = deck.hub.fleet.nodes["n1"]
    await until(lambda: node.silent, "the hub has heard it")
    ((labels, count),) = await fires()
    assert (labels["tenant"], count) == ("acme", 1.0)
    row = await deck.row()
    assert (row.flipped, row.proven, "UNPRVN" in row.flags) == (0, 0, True)
    agent.replica = agent.replica.model_copy(update={"answers": True, "alarm": ""})
    await agent.report()
    await until(lambda: not node.silent, "the hub has heard it")
    assert await fires() == []
    await agent.leave()
    deck.hub.fleet.lose(node)
    assert len(await fires()) == 1
