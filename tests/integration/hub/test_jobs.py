"""Jobs and gates: who gets them, what fences them, and what an evaluation leads to."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from tests.fleets.linked.agent import BUILD, LinkedAgent
from tests.fleets.linked.hub import BASE, OTHER_BASE, Deck, key, running
from tests.fleets.waiting import until
from tests.integration.hub.conftest import Join

from loradeck.hub.fleet.node import Node
from loradeck.hub.jobs.job_records import CHECKPOINT_KEPT_MS, PIECE
from loradeck.rules import scheduling
from loradeck.rules.quality.agreement import counted
from loradeck.rules.quality.gate_judge import correlation
from loradeck.rules.quality.gate_judge import held as held_of
from loradeck.rules.scheduling import ATTEMPTS
from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.jobs import RECIPES, EvaluateSpec, Job, JobAssignment, JobRequest, JobState, Scheduled, TrainSpec
from loradeck.schemas.judge_report import JudgedItem, JudgeReport
from loradeck.schemas.link import JobCancel, JobHold, JobLog, JobNoted, JobRoom, Report
from loradeck.schemas.manifest import BaseManifest, DecisionRecord, FileEntry, Form, Release
from loradeck.schemas.moves import PromoteRequest
from loradeck.schemas.replica_state import LINK_TTL_S, LOST_S, EngineState
from loradeck.schemas.telemetry import Gpu, Host, NvmlState
from loradeck.schemas.training import Weights
from loradeck.store.sql_log import Store

ROUTE = "tenants/acme/routes/production"
FINISHED = ExecutorEventType.FINISHED


async def train(
    deck: Deck, weights: str = "lora", processes: int = 1, packing: bool = False, **more: Any
) -> dict[str, Any]:
    spec = TrainSpec(
        weights=Weights(weights),
        tenant="acme",
        name="support",
        base=BASE.digest,
        datasets=(await deck.dataset(),),
        decision=DecisionRecord(why_weights="a test"),
        processes=processes,
        packing=packing,
    )
    job: dict[str, Any] = await deck.ok("POST", "jobs", JobRequest(spec=spec, **more).model_dump(mode="json"))
    return job


async def job(deck: Deck, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = await deck.ok("GET", f"jobs/{job_id}")
    return found


def report(release: str, suite: str, exact: int, n: int = 20) -> dict[str, Any]:
    items = [{"id": f"i{k}", "answer": "x", "exact": k < exact, "valid": True} for k in range(n)]
    return {"release": release, "suite": suite, "n": n, "exact": exact, "valid": n, "items": items, "seconds": 1.0}


def canary(release: str) -> dict[str, Any]:
    item = {"prompt": hashlib.sha256(b"p").hexdigest(), "tokens": [1, 2], "margins": [3.0, 2.0]}
    return {"release": release, "build": BUILD.model_dump(), "items": [item]}


async def evaluate(deck: Deck, agent: LinkedAgent, release: str, suite: str, exact: int) -> dict[str, Any]:
    """An evaluate job, done by an agent that saw so many exact answers."""
    request = JobRequest(spec=EvaluateSpec(tenant="acme", release=release, suite=suite))
    submitted = await deck.ok("POST", "jobs", request.model_dump(mode="json"))
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    assert assigned.release.id == release
    await agent.say(assigned, FINISHED, {"report": report(release, suite, exact), "canary": canary(release)})
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    return await job(deck, submitted["id"])


async def test_a_train_job_goes_to_a_node_with_its_base_and_labels_and_is_followed_to_its_end(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await deck.base()
    submitted = await train(deck, labels={"gpu": "yes"})
    assert submitted["state"] == "queued"
    await join("n1")
    await join("n2", base="d" * 64, gpu="yes")
    right = await join("n3", gpu="yes")
    assigned = await until(lambda: right.jobs.get(submitted["id"]), "assigned to the node that fits")
    await right.say(assigned, ExecutorEventType.STARTED)
    await right.say(assigned, ExecutorEventType.PROGRESS, step=7, of=40, metrics={"loss": 1.5})
    await until(lambda: deck.hub.jobs.get(submitted["id"]).step == 7, "progress")  # type: ignore[union-attr]
    seen = await job(deck, submitted["id"])
    assert (seen["state"], seen["node"], seen["step"], seen["of"]) == ("running", "n3", 7, 40)
    assert seen["metrics"] == {"loss": 1.5}
    manifest = (await deck.adapter_manifest()).model_dump(mode="json")
    version = await deck.ok("POST", "adapters/acme/support/versions", manifest, await deck.as_role("agent", "n3"))
    result = {"adapter": version["digest"], "version": 1, "release": version["release"]}
    looked: dict[str, Any] = {"chosen": {"suite_exact": 0.5}, "chosen_step": 20, "compared": 3}
    looks = [{"suite_exact": 0.1, "suite_exact_n": 40.0}, {"suite_exact": 0.5}]
    await right.say(assigned, FINISHED, result | looked | {"looks": looks})
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    done = await job(deck, submitted["id"])
    assert (done["state"], done["result"]) == ("done", result | {"looked": looked | {"base": looks[0]}})
    events = await deck.ok("GET", f"jobs/{submitted['id']}/events")
    assert [e["type"] for e in events] == ["started", "progress", "finished"]


async def test_a_killed_train_job_goes_on_from_the_checkpoint_that_the_hub_holds(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    suite = await deck.suite()
    submitted = await train(deck)
    first = await join("n1")
    assigned = await until(lambda: first.jobs.get(submitted["id"]), "assigned")
    assert assigned.held_out == (suite,)
    assert assigned.checkpoint is None
    files = [{"path": "weights.safetensors", "size": 3, "sha256": "a" * 64}]
    await first.say(assigned, ExecutorEventType.PROGRESS, step=4, of=9, metrics={"loss": 1.5})
    await first.say(assigned, ExecutorEventType.CHECKPOINT, step=4, of=9, data={"folder": "x", "files": files})
    await first.say(assigned, ExecutorEventType.FAILED, code="killed", message="the executor ended by signal 9")
    again = await until(lambda: (a := first.jobs.get(submitted["id"])) and a.attempt == 2 and a, "assigned again")
    assert again.lease > assigned.lease
    assert again.checkpoint is not None
    assert (again.checkpoint.step, again.checkpoint.files[0].sha256) == (4, "a" * 64)


@pytest.mark.parametrize(("result", "state"), [({"base": "c" * 64}, "done"), ({"adapter": "c" * 64}, "failed")])
async def test_a_run_that_trained_every_weight_is_done_when_it_names_the_base_it_made(
    deck: Deck, join: Join, result: dict[str, Any], state: str
) -> None:
    await deck.tenant()
    await deck.base()
    submitted = await train(deck, weights="full")
    agent = await join("n1")
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    await agent.say(assigned, FINISHED, result)
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    assert (await job(deck, submitted["id"]))["state"] == state


async def test_a_run_that_trained_every_weight_registers_them_as_its_tenants_own_with_a_release(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await deck.tenant("bolt")
    await deck.base()
    agent = await join("n1")

    async def over(manifest: BaseManifest) -> dict[str, Any]:
        submitted = await train(deck, weights="full")
        assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
        result = {"base": OTHER_BASE.digest, "folder": "/out", "manifest": manifest.model_dump(mode="json")}
        await agent.say(assigned, FINISHED, result)
        await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
        return await job(deck, submitted["id"])

    before = await deck.ok("GET", "bases")
    assert (await over(BASE))["code"] == "bad_report"
    assert await deck.ok("GET", "bases") == before
    done = await over(OTHER_BASE)
    release = done["result"]["release"]
    assert (done["state"], done["result"]["label"]) == ("done", "support-full")
    assert release == deck.hub.catalogue.base_alone_id("acme", OTHER_BASE.digest)
    (made,) = [base for base in await deck.ok("GET", "bases") if base["digest"] == OTHER_BASE.digest]
    assert made["tenants"] == ["acme"]
    assert [one["job"] for one in made["made"]] == [done["id"]]
    await join("n2", base=OTHER_BASE.digest)
    await deck.promote(release, wait="committed")
    theirs = PromoteRequest(
        release=deck.hub.catalogue.base_alone_id("bolt", OTHER_BASE.digest),
        expected_generation=0,
        idempotency_key=key(),
    ).model_dump(mode="json")
    await deck.refused(409, "wrong_tenant", "POST", "tenants/bolt/routes/production/promote", theirs)


async def test_the_hub_keeps_a_jobs_newest_checkpoint_and_removes_no_file_that_anything_else_names(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await deck.base()
    suite = deck.hub.catalogue.suites[await deck.suite()].files[0]
    submitted = await train(deck)
    agent = await join("n1")
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    both, first, second = [await deck.blob(data) for data in (b"the best so far", b"step 2", b"step 4")]

    async def checkpoint(step: int, *files: FileEntry) -> None:
        named = [{**file.model_dump(), "path": f"{n}.safetensors"} for n, file in enumerate(files)]
        data = {"folder": "x", "files": named}
        await agent.say(assigned, ExecutorEventType.CHECKPOINT, seq=step, step=step, of=9, data=data)
        await until(lambda: deck.hub.jobs.get(submitted["id"]).step == step, "taken in")  # type: ignore[union-attr]

    def held() -> list[bool]:
        return [deck.hub.blobs.has(file.sha256) for file in (both, first, second, suite)]

    await checkpoint(2, both, first, suite)
    assert held() == [True, True, True, True]
    await checkpoint(4, both, second)
    await until(lambda: held() == [True, False, True, True], "only what nothing names any more is removed")
    await agent.say(assigned, ExecutorEventType.FAILED, seq=5, code="loss_spike")
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    assert held() == [True, False, True, True], "it may be resumed"

    jobs = deck.hub.jobs
    over = await jobs.known(submitted["id"])
    jobs.forget_checkpoints()
    assert jobs.get(over.id) == over, "for two weeks"
    jobs.put(over.model_copy(update={"ended_ms": deck.hub.clock.now_ms() - CHECKPOINT_KEPT_MS - 1}))
    jobs.forget_checkpoints()
    await until(lambda: held() == [False, False, False, True], "removed")
    for _ in range(3000):
        stored = await deck.hub.store(lambda s: s.job(over.id))
        if stored is not None and stored.checkpoint is None:
            break
        await asyncio.sleep(0.02)
    assert stored is not None
    assert (stored.checkpoint, stored.state) == (None, "failed")


async def test_a_failed_job_keeps_its_recipe_its_reason_its_last_metrics_and_the_end_of_its_log(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await deck.base()
    submitted = await train(deck)
    agent = await join("n1")
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    await agent.say(assigned, ExecutorEventType.PROGRESS, step=4, of=9, metrics={"loss": 1.5, "grad_norm": 2.0})
    await agent.say(assigned, ExecutorEventType.PROGRESS, step=4, of=9, metrics={"val_loss": 1.7})
    failed = {"code": "loss_spike", "message": "step 5: loss 9", "data": {"log": "x" * 9000 + "the end"}}
    await agent.say(assigned, ExecutorEventType.FAILED, **failed)
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    stored = await deck.hub.store(lambda s: s.job(submitted["id"]))
    for _ in range(3000):
        if stored is not None and stored.state == "failed":
            break
        await asyncio.sleep(0.02)
        stored = await deck.hub.store(lambda s: s.job(submitted["id"]))
    assert stored is not None
    assert (stored.state, stored.code, stored.message) == ("failed", "loss_spike", "step 5: loss 9")
    assert stored.metrics == {"loss": 1.5, "grad_norm": 2.0, "val_loss": 1.7}
    assert stored.log.endswith("the end")
    assert len(stored.log) <= 2000
    assert stored.spec == TrainSpec.model_validate(submitted["spec"])


async def test_an_event_is_noted_and_one_that_is_sent_again_is_kept_once_in_its_place(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    agent = await join("n1")
    submitted = await train(deck)
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    await agent.say(assigned, ExecutorEventType.STARTED, seq=0)
    await agent.say(assigned, ExecutorEventType.PROGRESS, seq=2, step=2, of=9)
    for seq in (0, 1, 2):
        kind = ExecutorEventType.PROGRESS if seq else ExecutorEventType.STARTED
        await agent.say(assigned, kind, seq=seq, **({"step": seq, "of": 9} if seq else {}))
    await until(lambda: len([m for m in agent.received if isinstance(m, JobNoted)]) == 5, "each is noted")
    noted = [(m.job, m.lease, m.seq) for m in agent.received if isinstance(m, JobNoted)]
    assert noted == [(submitted["id"], 1, seq) for seq in (0, 2, 0, 1, 2)]
    events = await deck.ok("GET", f"jobs/{submitted['id']}/events")
    assert [e["seq"] for e in events] == [0, 1, 2]
    assert (await job(deck, submitted["id"]))["step"] == 2, "what comes late takes nothing back"
    rev = deck.hub.log.state.rev
    stale = assigned.model_copy(update={"lease": 0})
    await agent.say(stale, ExecutorEventType.PROGRESS, seq=3, step=3)
    await until(lambda: submitted["id"] not in agent.jobs, "an older lease is cancelled, not noted")
    assert len([m for m in agent.received if isinstance(m, JobNoted)]) == 5
    assert deck.hub.log.state.rev == rev


async def test_a_train_job_that_says_done_without_its_adapter_has_failed(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    agent = await join("n1")
    submitted = await train(deck)
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    await agent.say(assigned, FINISHED, {"adapter": "a" * 64, "release": "b" * 64})
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    assert (await job(deck, submitted["id"]))["code"] == "bad_report"


async def test_a_node_does_one_job_at_a_time_and_the_next_when_it_is_over(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    agent = await join("n1")
    first, second = await train(deck), await train(deck)
    assigned = await until(lambda: agent.jobs.get(first["id"]), "the first is assigned")
    assert (await job(deck, second["id"]))["state"] == "queued"
    await agent.say(assigned, ExecutorEventType.FAILED, code="diverged", message="loss is NaN")
    await until(lambda: agent.jobs.get(second["id"]), "the second is assigned")
    failed = await job(deck, first["id"])
    assert (failed["state"], failed["code"], failed["message"]) == ("failed", "diverged", "loss is NaN")


async def test_jobs_run_beside_each_other_as_far_as_their_node_has_room_and_a_cancel_names_one(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await deck.base()
    agent = await join("n1")
    agent.room = JobRoom(at_once=2)
    await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].room, "its room is known")
    first, second, third = [(await train(deck))["id"] for _ in range(3)]
    await until(lambda: agent.jobs.keys() == {first, second}, "both are given")
    deck.hub.queue.assign()
    assert (await job(deck, third))["state"] == "queued"
    agent.room = JobRoom(at_once=2, held=(JobHold(job=first), JobHold(job=second)))
    await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].room == agent.room, "what they hold is known")
    (shown,) = await deck.ok("GET", "nodes")
    assert [hold["job"] for hold in shown["room"]["held"]] == [first, second]
    assigned = agent.jobs[second]
    await deck.ok("POST", f"jobs/{second}/cancel")
    await until(lambda: agent.jobs.keys() == {first}, "the node was told which")
    await agent.say(assigned, ExecutorEventType.PREEMPTED, code="cancelled")
    await until(lambda: third in agent.jobs, "the third has its place")
    assert (await job(deck, first))["state"] == "assigned"


async def test_jobs_of_one_gpu_do_not_pass_one_that_has_waited_long_for_two(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "KEPT_AFTER_MS", 0)
    await deck.tenant()
    await deck.base()
    agent = await join("n1")
    agent.gpus = tuple(Gpu(index=n, uuid=f"g{n}", name="g", memory_used=0, memory_total=80) for n in range(2))
    agent.room = JobRoom(gpus=("g0", "g1"))
    await agent.report()
    await until(lambda: deck.hub.fleet.nodes["n1"].room, "its room is known")
    deck.hub.fleet.nodes["n1"].recipes = 0
    await train(deck, processes=2, priority=1, packing=True)
    first = (await train(deck))["id"]
    assigned = await until(lambda: agent.jobs.get(first), "the first is given, whoever waits for a newer agent")
    pair, small = (await train(deck, processes=2))["id"], (await train(deck))["id"]
    assert (await job(deck, small))["message"] == f"waits: the GPUs of n1 are kept for {pair}, which waits longer"
    await agent.say(assigned, ExecutorEventType.FAILED, code="diverged")
    await until(lambda: pair in agent.jobs, "both GPUs are its")
    assert (await job(deck, small))["state"] == "queued"


async def test_a_job_of_higher_priority_goes_first_and_one_that_fits_nowhere_holds_up_nobody(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await deck.base()
    huge = await train(deck, priority=100, memory_gb=500)
    old, new = await train(deck), await train(deck, priority=7)
    agent = await join("n1")
    assigned = await until(lambda: agent.jobs.get(new["id"]), "the one of higher priority is assigned")
    assert set(agent.jobs) == {new["id"]}
    await agent.say(assigned, ExecutorEventType.FAILED, code="diverged")
    await until(lambda: agent.jobs.get(old["id"]), "then the older one")
    waiting = await job(deck, huge["id"])
    assert (waiting["state"], waiting["priority"], waiting["memory_gb"]) == ("queued", 100, 500)
    node = deck.hub.fleet.nodes["n1"]
    node.host = Host(cpu_percent=1.0, memory_used=0, memory_total=512 * 10**9, load1=0.0)
    await agent.say(agent.jobs[old["id"]], ExecutorEventType.FAILED, code="diverged")
    await until(lambda: agent.jobs.get(huge["id"]), "and where there is room, the huge one")


@pytest.mark.parametrize(("code", "attempts"), [("killed", 3), ("executor_failed", 3), ("out_of_memory", 1)])
async def test_a_crash_is_tried_again_so_many_times_and_what_would_end_the_same_way_is_not(
    deck: Deck, join: Join, code: str, attempts: int
) -> None:
    await deck.tenant()
    await deck.base()
    agent = await join("n1")
    submitted = await train(deck)
    leases = []
    for attempt in range(1, attempts + 1):
        assigned = await until(
            lambda n=attempt: (j := agent.jobs.get(submitted["id"])) and j.attempt == n and j, f"attempt {attempt}"
        )
        leases.append(assigned.lease)
        await agent.say(assigned, ExecutorEventType.FAILED, code=code, message="it broke")
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    failed = await job(deck, submitted["id"])
    assert (failed["state"], failed["code"], failed["attempt"]) == ("failed", code, attempts)
    assert leases == sorted(set(leases)), "each attempt under a lease of its own"


async def test_what_a_drained_node_gives_back_goes_to_another_and_does_not_count_as_an_attempt(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await deck.base()
    agents = {name: await join(name) for name in ("n1", "n2")}
    submitted = await train(deck)
    for attempt in range(1, 5):
        owner = await until(
            lambda n=attempt: next(
                (name for name, a in agents.items() if (j := a.jobs.get(submitted["id"])) and j.attempt == n), None
            ),
            f"attempt {attempt}",
        )
        assigned = agents[owner].jobs[submitted["id"]]
        await deck.ok("POST", f"nodes/{owner}/drain")
        await agents[owner].say(assigned, ExecutorEventType.PREEMPTED, code="preempted")
        other = "n2" if owner == "n1" else "n1"
        await until(lambda o=other: agents[o].jobs.get(submitted["id"]), "the other node has it")
        await deck.ok("POST", f"nodes/{owner}/uncordon")
    assert (await job(deck, submitted["id"]))["state"] == "assigned"


async def test_a_cordoned_node_and_an_engine_that_is_down_get_no_job(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    cordoned, down = await join("n1"), await join("n2")
    await deck.ok("POST", "nodes/n1/cordon")
    down.replica = down.replica.model_copy(update={"state": EngineState.DOWN})
    await down.report()
    await until(lambda: deck.hub.fleet.nodes["n2"].replicas[0].state is EngineState.DOWN, "n2's engine is down")
    submitted = await train(deck)
    deck.hub.queue.assign()
    assert (await job(deck, submitted["id"]))["state"] == "queued"
    assert not cordoned.jobs
    await deck.ok("POST", "nodes/n1/uncordon")
    await until(lambda: cordoned.jobs, "n1 gets it")


async def test_the_same_key_submits_one_job(deck: Deck) -> None:
    await deck.tenant()
    await deck.base()
    idempotency_key = key()
    jobs = [await train(deck, idempotency_key=idempotency_key) for _ in range(2)]
    assert jobs[0]["id"] == jobs[1]["id"]
    assert len(await deck.ok("GET", "jobs")) == 1


async def test_a_lost_nodes_job_goes_to_another_under_a_new_lease_and_the_old_one_is_refused(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await deck.base()
    first = await join("n1")
    submitted = await train(deck)
    old = await until(lambda: first.jobs.get(submitted["id"]), "assigned")
    await first.leave()
    await until(lambda: not deck.hub.fleet.nodes["n1"].linked, "n1 has left")
    deck.hub.fleet.nodes["n1"].heard -= LOST_S + 1  # type: ignore[operator]
    deck.hub.fleet.started -= LINK_TTL_S
    await until(lambda: deck.hub.fleet.nodes["n1"].lost, "n1 is lost")
    assert (await job(deck, submitted["id"]))["node"] == "n1", "it may come back until its link would be given up"
    deck.hub.fleet.nodes["n1"].heard -= LINK_TTL_S - LOST_S  # type: ignore[operator]
    second = await join("n2")
    new = await until(lambda: second.jobs.get(submitted["id"]), "assigned again")
    assert (new.attempt, old.attempt) == (2, 1)
    assert new.lease > old.lease
    first.running_jobs = ((old.id, old.lease),)
    await first.join()
    await until(lambda: not first.jobs, "n1 was told to stop")
    await first.say(old, FINISHED, {"adapter": "a" * 64, "release": "b" * 64})
    await first.say(old, ExecutorEventType.PROGRESS, step=9)
    cancel = JobCancel(job=old.id, lease=old.lease, epoch=deck.hub.log.state.epoch)
    await until(lambda: first.received.count(cancel) == 2, "and again when it speaks under the old lease")
    now = await job(deck, submitted["id"])
    assert (now["state"], now["node"], now["step"]) == ("assigned", "n2", None)


async def test_another_nodes_job_event_changes_nothing(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    owner = await join("n1")
    submitted = await train(deck)
    assigned = await until(lambda: owner.jobs.get(submitted["id"]), "assigned")
    other = await join("n2")
    await other.say(assigned, ExecutorEventType.FAILED)
    await other.report()
    await until(lambda: deck.hub.fleet.nodes["n2"].heard, "heard")
    await until(lambda: other.received and deck.hub.jobs.get(submitted["id"]), "still there")
    assert (await job(deck, submitted["id"]))["state"] == "assigned"


async def test_a_preempted_job_is_queued_again_until_so_many_attempts_got_no_further(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    await deck.tenant()
    await deck.base()
    agent = await join("n1")
    submitted = await train(deck)
    files = [{"path": "weights.safetensors", "size": 3, "sha256": "a" * 64}]
    hours = itertools.count(deck.hub.clock.now_ms(), 3_600_000)

    def an_hour_later() -> None:
        now = next(hours)
        monkeypatch.setattr(deck.hub.clock, "now_ms", lambda: now)

    for attempt in range(1, 2 + ATTEMPTS + 1):
        assigned = await until(
            lambda a=attempt: (j := agent.jobs.get(submitted["id"])) and j.attempt == a and j, f"attempt {attempt}"
        )
        an_hour_later()  # it waited
        await agent.say(assigned, ExecutorEventType.STARTED)
        await until(lambda: deck.hub.jobs.get(submitted["id"]).state is JobState.RUNNING, "runs")  # type: ignore[union-attr]
        an_hour_later()
        step = min(attempt, 2)
        await agent.say(assigned, ExecutorEventType.CHECKPOINT, step=step, of=9, data={"folder": "x", "files": files})
        await agent.say(assigned, ExecutorEventType.PREEMPTED, seq=2)
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    over = Job.model_validate(await job(deck, submitted["id"]))
    assert (over.code, over.gpu_hours) == ("preempted", 2 + ATTEMPTS), (
        "what it waited between attempts is in no GPU hours"
    )


async def test_a_training_that_gets_on_at_each_attempt_is_not_failed_because_the_hub_began_anew(data: Path) -> None:
    async def attempt(deck: Deck, agent: LinkedAgent, assigned: JobAssignment) -> None:
        file = {"path": "weights.safetensors", "size": 3, "sha256": "a" * 64}
        reached = {"step": assigned.attempt, "of": 9, "data": {"folder": "x", "files": [file]}}
        await agent.say(assigned, ExecutorEventType.CHECKPOINT, **reached)
        await agent.say(assigned, ExecutorEventType.PREEMPTED, seq=2)

    async def given(agent: LinkedAgent, job_id: str, n: int) -> JobAssignment:
        return await until(lambda: (j := agent.jobs.get(job_id)) and j.attempt == n and j, f"attempt {n}")

    async with running(data) as deck:
        await deck.tenant()
        await deck.base()
        agent = await LinkedAgent(deck, "n1").join()
        job_id = (await train(deck))["id"]
        for n in range(1, ATTEMPTS):
            await attempt(deck, agent, await given(agent, job_id, n))
        last = await given(agent, job_id, ATTEMPTS)
        await deck.hub.flush()
        await agent.leave()
    async with running(data) as deck:
        agent = await LinkedAgent(deck, "n1").join()
        await attempt(deck, agent, last)
        await given(agent, job_id, ATTEMPTS + 1)


async def test_a_job_is_cancelled_while_queued_and_while_running(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    queued = await train(deck)
    operator = await deck.as_role("operator")
    assert (await deck.ok("POST", f"jobs/{queued['id']}/cancel", client=operator))["state"] == "cancelled"
    agent = await join("n1")
    running = await train(deck)
    assigned = await until(lambda: agent.jobs.get(running["id"]), "assigned")
    await deck.ok("POST", f"jobs/{running['id']}/cancel", client=operator)
    await until(lambda: not agent.jobs, "the node was told")
    await agent.say(assigned, ExecutorEventType.PREEMPTED, code="cancelled")
    await until(lambda: deck.hub.jobs.get(running["id"]).ended_ms, "over")  # type: ignore[union-attr]
    assert (await job(deck, running["id"]))["state"] == "cancelled"
    assert (await deck.ok("POST", f"jobs/{running['id']}/cancel"))["state"] == "cancelled"


@pytest.mark.parametrize(
    ("update", "code"),
    [
        ({"base": "a" * 64}, "unknown_base"),
        ({"datasets": ["a" * 64]}, "unknown_dataset"),
        ({"parent": "a" * 64}, "unknown_adapter"),
        ({"tenant": "nobody"}, "unknown_tenant"),
        ({"validation": {"suite": "a" * 64}}, "unknown_suite"),
    ],
)
async def test_a_job_that_names_what_is_not_there_is_refused(deck: Deck, update: dict[str, Any], code: str) -> None:
    await deck.tenant()
    await deck.base()
    spec = TrainSpec(
        tenant="acme",
        name="support",
        base=BASE.digest,
        datasets=(await deck.dataset(),),
        decision=DecisionRecord(why_weights="a test"),
    ).model_dump(mode="json")
    await deck.refused(404, code, "POST", "jobs", {"spec": spec | update})


async def test_checkpoints_are_not_chosen_by_a_suite_for_gates(deck: Deck) -> None:
    await deck.tenant()
    await deck.base()
    fields = {"tenant": "acme", "name": "support", "base": BASE.digest, "datasets": [await deck.dataset()]}
    spec = fields | {"kind": "train", "decision": {"why_weights": "a test"}}
    validation = {"suite": await deck.suite()}
    await deck.refused(409, "selection_suite", "POST", "jobs", {"spec": spec | {"validation": validation}})


async def test_an_evaluation_is_attested_judged_and_opens_the_gate(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release, suite = await deck.release(), await deck.suite()
    await deck.tenant(gate={"suite": suite, "min_exact": 0.8})
    agent = await join("n1")
    body = PromoteRequest(release=release, expected_generation=0, idempotency_key=key()).model_dump(mode="json")
    await deck.refused(409, "gate_missing", "POST", f"{ROUTE}/promote", body)
    done = await evaluate(deck, agent, release, suite, exact=18)
    assert done["state"] == "done"
    assert done["result"]["gate"]["passed"]
    kinds = [a["kind"] for a in await deck.ok("GET", f"attestations?subject={release}")]
    assert sorted(kinds) == ["canary", "evaluation", "gate"]
    await deck.promote(release)
    row = await deck.row()
    assert row.gate is not None
    assert row.gate.passed
    assert {c.name for c in row.gate.checks} >= {"exact", "valid"}


async def test_a_gate_that_asks_for_leaks_opens_by_a_job_that_counted_them_and_by_no_persons_word(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    suite, dataset = await deck.suite(), await deck.dataset()
    await deck.base(BASE)
    manifest = (await deck.adapter_manifest()).model_copy(update={"datasets": (dataset,)})
    release = (await deck.ok("POST", "adapters/acme/support/versions", manifest.model_dump(mode="json")))["release"]
    await deck.tenant(gate={"suite": suite, "min_exact": 0.8, "leak": {"max_increase": 0.01}})
    agent = await join("n1")
    assert (await evaluate(deck, agent, release, suite, exact=18))["result"]["gate"] is None
    counted = {"release": release, "datasets": [dataset], "n": 400, "both": 3, "only_base": 0, "only_release": 0}
    said = counted | {"measure": "as stated", "seconds": 1.0}
    body = {"kind": "leak", "subject": release, "tenant": "acme", "body": said, "by": "me"}
    await deck.refused(403, "forbidden", "POST", "attestations", body)
    spec = {"kind": "leak", "tenant": "acme", "release": release, "datasets": [dataset]}
    await deck.refused(404, "unknown_dataset", "POST", "jobs", {"spec": spec | {"datasets": ["e" * 64]}})
    await agent.leave()
    agent.recipes = 0
    await agent.join()
    waits = (await deck.ok("POST", "jobs", {"spec": spec}))["id"]
    assert (await job(deck, waits))["state"] == "queued"
    assert (await job(deck, waits))["message"] == "waits for a newer agent: those of n1 cannot read it"
    await deck.ok("POST", f"jobs/{waits}/cancel", {})
    await agent.leave()
    agent.recipes = RECIPES
    await agent.join()
    for leaked, passed in ((9, False), (0, True)):
        submitted = await deck.ok("POST", "jobs", {"spec": spec})
        assigned = await until(lambda s=submitted: agent.jobs.get(s["id"]), "assigned")
        assert assigned.release.id == release
        await agent.say(assigned, FINISHED, {"report": said | {"only_release": leaked}})
        await until(lambda s=submitted: deck.hub.jobs.get(s["id"]).ended_ms, "over")  # type: ignore[union-attr]
        done = await job(deck, submitted["id"])
        assert (done["state"], done["result"]["only_release"]) == ("done", leaked)
        gate = deck.hub.facts.gate(("acme", "production"), release)
        assert gate is not None
        assert gate.passed is passed
    await deck.promote(release)


async def test_a_gate_with_a_judge_opens_by_a_report_of_that_judge_alone(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release, suite = await deck.release(), await deck.suite()
    judge: dict[str, Any] = {"suite": suite, "rubric": "It is kind.", "address": "house"}
    alone = {"gate": {"suite": suite, "judge": judge}}
    refused = await deck.refused(409, "judge_not_known", "PUT", "tenants/acme/routes/staging", alone)
    assert "loradeck preference import" in refused.fix
    judge["people"] = [await deck.dataset()]
    await deck.tenant(gate={"suite": suite, "min_exact": 0.8, "judge": judge | {"min_passed": 0.5}})
    agent = await join("n1")
    assert (await evaluate(deck, agent, release, suite, exact=18))["result"]["gate"] is None
    spec = {"kind": "judge", "tenant": "acme", "release": release, "judge": judge}
    for code, wrong in (("unknown_suite", {"suite": "e" * 64}), ("unknown_dataset", {"people": ["e" * 64]})):
        await deck.refused(404, code, "POST", "jobs", {"spec": spec | {"judge": judge | wrong}})
    held = held_of("answer", ["good", "bad"] * 60, [True, False] * 60, suite)
    for settings, passed, opens in ((judge | {"rubric": "Any."}, 9, None), (judge, 1, False), (judge, 9, True)):
        submitted = await deck.ok("POST", "jobs", {"spec": spec | {"judge": settings}})
        assigned = await until(lambda s=submitted: agent.jobs.get(s["id"]), "assigned")
        assert [ref.id for ref in assigned.asked] == [release]
        report = JudgeReport(
            release=release,
            against=None,
            suite=suite,
            judge=assigned.spec.judge.digest,
            rubric="0" * 64,
            model="m",
            items=tuple(JudgedItem(id=f"i{n}", passed=n < passed, pair=None) for n in range(10)),
            passed=counted(passed, 10),
            unclear=0,
            flipped=counted(0, 0),
            first=counted(0, 0),
            longer=counted(0, 0),
            length=correlation([]),
            people=(held,),
            engine=BUILD,
            seconds=1.0,
        ).model_dump(mode="json")
        body = {"kind": "judged", "subject": release, "tenant": "acme", "body": report, "by": "me"}
        await deck.refused(403, "forbidden", "POST", "attestations", body)
        await agent.say(assigned, FINISHED, {"report": report})
        await until(lambda s=submitted: deck.hub.jobs.get(s["id"]).ended_ms, "over")  # type: ignore[union-attr]
        done = await job(deck, submitted["id"])
        assert (done["state"], done["result"]["passed"]) == ("done", counted(passed, 10).model_dump())
        assert done["result"]["agreement"] == {"answer": held.agreement.model_dump()}
        gate = deck.hub.facts.gate(("acme", "production"), release)
        assert (gate.passed if gate is not None else None) is opens
    await deck.promote(release)


async def test_a_failed_gate_stops_a_promote_and_an_override_with_a_reason_passes_it(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, two, suite = await deck.release(seed=1), await deck.release(seed=2), await deck.suite()
    await deck.tenant(gate={"suite": suite, "min_exact": 0.5, "max_drop": 0.3})
    agent = await join("n1")
    await evaluate(deck, agent, one, suite, exact=19)
    await deck.promote(one)
    await evaluate(deck, agent, two, suite, exact=12)
    body = PromoteRequest(release=two, expected_generation=1, idempotency_key=key()).model_dump(mode="json")
    problem = await deck.refused(409, "gate_failed", "POST", f"{ROUTE}/promote", body)
    assert [c["name"] for c in problem.context["checks"]] == ["drop"]
    await deck.refused(422, "reason_required", "POST", f"{ROUTE}/promote", body | {"override": True})
    result = await deck.promote(two, override=True, reason="three in the morning")
    assert result.events[0].override
    assert result.events[0].payload == {"overridden": ["gate_failed"]}
    row = await deck.row()
    assert "OVR" in row.flags
    assert row.gate is not None
    assert not row.gate.passed


async def test_a_report_on_another_suite_or_with_wrong_counts_fails_its_job(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release, suite = await deck.release(), await deck.suite()
    await deck.tenant(gate={"suite": suite, "min_exact": 0.5})
    agent = await join("n1")
    chosen = [item | {"kind": "choice"} for item in report(release, suite, 18)["items"]]
    for change in ({"suite": "e" * 64}, {"exact": 3}, {"items": "nothing"}, {"items": chosen}):
        request = JobRequest(spec=EvaluateSpec(tenant="acme", release=release, suite=suite))
        submitted = await deck.ok("POST", "jobs", request.model_dump(mode="json"))
        assigned = await until(lambda s=submitted: agent.jobs.get(s["id"]), "assigned")
        await agent.say(assigned, FINISHED, {"report": report(release, suite, 18) | change})
        await until(lambda s=submitted: deck.hub.jobs.get(s["id"]).ended_ms, "over")  # type: ignore[union-attr]
        failed = await job(deck, submitted["id"])
        assert failed["state"] == "failed", change
        assert failed["code"] in ("bad_report", "invalid_request"), change
    assert "update the agent of n1" in failed["message"], "it scores choices as no gate counts them"
    assert deck.hub.facts.gate(("acme", "production"), release) is None


async def test_a_revoked_release_is_neither_promoted_nor_gone_back_to(deck: Deck, join: Join) -> None:
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    agent = await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    assert [ref.id for ref in agent.entry.beneath] == [one]
    body = {"kind": "revocation", "subject": one, "tenant": "acme", "body": {}, "by": "me"}
    await deck.refused(422, "reason_required", "POST", "attestations", body)
    await deck.ok("POST", "attestations", body | {"body": {"reason": "leaked data"}})
    row = await deck.row()
    assert row.preview.action == "fallback"
    assert row.preview.skipped[0].reason == "revoked: leaked data"
    await until(lambda: agent.entry.beneath == (), "nodes keep no slot for it")
    promote = PromoteRequest(release=one, expected_generation=2, idempotency_key=key()).model_dump(mode="json")
    await deck.refused(409, "revoked", "POST", f"{ROUTE}/promote", promote)


def merged(release: str, adapter: str, **probe: float) -> dict[str, Any]:
    """What an agent says of a merge, and the id of the release it makes."""
    files = [{**entry.model_dump(), "sha256": "c" * 64} for entry in BASE.files]
    weights = BaseManifest(model_id="-", revision="-", files=tuple(FileEntry(**entry) for entry in files))
    made = Release(tenant="acme", form=Form.MERGED, base=BASE.digest, adapter=adapter, merged=weights.digest)
    near = {"prompts": 4, "positions": 50, "kl": 0.002, "kl_worst": 0.01, "kl_base": 1.0, "agree": 50} | probe
    said = {"release": made.id, "adapter": release, "merged": weights.digest, "tensors": 2, "seconds": 0.5}
    return {"files": files, "folder": "/somewhere/merged", "report": {**said, "probe": near}}


async def adapted(deck: Deck) -> tuple[str, str]:
    """A tenant's release and its adapter."""
    await deck.tenant()
    release = await deck.release()
    adapter = deck.hub.catalogue.releases[release].adapter
    assert adapter is not None
    return release, adapter


async def merge(deck: Deck, agent: LinkedAgent, release: str, result: dict[str, Any]) -> dict[str, Any]:
    submitted = await deck.ok("POST", "jobs", {"spec": {"kind": "merge", "tenant": "acme", "release": release}})
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    assert assigned.release.id == release
    await agent.say(assigned, FINISHED, result)
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    return await job(deck, submitted["id"])


async def test_the_base_that_a_merge_into_a_quantized_one_makes_says_what_it_was_dequantized_from(
    deck: Deck, join: Join
) -> None:
    release, adapter = await adapted(deck)
    said = merged(release, adapter)
    said["report"]["dequantized"] = "bitsandbytes nf4"
    assert (await merge(deck, await join("n1"), release, said))["state"] == "done"
    (base,) = [b for b in await deck.ok("GET", "bases") if b["digest"] == said["report"]["merged"]]
    assert base["manifest"]["revision"] == "v1 merged, dequantized from bitsandbytes nf4"
    assert [made["base"] for made in base["made"]] == [BASE.digest]
    (attested,) = await deck.ok("GET", f"attestations?subject={said['report']['release']}")
    assert attested["body"]["dequantized"] == "bitsandbytes nf4"


async def test_a_merge_goes_from_the_queue_to_a_registered_release_with_its_probe_on_record(
    deck: Deck, join: Join
) -> None:
    release, adapter = await adapted(deck)
    agent = await join("n1")
    said = merged(release, adapter)
    done = await merge(deck, agent, release, said)
    assert done["state"] == "done", done
    assert done["result"]["label"] == "v1m"
    made = said["report"]["release"]
    (view,) = [r for r in await deck.ok("GET", "releases?tenant=acme") if r["id"] == made]
    assert (view["form"], view["label"], view["base"]) == ("merged", "v1m", said["report"]["merged"])
    (base,) = [b for b in await deck.ok("GET", "bases") if b["digest"] == view["base"]]
    assert (base["manifest"]["model_id"], base["manifest"]["revision"]) == ("acme/support", "v1 merged")
    (attested,) = await deck.ok("GET", f"attestations?subject={made}")
    assert (attested["kind"], attested["body"]["probe"]["kl"]) == ("merge", 0.002)
    (lineage,) = await deck.ok("GET", f"attestations?kind=lineage&subject={view['base']}")
    assert (lineage["tenant"], lineage["body"]["adapter"], lineage["body"]["base"]) == ("acme", adapter, BASE.digest)
    assert (await merge(deck, agent, release, said))["result"]["release"] == made
    assert len(await deck.ok("GET", f"attestations?kind=lineage&subject={view['base']}")) == 1
    assert len(await deck.ok("GET", f"attestations?subject={made}")) == 1, "the same again is once"
    size = sum(entry.size for entry in BASE.files)
    use = await deck.ok("PUT", "tenants/acme/quota", {"weights": 2 * size - 1})
    assert use["weights"] == size
    another = {"spec": {"kind": "merge", "tenant": "acme", "release": release}}
    await deck.refused(409, "over_quota", "POST", "jobs", another)
    await deck.ok("PUT", "tenants/acme/quota", {"weights": 3 * size})
    several = await asyncio.gather(*(deck.local.post("jobs", json=another) for _ in range(4)))
    assert sorted(one.status_code for one in several) == [200, 200, 409, 409], "what is to be made counts too"


async def test_a_merged_release_is_evaluated_where_an_engine_has_its_weights(deck: Deck, join: Join) -> None:
    await deck.tenant()
    release, suite = await deck.release(), await deck.suite()
    adapter = deck.hub.catalogue.releases[release].adapter
    assert adapter is not None
    agent = await join("n1")
    said = merged(release, adapter)
    await merge(deck, agent, release, said)
    spec = EvaluateSpec(tenant="acme", release=said["report"]["release"], suite=suite)
    submitted = await deck.ok("POST", "jobs", JobRequest(spec=spec).model_dump(mode="json"))
    assert (await job(deck, submitted["id"]))["state"] == "queued"
    other = await join("n2", base=said["report"]["merged"])
    await until(lambda: other.jobs.get(submitted["id"]), "it goes to the node with the merged weights")


async def test_a_merge_on_other_weights_or_too_far_away_registers_nothing(deck: Deck, join: Join) -> None:
    release, adapter = await adapted(deck)
    agent = await join("n1")
    bases, releases = dict(deck.hub.catalogue.bases), dict(deck.hub.catalogue.releases)
    good = merged(release, adapter)
    for spoilt in (
        merged(release, adapter, kl=0.6),
        good | {"report": good["report"] | {"merged": "e" * 64}},
        good | {"report": good["report"] | {"release": release}},
        good | {"files": []},
        {"files": good["files"]},
    ):
        failed = await merge(deck, agent, release, spoilt)
        assert (failed["state"], failed["code"]) == ("failed", "bad_report")
    assert (deck.hub.catalogue.bases, deck.hub.catalogue.releases) == (bases, releases)
    alone = deck.hub.catalogue.base_alone_id("acme", BASE.digest)
    body = {"spec": {"kind": "merge", "tenant": "acme", "release": alone}}
    await deck.refused(404, "unknown_adapter", "POST", "jobs", body)


# ---- resume and logs -------------------------------------------------------------------------------------------


async def printed(agent: LinkedAgent, assigned: Any, first: int, *lines: str, **more: Any) -> None:
    fields = {"job": assigned.id, "lease": assigned.lease, "attempt": assigned.attempt} | more
    await agent.send(JobLog(first=first, lines=lines, **fields))


async def test_a_failed_job_is_resumed_as_its_next_attempt_on_the_node_it_was_on(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    agent = await join("n2")
    submitted = await train(deck)
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    other = await join("n1")
    await agent.say(assigned, ExecutorEventType.PROGRESS, seq=1, step=7, of=40, metrics={"loss": 1.5})
    running = await deck.ok("POST", f"jobs/{submitted['id']}/resume")
    assert (running["lease"], running["attempt"]) == (1, 1), "what is under way stays as it is"
    for attempt in range(1, ATTEMPTS + 2):
        assigned = await until(
            lambda n=attempt: (j := agent.jobs.get(submitted["id"])) and j.attempt == n and j, "assigned"
        )
        await agent.say(assigned, ExecutorEventType.FAILED, seq=2)
        await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "failed")  # type: ignore[union-attr]
        again = await deck.ok("POST", f"jobs/{submitted['id']}/resume")
        assert (again["state"], again["node"], again["attempt"]) == ("assigned", "n2", attempt + 1)
        assert (again["code"], again["ended_ms"], again["step"], again["metrics"]) == (None, None, None, {})
    assert not other.jobs
    lost = await deck.ok("POST", f"jobs/{submitted['id']}/resume", None, await deck.as_role("operator"))
    assert lost["attempt"] == ATTEMPTS + 2
    await deck.refused(403, "forbidden", "POST", f"jobs/{submitted['id']}/resume", None, await deck.as_role("viewer"))


async def test_what_is_done_is_not_resumed(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    finished = await done(deck, await join("n1"))
    await deck.refused(409, "job_over", "POST", f"jobs/{finished}/resume")
    assert (await job(deck, finished))["state"] == "done"
    await deck.refused(404, "unknown_job", "POST", "jobs/j404/resume")


async def done(deck: Deck, agent: LinkedAgent) -> str:
    """A job that is done."""
    submitted = await train(deck)
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    manifest = (await deck.adapter_manifest()).model_dump(mode="json")
    version = await deck.ok("POST", "adapters/acme/support/versions", manifest, await deck.as_role("agent", "n1"))
    result = {"adapter": version["digest"], "version": 1, "release": version["release"]}
    await agent.say(assigned, FINISHED, result)
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    return str(submitted["id"])


async def test_what_a_scheduler_says_of_a_job_stands_with_it_under_the_lease_that_holds(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    agent, submitted = await join("n1"), await train(deck)
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    said = Scheduled(system="slurm", id="4711", state="pending", reason="Resources")

    async def told(lease: int, said: Scheduled) -> Any:
        held = ((assigned.id, lease, said),)
        deck.hub.queue.scheduled(
            deck.hub.fleet.nodes["n1"], Report(replicas=(), nvml=NvmlState.OK, rev=1, epoch=1, scheduled=held)
        )
        return (await job(deck, assigned.id)).get("scheduled")

    assert await told(assigned.lease - 1, said) is None
    assert await told(assigned.lease, said) == said.model_dump(mode="json")
    later = said.model_copy(update={"state": "running", "reason": ""})
    assert await told(assigned.lease, later) == later.model_dump(mode="json")
    await agent.say(assigned, ExecutorEventType.FAILED, code="bad_data")
    await until(lambda: deck.hub.jobs.get(assigned.id).ended_ms, "over")  # type: ignore[union-attr]
    assert await told(assigned.lease, said) == later.model_copy(update={"state": ""}).model_dump(mode="json")


async def test_what_a_job_printed_is_kept_to_the_newest_lines_and_asked_for_from_where_one_is(
    deck: Deck, join: Join
) -> None:
    await deck.tenant()
    await deck.base()
    agent = await join("n1")
    submitted = await train(deck)
    where = f"jobs/{submitted['id']}/log"
    assert await deck.ok("GET", where) == []
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    await printed(agent, assigned, 1, "loading", "[red]step 1[/]")
    await printed(agent, assigned, 1, "loading", "[red]step 1[/]", "step 2")  # sent again after a lost link
    await printed(agent, assigned, 900, "step 3")
    await printed(agent, assigned, 901, "under an older lease", lease=assigned.lease - 1)
    await printed(agent, assigned, 901, "of another job", job="j0")
    await until(lambda: len(deck.hub.queue.logs.after(submitted["id"], 0, 0)) == 4, "printed")
    lines = await deck.ok("GET", where)
    assert [(line["attempt"], line["number"], line["text"]) for line in lines] == [
        (1, 1, "loading"),
        (1, 2, "[red]step 1[/]"),
        (1, 3, "step 2"),
        (1, 900, "step 3"),
    ]
    assert [line["number"] for line in await deck.ok("GET", f"{where}?attempt=1&number=2")] == [3, 900]
    await deck.refused(404, "unknown_job", "GET", "jobs/j404/log")


async def test_events_are_asked_for_from_where_one_is(deck: Deck, join: Join) -> None:
    await deck.tenant()
    await deck.base()
    agent = await join("n1")
    submitted = await train(deck)
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    for step in (1, 2, 3):
        await agent.say(assigned, ExecutorEventType.PROGRESS, seq=step, step=step, of=40)
    await until(lambda: deck.hub.jobs.get(submitted["id"]).step == 3, "progress")  # type: ignore[union-attr]
    found = await deck.ok("GET", f"jobs/{submitted['id']}/events?attempt=1&seq=2")
    assert [event["step"] for event in found] == [3]


# ---- looking for old ones ----------------------------------------------------------------------------------


async def old_jobs(deck: Deck, count: int) -> None:
    """Failed train jobs in the store that this hub no longer has in memory; every tenth by a loss spike."""
    await deck.tenant()
    await deck.base()
    one = Job.model_validate(await train(deck)).model_copy(update={"state": JobState.FAILED, "code": "killed"})
    jobs = [
        one.model_copy(update={"id": f"old-{n:04}", "code": "killed" if n % 10 else "loss_spike", "created_ms": n})
        for n in range(count)
    ]

    def write(store: Store) -> None:
        for job_ in jobs:
            store.put_job(job_)

    await deck.hub.store(write)


async def listed(deck: Deck, **query: Any) -> list[str]:
    found = await deck.ok("GET", f"jobs?{urlencode(query)}")
    return [one["id"] for one in found]


async def test_a_job_that_failed_hundreds_of_jobs_ago_is_found_by_its_reason_and_its_recipe(deck: Deck) -> None:
    await old_jobs(deck, 3 * PIECE)
    assert await listed(deck, match="LOSS_spike", limit=2) == ["old-0590", "old-0580"]
    assert len(await listed(deck, match="loss_spike", state="failed", kind="train", tenant="acme")) == 3 * PIECE // 10
    assert await listed(deck, match="loss_spike", before="old-0020") == ["old-0010", "old-0000"]
    assert await listed(deck, match="support", limit=1) == ["old-0599"]
    assert await listed(deck, tenant="bolt") == []
    assert await listed(deck, state="queued") != []


async def test_pages_of_jobs_leave_none_out_and_give_none_twice(deck: Deck) -> None:
    await old_jobs(deck, PIECE + 30)
    pages: list[str] = []
    while page := await listed(deck, limit=50, **({"before": pages[-1]} if pages else {})):
        pages += page
    assert len(pages) == len(set(pages)) == PIECE + 31
    assert pages[:2] == ["old-0229", "old-0228"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("limit=0", 422, "invalid_request"),
        ("state=lost", 422, "invalid_request"),
        ("sate=failed", 422, "invalid_request"),
        ("before=nothing", 404, "unknown_job"),
    ],
)
async def test_a_search_for_what_there_is_not_is_refused(deck: Deck, query: str, status: int, code: str) -> None:
    await deck.refused(status, code, "GET", f"jobs?{query}")


async def test_a_trial_of_training_is_kept_with_its_node_until_its_versions_are_others(deck: Deck, join: Join) -> None:
    agent = await join("n1")
    await agent.leave()
    agent.training = {"torch": "2.15.0"}
    await agent.join()

    async def says() -> str:
        (row,) = await deck.ok("GET", "nodes")
        return str(row["training"])

    assert await says() == "UNPROVEN HERE"
    submitted = await deck.ok("POST", "jobs", {"spec": {"kind": "prove", "node": "n1", "base": BASE.digest}})
    assigned = await until(lambda: agent.jobs.get(submitted["id"]), "assigned")
    measured = {"planned_bytes": 1, "peak_bytes": 2, "tokens_per_second": 9.0, "seconds": 1.0, "steps": 20, "loss": 1.0}
    same = {"straight": True, "resumed": True, "versions": agent.training, "device": "cpu", "base": BASE.digest}
    await agent.say(assigned, FINISHED, {"proof": measured | same})
    await until(lambda: deck.hub.jobs.get(submitted["id"]).ended_ms, "over")  # type: ignore[union-attr]
    assert (await job(deck, submitted["id"]))["result"]["standing"] == "proven"
    assert await says() == "proven today on its CPU, which says nothing of a GPU"
    kept = deck.hub.fleet.nodes["n1"].kept()
    assert Node.of("n1", kept).proof == deck.hub.fleet.nodes["n1"].proof
    await agent.leave()
    agent.training = {"torch": "2.16.0"}
    await agent.join()
    assert await says() == "UNPROVEN HERE: torch was 2.15.0 and is 2.16.0"


async def test_a_trial_of_training_is_asked_for_by_who_has_a_role_at_all_tenants(deck: Deck, join: Join) -> None:
    await join("n1")
    await deck.tenant()
    theirs, spec = await deck.client_of("releaser", "acme"), {"kind": "prove", "node": "n1", "base": BASE.digest}
    for client in (theirs, None):
        await deck.refused(422, "invalid_request", "POST", "jobs", {"spec": spec | {"tenant": "acme"}}, client=client)
    await deck.refused(403, "forbidden", "POST", "jobs", {"spec": spec}, client=theirs)
    await deck.refused(404, "unknown_base", "POST", "jobs", {"spec": spec | {"base": "f" * 64}})
    await deck.refused(422, "invalid_request", "POST", "tenants", {"name": "fleet"})
    await deck.ok("POST", "jobs", {"spec": spec})
