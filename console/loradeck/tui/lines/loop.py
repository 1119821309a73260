"""Routes between a signal and new weights, as cells of a row and lines of the pane."""

from loradeck.client import loop_words
from loradeck.client.terminal_text import clean
from loradeck.schemas.freshness import LoopRow, LoopStep, Remedy
from loradeck.tui.lines.columns import Column
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, dated, labelled, line, title

LOOP_COLUMNS = (
    Column("TENANT/ROUTE", 0),
    Column("SIGNALS", 18),
    Column("ADVICE", 9),
    Column("WRONG", 5, right=True),
    Column("LABELLED", 8, right=True, wide=True),
    Column("STEP", 20),
    Column("GATE", 6),
    Column("FROZEN", 6, wide=True),
)

_STEP_STYLES = {LoopStep.FAILED: "bad", LoopStep.LIVE: "good", LoopStep.CANDIDATE: "warn"}


def loop_cells(state: ConsoleState, row: LoopRow) -> dict[str, Span]:
    """The cells of a route's row."""
    return {
        "TENANT/ROUTE": Span(clean(f"{row.tenant}/{row.route}")),
        "SIGNALS": Span(loop_words.signals(row), "warn" if row.signals else "dim"),
        "ADVICE": Span(row.remedy.value, "dim" if row.remedy is Remedy.NOTHING else "bold"),
        "WRONG": Span(f"{row.wrong:,}", "" if row.wrong else "dim"),
        "LABELLED": Span(loop_words.labelled(row), "" if row.loop is not None else "dim"),
        "STEP": Span(
            clean(loop_words.step(row)), _STEP_STYLES.get(row.loop.step, "") if row.loop is not None else "dim"
        ),
        "GATE": Span(loop_words.gate(row), {"failed": "bad", "-": "dim"}.get(loop_words.gate(row), "")),
        "FROZEN": Span("yes" if row.frozen else "-", "warn" if row.frozen else "dim"),
    }


def loop_lines(state: ConsoleState, row: LoopRow, width: int) -> list[Line]:
    """A route in the pane: what its meters have found, its backlog, how far the newest labels are, and what is next."""
    loop = row.loop
    built = clean(f"{loop.rows:,} rows in {loop.name} {loop.dataset[:6]}") if loop is not None else "no dataset yet"
    replayed = f" ({row.replayed} days)" if row.replayed else ""
    found = [
        title(clean(f"{row.tenant}/{row.route}   {row.label}   as of {dated(row.at_ms)}"), width),
        labelled(" SIGNALS   ", f"{loop_words.signals(row)}{replayed}   advice: {row.remedy.value}"),
        labelled(" BACKLOG   ", f"{row.wrong:,} answers called wrong since the newest labels"),
        labelled(" LABELLED  ", built),
        labelled(
            " STEP      ",
            clean(f"{loop_words.step(row)}   gate {loop_words.gate(row)}   candidate {loop_words.candidate(row)}"),
        ),
    ]
    if row.frozen:
        found.append(labelled(" FROZEN    ", Span(clean(row.frozen), "warn")))
    next_ = loop_words.next_step(row)
    found.append(line(Span(f" {clean(next_)}" if next_ != "-" else " nothing is to do", "dim")))
    return found
