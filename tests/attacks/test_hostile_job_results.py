"""A node that holds a job's lease, and what it says of the job: it ends the job, and neither the link nor the fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.linked.agent import LinkedAgent
from tests.fleets.linked.hub import Deck, running
from tests.fleets.waiting import until
from tests.integration.hub.test_jobs import FINISHED, canary, job, report, train

from loradeck.rules.serving.canaries import Stated, agreed
from loradeck.schemas.attestation import CanaryRecord
from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.jobs import EvaluateSpec, JobRequest


@pytest.fixture
async def deck(tmp_path: Path) -> AsyncIterator[Deck]:
    async with running(tmp_path) as deck:
        await deck.tenant()
        yield deck


async def evaluated(deck: Deck, agent: LinkedAgent, release: str, suite: str, result: dict[str, Any]) -> dict[str, Any]:
    """An evaluate job whose node sends this result."""
    request = JobRequest(spec=EvaluateSpec(tenant="acme", release=release, suite=suite))
    submitted = await deck.ok("POST", "jobs", request.model_dump(mode="json"))
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    await agent.say(assigned, FINISHED, result)
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    return await job(deck, submitted["id"])


MALFORMED: dict[str, Any] = {
    "no object": 7,
    "a list": [],
    "without items": {"release": "a" * 64},
    "items that are none": {"items": 1},
    "items of nothing": {"items": [{}]},
    "another release": {"release": "a" * 64, "build": {"engine": "e", "device": "d", "dtype": "f"}, "items": []},
}


@pytest.mark.parametrize("malformed", MALFORMED)
async def test_a_malformed_canary_fails_its_job_and_records_nothing(deck: Deck, malformed: str) -> None:
    agent = await LinkedAgent(deck, "n1").join()
    release, suite = await deck.release(seed=1), await deck.suite()
    result = {"report": report(release, suite, 20), "canary": MALFORMED[malformed]}
    over = await evaluated(deck, agent, release, suite, result)
    assert (over["state"], over["code"] in ("bad_report", "invalid_request")) == ("failed", True)
    assert over["message"]
    assert agent.closed is None
    assert await deck.ok("GET", f"attestations?subject={release}") == []
    good = await evaluated(deck, agent, release, suite, {"report": report(release, suite, 20)})
    assert good["state"] == "done"


async def test_a_malformed_report_records_no_canary_either(deck: Deck) -> None:
    agent = await LinkedAgent(deck, "n1").join()
    release, suite = await deck.release(seed=1), await deck.suite()
    for said in (7, [], {"suite": suite}, {**report(release, suite, 20), "n": "many"}):
        over = await evaluated(deck, agent, release, suite, {"report": said, "canary": canary(release)})
        assert over["state"] == "failed"
    assert await deck.ok("GET", f"attestations?subject={release}") == []


async def test_a_job_speaks_with_no_persons_voice_about_canaries(deck: Deck) -> None:
    agent, honest = await LinkedAgent(deck, "n1").join(), await deck.as_role("agent", "n1")
    release, suite = await deck.release(seed=1), await deck.suite()
    await deck.promote(release)
    said = {"kind": "canary", "subject": release, "tenant": "acme", "body": canary(release), "by": "?"}
    known = await deck.ok("POST", "attestations", said, client=honest)
    for more in ({"reason": "because"}, {"withdraws": [known["seq"]], "reason": "so"}):
        lie = canary(release) | more
        lie["items"][0]["tokens"] = [9, 9]
        over = await evaluated(deck, agent, release, suite, {"report": report(release, suite, 20), "canary": lie})
        assert (over["state"], over["code"]) == ("failed", "bad_report")
    listed = await deck.ok("GET", f"attestations?kind=canary&subject={release}")
    stated = [Stated(a["seq"], a["by"], CanaryRecord.model_validate(a["body"])) for a in listed]
    assert [item.tokens for item in agreed(stated).items.values()] == [(1, 2)]


async def test_a_checkpoint_that_cannot_be_read_is_not_kept_and_its_link_and_job_go_on(deck: Deck) -> None:
    await deck.base()
    agent = await LinkedAgent(deck, "n1").join()
    submitted = await train(deck)
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    good = [{"path": "weights.safetensors", "size": 3, "sha256": "a" * 64}]
    for seq, (step, files) in enumerate([(4, good), (0, good), (5, []), (5, "x"), (5, [{"path": "../x"}]), (5, 7)], 1):
        await agent.say(assigned, ExecutorEventType.CHECKPOINT, seq=seq, step=step, data={"files": files})
    await agent.say(assigned, ExecutorEventType.PROGRESS, seq=9, step=8)
    await until(lambda: deck.hub.jobs.get(submitted["id"]).step == 8, "the job goes on")  # type: ignore[union-attr]
    known = deck.hub.jobs.get(submitted["id"])
    assert known is not None
    assert known.checkpoint is not None
    assert (known.checkpoint.step, "step 5 cannot be read" in known.message) == (4, True)
    assert agent.closed is None


async def test_a_result_that_the_hub_cannot_take_ends_its_job(deck: Deck, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = await LinkedAgent(deck, "n1").join()
    release, suite = await deck.release(seed=1), await deck.suite()

    async def broken(*_: Any) -> None:
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr(deck.hub.gates, "attest", broken)
    over = await evaluated(deck, agent, release, suite, {"report": report(release, suite, 20)})
    assert (over["state"], over["code"]) == ("failed", "internal_error")
