"""Routes between a signal and new weights, as cells of a row and lines of the pane."""

from loradeck.client import loop_words as words
from loradeck.client.terminal_text import clean
from loradeck.schemas.freshness import LoopRow, LoopStep, Remedy
from loradeck.tui.lines.columns import Column
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, dated, labelled, line, title

COLUMNS = (
    Column("TENANT/ROUTE", 0),
    Column("SIGNALS", 18),
    Column("ADVICE", 9),
    Column("WRONG", 5, right=True),
    Column("LABELLED", 8, right=True, wide=True),
    Column("STEP", 20),
    Column("GATE", 6),
    Column("FROZEN", 6, wide=True),
)

_STYLES = {LoopStep.FAILED: "bad", LoopStep.LIVE: "good", LoopStep.CANDIDATE: "warn"}


def cells(state: ConsoleState, row: LoopRow) -> dict[str, Span]:
    """The cells of a route's row."""
    return {
        "TENANT/ROUTE": Span(clean(f"{row.tenant}/{row.route}")),
        "SIGNALS": Span(words.signals(row), "warn" if row.signals else "dim"),
        "ADVICE": Span(row.remedy.value, "dim" if row.remedy is Remedy.NOTHING else "bold"),
        "WRONG": Span(f"{row.wrong:,}", "" if row.wrong else "dim"),
        "LABELLED": Span(words.labelled(row), "" if row.loop is not None else "dim"),
        "STEP": Span(clean(words.step(row)), _STYLES.get(row.loop.step, "") if row.loop is not None else "dim"),
        "GATE": Span(words.gate(row), {"failed": "bad", "-": "dim"}.get(words.gate(row), "")),
        "FROZEN": Span("yes" if row.frozen else "-", "warn" if row.frozen else "dim"),
    }


def lines(state: ConsoleState, row: LoopRow, width: int) -> list[Line]:
    """A route in the pane: what its meters have found, its backlog, how far the newest labels are, and what is next."""
    loop = row.loop
    built = clean(f"{loop.rows:,} rows in {loop.name} {loop.dataset[:6]}") if loop is not None else "no dataset yet"
    replayed = f" ({row.replayed} days)" if row.replayed else ""
    found = [
        title(clean(f"{row.tenant}/{row.route}   {row.label}   as of {dated(row.at_ms)}"), width),
        labelled(" SIGNALS   ", f"{words.signals(row)}{replayed}   advice: {row.remedy.value}"),
        labelled(" BACKLOG   ", f"{row.wrong:,} answers called wrong since the newest labels"),
        labelled(" LABELLED  ", built),
        labelled(
            " STEP      ", clean(f"{words.step(row)}   gate {words.gate(row)}   candidate {words.candidate(row)}")
        ),
    ]
    if row.frozen:
        found.append(labelled(" FROZEN    ", Span(clean(row.frozen), "warn")))
    next_ = words.next_step(row)
    found.append(line(Span(f" {clean(next_)}" if next_ != "-" else " nothing is to do", "dim")))
    return found
