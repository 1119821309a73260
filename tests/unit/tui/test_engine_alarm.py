"""What an engine's alarm looks like on the nodes screen."""

from __future__ import annotations

from loradeck.schemas.state import NodeRow
from loradeck.tui.lines.nodes import node_lines
from loradeck.tui.model.state import ConsoleState

ALARM = "no slot for acme v7, where R goes for acme/production"


def shown(state: ConsoleState, node: NodeRow) -> list[tuple[str, str]]:
    """(text, style of its first part) of each line."""
    return [("".join(span.text for span in line), line[0].style) for line in node_lines(state, node, 100, 12) if line]


def with_alarm(node: NodeRow, alarm: str = ALARM, **more: bool) -> NodeRow:
    first, *rest = node.replicas
    return node.model_copy(update={"replicas": (first.model_copy(update={"alarm": alarm}), *rest), **more})


def test_an_alarm_stands_under_its_engine(state: ConsoleState) -> None:
    lines = shown(state, with_alarm(state.nodes["gpu-06"]))
    at = next(n for n, (text, _) in enumerate(lines) if ALARM in text)
    assert lines[at] == (f"   ALARM {ALARM}", "bad")
    assert lines[at - 1][0].startswith(" gpu-06")
    assert not any("ALARM" in text for text, _ in shown(state, state.nodes["gpu-06"]))


def test_what_a_lost_node_said_last_is_no_alarm_of_now(state: ConsoleState) -> None:
    lines = shown(state, with_alarm(state.nodes["gpu-06"], lost=True, linked=False))
    assert (f"   said  {ALARM}", "dim") in lines


def test_an_alarm_is_data_and_never_markup_or_control(state: ConsoleState) -> None:
    text = "\n".join(text for text, _ in shown(state, with_alarm(state.nodes["gpu-06"], "[red]x[/red]\x1b[2J")))
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


def test_an_engine_that_does_not_say_what_it_holds_is_marked(state: ConsoleState) -> None:
    node = state.nodes["gpu-06"]
    first, *rest = node.replicas
    unknown = node.model_copy(update={"replicas": (first.model_copy(update={"levels_known": False}), *rest)})
    assert sum("slots, levels unknown  " in text for text, _ in shown(state, unknown)) == 1
    assert not any("unknown" in text for text, _ in shown(state, node))
