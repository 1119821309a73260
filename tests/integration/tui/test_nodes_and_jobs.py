"""Nodes and jobs from the keyboard: a real hub, a real terminal, and nodes that do as they are told."""

from __future__ import annotations

from tests.fleets.linked.hub import BASE
from tests.fleets.waiting import until
from tests.integration.tui.conftest import Site
from tests.integration.tui.terminal import console

from loradeck.schemas.executor import ExecutorEventType
from loradeck.schemas.jobs import JobRequest, TrainSpec
from loradeck.schemas.link import JobLog
from loradeck.schemas.manifest import DecisionRecord


async def test_a_node_is_drained_and_given_work_again(site: Site) -> None:
    nodes = site.hub.hub.fleet.nodes
    async with console(site.here) as terminal:
        await terminal.shows("hub ok", "> acme")
        terminal.type("2")
        await terminal.shows("> n1", "no GPU")
        terminal.type("D")
        await terminal.shows("D drain n1 (taking jobs)", "serves   acme/production", "nothing has been sent")
        assert not nodes["n1"].drained
        await terminal.confirms()
        await terminal.shows("D drain n1: it is drained")
        assert nodes["n1"].drained
        assert not nodes["n2"].drained
        terminal.type("U")
        await terminal.shows("it is given jobs again")
        await terminal.confirms()
        await terminal.shows("U uncordon n1: it is taking jobs")
        assert not nodes["n1"].cordoned
        terminal.type("q")
        await terminal.shows("R GOES TO")
        terminal.type("q")
        assert await terminal.ended() == 0


async def test_a_job_is_followed_cancelled_and_resumed(site: Site) -> None:
    hub, agent = site.hub, site.agents[0]
    spec = TrainSpec(
        tenant="acme", name="support", base=BASE.digest, datasets=(await hub.dataset(),),
        decision=DecisionRecord(why_weights="a test"),
    )  # fmt: skip
    job = (await hub.ok("POST", "jobs", JobRequest(spec=spec).model_dump(mode="json")))["id"]
    given = await until(lambda: agent.jobs.get(job), "assigned")
    kind = ExecutorEventType
    for step in range(1, 6):
        await agent.say(given, kind.PROGRESS, seq=step, step=step, of=40, metrics={"loss": 3 / step, "grad_norm": 1.0})

    async def prints(first: int, *lines: str) -> None:
        log = JobLog(job=job, lease=given.lease, attempt=given.attempt, first=first, lines=lines)
        await agent.send(log)

    await prints(1, *(f"line {i}" for i in range(1, 51)))
    async with console(site.here) as terminal:
        await terminal.shows("hub ok", "> acme")
        terminal.type("3")
        await terminal.shows("train", "running", "5/40")
        terminal.type("\r")
        await terminal.shows("loss by step 1 to 40: now 0.6", "grad norm by step", "following the end", "line 50")
        terminal.type("k")
        await terminal.shows("NOT following: 0 new")
        await prints(51, "[red]line 51[/]", "line 52")
        await terminal.shows("NOT following: 2 new")
        assert "line 52" not in terminal.text
        terminal.type("G")
        await terminal.shows("[red]line 51[/]", "line 52", "following the end")
        terminal.type("q")
        await terminal.shows("X cancel  S resume")
        terminal.type("X")
        await terminal.shows("no adapter comes of it", "nothing has been sent")
        await terminal.confirms()
        await until(lambda: job not in agent.jobs, "told to stop")
        await agent.say(given, kind.PREEMPTED, seq=6, code="cancelled")
        await terminal.shows("1 cancelled")
        terminal.type("S")
        await terminal.shows("S resume train", "as attempt 2")
        await terminal.confirms()
        again = await until(lambda: agent.jobs.get(job), "given again")
        assert again.attempt == 2
        await terminal.shows("assigned")
