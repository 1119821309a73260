"""Orders to nodes and jobs: each says what would happen and waits for y."""

from __future__ import annotations

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Stage, notice, pane, stage

from loradeck.client.errors import ApiError
from loradeck.client.feed import FeedLink, LinkChange
from loradeck.schemas.feed import FeedJobs, FeedNodes, FeedStatus
from loradeck.schemas.ids import Role
from loradeck.schemas.jobs import Job, JobState, LeakSpec, ProveSpec
from loradeck.schemas.problem import Problem
from loradeck.schemas.state import NodeRow
from loradeck.tui.keys.action import Action
from loradeck.tui.model.sent_moves import Order


async def at_node(on: Stage, name: str) -> None:
    await on.press("2", "g")
    await on.press(*"j" * on.deck.state.node_list.order.index(name))
    await on.half_second()


async def at_job(on: Stage, job: str) -> None:
    await on.press("3", "g")
    await on.press(*"j" * on.deck.state.job_list.order.index(job))
    await on.half_second()


def obeying(on: Stage) -> None:
    """A hub that does what it is told."""

    def obey(order: Order) -> NodeRow | Job:
        state = on.deck.state
        if order.action in (Action.CANCEL, Action.RESUME):
            to = JobState.CANCELLED if order.action is Action.CANCEL else JobState.QUEUED
            return state.jobs[order.subject].model_copy(update={"state": to})
        marks = {"cordoned": order.action is not Action.UNCORDON, "drained": order.action is Action.DRAIN}
        return state.nodes[order.subject].model_copy(update=marks)

    on.hub.obeys = obey


@pytest.mark.parametrize("keys", ["D", "C", "X"])
async def test_destructive_key_without_confirmation_an_order_waits_for_y(keys: str) -> None:
    async with stage() as on:
        obeying(on)
        await (at_job(on, "job-7be10c44") if keys == "X" else at_node(on, "gpu-01"))
        await on.press(keys)
        await on.half_second()
        assert "nothing has been sent" in pane(on)
        assert on.hub.ordered == []
        await on.press("escape")
        await on.press("y")
        assert on.hub.ordered == []
        await on.press(keys)
        await on.half_second()
        await on.press("y")
        assert [on.deck.state.keys.shown(order.action) for order in on.hub.ordered] == [keys]


async def test_y_in_the_same_read_as_the_key_does_nothing() -> None:
    async with stage() as on:
        obeying(on)
        await at_node(on, "gpu-01")
        await on.press("D")
        frame = on.deck.seen.look()
        assert frame.seen_at is not None  # without a terminal what is drawn is seen
        assert on.deck.moves.question is not None
        on.deck.seen.frame(None, None)  # another frame than the question's was the last one
        await on.press("y")
        assert "y not taken" in notice(on)
        assert on.hub.ordered == []


async def test_drain_names_what_the_node_serves_and_runs_then_tells_what_it_is() -> None:
    async with stage(size=(100, 40)) as on:
        obeying(on)
        await at_node(on, "gpu-02")
        await on.press("D")
        await on.half_second()
        shown = pane(on)
        assert "D drain gpu-02 (taking jobs): no new jobs" in shown
        assert "pointers" in shown
        assert on.deck.moves.question is not None
        listed = on.deck.moves.question.ask.listed
        assert any(entry.startswith("serves   acme/production v9/B2: 1 of 4 replicas") for entry in listed)
        assert listed[-1] == "goes on  job job-7be10c44 train of acme"
        await on.press("y")
        await on.half_second()
        assert on.deck.state.nodes["gpu-02"].drained
        assert "D drain gpu-02: it is drained" in pane(on)
        await on.press("escape")
        await on.half_second()
        assert "it is drained" not in pane(on)


async def test_a_pointer_that_is_served_nowhere_else_is_named_first() -> None:
    async with stage(size=(100, 40)) as on:
        await at_node(on, "gpu-03")
        await on.press("D")
        assert on.deck.moves.question is not None
        assert on.deck.moves.question.ask.listed[0] == "serves   birch/staging v4/B2: SERVED NOWHERE ELSE"


async def test_what_holds_already_is_refused_with_the_way_out() -> None:
    async with stage() as on:
        await at_node(on, "gpu-07")
        await on.press("C")
        assert notice(on) == "C off: gpu-07 is cordoned already; U gives it work again"
        await at_node(on, "gpu-01")
        await on.press("U")
        assert "U off: gpu-01 is neither cordoned nor drained" in notice(on)
        assert on.deck.moves.question is None


async def test_uncordon_gives_work_again() -> None:
    async with stage() as on:
        obeying(on)
        await at_node(on, "gpu-07")
        await on.press("U")
        await on.half_second()
        assert "it is given jobs again" in pane(on)
        await on.press("y")
        assert not on.deck.state.nodes["gpu-07"].cordoned


async def test_a_question_about_a_node_that_changed_meanwhile_is_dropped() -> None:
    async with stage() as on:
        obeying(on)
        await at_node(on, "gpu-01")
        await on.press("D")
        await on.half_second()
        drained = on.deck.state.nodes["gpu-01"].model_copy(update={"drained": True, "cordoned": True})
        await on.says(FeedNodes(rows=(drained,)))
        await on.half_second()
        assert on.deck.moves.question is None
        assert "question dropped: gpu-01 is drained now" in notice(on)
        await on.press("y")
        assert on.hub.ordered == []


async def test_cancel_says_what_does_not_come_of_it() -> None:
    async with stage() as on:
        obeying(on)
        await at_job(on, "job-7be10c44")
        await on.press("X")
        await on.half_second()
        assert "X cancel train job-7be10c44 of acme on gpu-02 (running, 26/40)" in pane(on)
        assert "no adapter comes of it" in pane(on)
        await on.press("y")
        assert on.deck.state.jobs["job-7be10c44"].state is JobState.CANCELLED
        await at_job(on, "job-0c77e1b9")
        await on.press("X")
        assert "X off: job-0c77e1b9 is done already" in notice(on)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (LeakSpec(tenant="acme", release="a" * 64, datasets=("d" * 64,)), "no report and no gate result come of it"),
        (ProveSpec(node="gpu-01", base="b" * 64), "what is known of training there stays as it is"),
    ],
)
async def test_every_kind_of_job_says_what_does_not_come_of_it(spec: LeakSpec | ProveSpec, says: str) -> None:
    async with stage() as on:
        other = on.deck.state.jobs["job-7be10c44"].model_copy(update={"spec": spec, "kind": spec.kind})
        await on.says(FeedJobs(rows=(other,)))
        await at_job(on, "job-7be10c44")
        await on.press("X")
        await on.half_second()
        assert says in pane(on)


async def test_a_cancel_of_a_job_that_ended_meanwhile_is_dropped() -> None:
    async with stage() as on:
        obeying(on)
        await at_job(on, "job-7be10c44")
        await on.press("X")
        await on.half_second()
        ended = on.deck.state.jobs["job-7be10c44"].model_copy(update={"state": JobState.DONE})
        await on.says(FeedJobs(rows=(ended,)))
        await on.half_second()
        assert "question dropped" in notice(on)
        assert on.hub.ordered == []


async def test_a_lost_answer_is_told_as_unknown_and_stays_until_esc() -> None:
    async with stage(size=(140, 40)) as on:
        await at_node(on, "gpu-01")
        await on.press("C")
        await on.half_second()
        await on.press("y")
        await on.half_second()
        assert "OUTCOME UNKNOWN C cordon gpu-01: no answer" in pane(on)
        await on.press("j", "k")
        assert "OUTCOME UNKNOWN C cordon gpu-01" in pane(on)


async def test_a_refusal_of_the_hub_is_told_and_nothing_has_changed() -> None:
    async with stage(size=(140, 40)) as on:

        def refuse(order: Order) -> NodeRow | Job:
            raise ApiError(Problem(title="there is no node 'gpu-01'", status=404, code="unknown_node"))

        on.hub.obeys = refuse
        await at_node(on, "gpu-01")
        before = on.deck.state.nodes["gpu-01"]
        await on.press("C")
        await on.half_second()
        await on.press("y")
        await on.half_second()
        assert "REFUSED C cordon gpu-01: there is no node" in pane(on)
        assert on.deck.state.nodes["gpu-01"] == before


@pytest.mark.parametrize("role", [Role.VIEWER, Role.AGENT])
async def test_orders_need_an_operator(role: Role) -> None:
    async with stage(seed.hub_state(role=role)) as on:
        await at_node(on, "gpu-01")
        for key in ("D", "C"):
            await on.press(key)
            assert f"{key} off: it needs the role operator" in notice(on)
        await at_job(on, "job-7be10c44")
        await on.press("X")
        assert "X off: it needs the role operator" in notice(on)


async def test_read_only_leak_no_order_leaves_a_read_only_console() -> None:
    async with stage(read_only="--read-only") as on:
        obeying(on)
        await at_node(on, "gpu-07")
        for key in ("D", "C", "U"):
            await on.press(key, "y")
            assert on.deck.moves.question is None
        await at_job(on, "job-7be10c44")
        await on.press("X", "y")
        assert on.hub.ordered == []


async def test_without_a_link_no_order_is_asked_for() -> None:
    async with stage() as on:
        await at_node(on, "gpu-01")
        on.hub.says.put_nowait(LinkChange(state=FeedLink.LOST, at=0.0, why="the link broke"))
        await on.half_second()
        await on.press("D")
        assert "D off: no link to the hub" in notice(on)


async def test_a_hub_that_refuses_moves_takes_orders() -> None:
    async with stage() as on:
        obeying(on)
        await at_node(on, "gpu-01")
        status = on.deck.state.status
        assert status is not None
        await on.says(FeedStatus(status=status.model_copy(update={"refusing": "log_behind"})))
        await on.press("D")
        await on.half_second()
        await on.press("y")
        assert [order.subject for order in on.hub.ordered] == ["gpu-01"]
