"""Figures over time: bounded, and a gap in what came is a gap in the line."""

from __future__ import annotations

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Clock, stage

from loradeck.schemas.feed import FeedNodes
from loradeck.schemas.jobs import JobState, Scheduled
from loradeck.schemas.state import NodeRow
from loradeck.schemas.telemetry import NvmlState
from loradeck.tui.lines.jobs import job_head, job_lines
from loradeck.tui.lines.nodes import node_lines, node_page
from loradeck.tui.model.followed_job import FollowedJob
from loradeck.tui.model.hardware_history import SLOT_S, SLOTS, Figure, History
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.plots import BARS, sparkline
from loradeck.tui.text.spans import Line


def node(use: int | None = 50, **more: object) -> NodeRow:
    made = seed.nodes()[0]
    gpus = tuple(gpu.model_copy(update={"utilisation": use}) for gpu in made.gpus[:1])
    return made.model_copy(update={"gpus": gpus, **more})


def use(history: History, at: float) -> list[float | None]:
    return history.series("gpu-01", node().gpus[0].uuid, Figure.USE, at)


def text(lines: list[Line]) -> str:
    return "\n".join("".join(span.text for span in line) for line in lines)


def test_a_gap_in_the_data_is_a_gap_in_the_line() -> None:
    history = History()
    for slot, share in ((0, 0), (1, 50), (5, 100)):
        history.record(node(share), slot * SLOT_S)
    drawn = sparkline(use(history, 5 * SLOT_S), 0, 100, 8)
    assert drawn == f"  {BARS[0]}{BARS[4]}   {BARS[7]}"


def test_what_is_zero_is_told_from_what_is_missing() -> None:
    history = History()
    history.record(node(0), 0)
    history.record(node(None), SLOT_S)
    assert use(history, SLOT_S)[-2:] == [0, None]


def test_the_line_goes_on_with_time_when_nothing_comes() -> None:
    history = History()
    history.record(node(70), 0)
    assert use(history, 0)[-1] == 70
    assert use(history, 3 * SLOT_S)[-4:] == [70, None, None, None]
    assert use(history, SLOTS * SLOT_S) == [None] * SLOTS


def test_what_is_kept_does_not_grow() -> None:
    history = History()
    for slot in range(4 * SLOTS):
        history.record(node(slot % 100), slot * SLOT_S)
    ring = history._nodes["gpu-01"][node().gpus[0].uuid]
    assert len(ring._values) == SLOTS * len(Figure)
    assert use(history, (4 * SLOTS - 1) * SLOT_S) == [float(slot % 100) for slot in range(3 * SLOTS, 4 * SLOTS)]


@pytest.mark.parametrize(
    "away",
    [{"lost": True}, {"linked": False}, {"heard_age_s": 14.0}, {"heard_age_s": None}, {"nvml": NvmlState.HUNG}],
)
def test_what_was_said_before_is_no_figure_of_now(away: dict[str, object]) -> None:
    history = History()
    history.record(node(50), 0)
    history.record(node(50, **away), SLOT_S)
    assert use(history, SLOT_S)[-2:] == [50, None]


def test_nodes_and_gpus_that_are_gone_are_forgotten() -> None:
    history = History()
    history.record(node(50), 0)
    history.record(node(50, gpus=()), (SLOTS + 1) * SLOT_S)
    assert set(history._nodes["gpu-01"]) == {""}
    history.keep([])
    assert not history._nodes


async def test_figures_come_from_the_feed_and_stop_with_it() -> None:
    async with stage(size=(160, 48)) as on:
        for share in (10, 60, 95):
            on.clock.now += SLOT_S
            await on.says(FeedNodes(rows=(node(share),)))
        on.clock.now += 2 * SLOT_S
        drawn = sparkline(use(on.deck.state.history, on.clock.now), 0, 100, 5)
        assert drawn == f"{BARS[1]}{BARS[4]}{BARS[7]}  "
        await on.press("2", "g")
        names = list(on.deck.state.node_list.order)
        await on.press(*"j" * names.index("gpu-01"))
        await on.half_second()
        assert on.deck.front is not None
        assert drawn in on.deck.front.pane.text


async def test_enter_on_a_node_opens_its_page_and_esc_comes_back() -> None:
    async with stage(size=(120, 48)) as on:
        await on.press("2", "g", *"j" * on.deck.state.node_list.order.index("gpu-06"))
        await on.half_second()
        await on.press("enter")
        await on.pause()
        page = on.deck.screen.query_one("#body").text  # type: ignore[attr-defined]
        assert "gpu-06   up" in page
        await on.press("escape")
        await on.pause()
        assert on.deck.front is not None


def test_a_host_without_nvml_says_no_gpu_with_cpu_and_memory(state: ConsoleState) -> None:
    for lines in (node_lines(state, state.nodes["cpu-12"], 100, 9), node_page(state, state.nodes["cpu-12"], 100)):
        shown = text(lines)
        assert "no GPU" in shown
        assert "61%" in shown
        assert "13" in shown
        assert "24 GB" in shown
        assert "gpu0" not in shown


def test_stale_shown_as_live_the_page_of_a_node_says_when_it_is_from(state: ConsoleState, clock: Clock) -> None:
    assert "AS OF" not in text(node_page(state, state.nodes["gpu-06"], 100))
    clock.now += 20
    assert "AS OF 20s AGO: stale" in text(node_page(state, state.nodes["gpu-06"], 100))
    state.link_down("the link broke")
    assert "AS OF 20s AGO: lost" in text(node_page(state, state.nodes["gpu-06"], 100))


def test_a_node_that_is_away_says_so_on_its_page(state: ConsoleState) -> None:
    shown = text(node_page(state, state.nodes["gpu-04"], 100))
    assert "this is what it said last" in shown
    assert "was up" in shown


def test_markup_wide_and_right_to_left_names_stay_text_on_a_node(state: ConsoleState) -> None:
    odd = "[red]節点\u202eabc"
    row = node().model_copy(update={"version": odd, "labels": {"site": odd}})
    row = row.model_copy(update={"gpus": (row.gpus[0].model_copy(update={"name": odd}),)})
    state.apply(FeedNodes(rows=(row,)))
    for lines in (node_lines(state, row, 100, 9), node_page(state, row, 100)):
        shown = text(lines)
        assert "[red]節点\N{REPLACEMENT CHARACTER}abc" in shown
        assert "\u202e" not in shown


def test_a_job_says_where_it_stands_at_its_scheduler(state: ConsoleState) -> None:
    said = Scheduled(system="slurm", id="4711", state="pending", reason="Resources\u202e")
    job = next(job for job in seed.jobs() if job.node).model_copy(
        update={"node": "login", "scheduled": said, "message": "", "state": JobState.ASSIGNED}
    )
    assert job.says == said.words
    assert job.model_copy(update={"message": "waits:"}).says == "waits:"
    assert job.model_copy(update={"state": JobState.FAILED}).says == ""
    for lines in (job_lines(state, job, 200), job_head(state, job, FollowedJob(job.id), 200)):
        assert "by login at slurm 4711 pending: Resources\N{REPLACEMENT CHARACTER}   attempt" in text(lines)


def test_a_node_says_whether_training_on_it_is_proven_and_why_the_hub_cordoned_it(state: ConsoleState) -> None:
    said = "UNPROVEN HERE: torch was 2.15.0 and is 2.16.0"
    shown = node(training=said, cordoned_for=("GPU-1: XID 79",))
    page = text(node_page(state, shown, 120))
    assert f"TRAINS {said}" in page
    assert "cordoned by itself: GPU-1: XID 79" in page
    assert "TRAINS" not in text(node_page(state, node(), 120)), "it does not say, as agents of before do not"
    job = next(job for job in seed.jobs() if job.kind == "train" and job.node)
    state.nodes[job.node or ""] = shown
    assert said in text(job_lines(state, job, 200))
    assert said in text(job_head(state, job, FollowedJob(job.id), 200))
    state.nodes[job.node or ""] = node(training="proven today on H100")
    assert "proven" not in text(job_lines(state, job, 200))
