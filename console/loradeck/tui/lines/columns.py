"""What each list shows: fixed sets of columns for 80 and for 100 and more, and a row's cells in them."""

from dataclasses import dataclass
from functools import lru_cache

from rich.cells import cell_len

from loradeck.client.node_words import gigabytes
from loradeck.client.terminal_text import clean
from loradeck.rules.scheduling import links_fail
from loradeck.schemas.jobs import Job, JobState
from loradeck.schemas.log import Event
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.state import NodeRow
from loradeck.schemas.telemetry import NvmlState
from loradeck.tui.lines.preview import WIDE
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, age, fit, fit_right


@dataclass(frozen=True)
class Column:
    """A column of a list. `width` 0: the rest of the line. `right`: aligned at its end. `wide`: only from WIDE on."""

    name: str
    width: int
    right: bool = False
    wide: bool = False
    rank: int = 0
    """0: it always stays. Of the others that with the highest goes first where not all have room."""

    items: bool = False
    """The text is a list with commas: what does not fit is left out whole, and counted."""


NODE_COLUMNS = (
    Column("NODE", 0),
    Column("STATE", 10),
    Column("HEARD", 6, right=True),
    Column("CPU%", 5, right=True),
    Column("MEM GB", 9, right=True),
    Column("GPU", 16),
    Column("ENGINES", 8),
    Column("LOADED", 7, right=True),
    Column("LABELS", 20, wide=True),
)
JOB_COLUMNS = (
    Column("JOB", 9),
    Column("KIND", 9),
    Column("TENANT", 0),
    Column("STATE", 10),
    Column("NODE", 10, wide=True),
    Column("PROGRESS", 20),
    Column("LOSS", 6, right=True),
    Column("TOK/S", 6, right=True),
    Column("AGE", 6, right=True, wide=True),
)
EVENT_COLUMNS = (
    Column("TIME", 12),
    Column("REV", 6, right=True),
    Column("KIND", 13),
    Column("TENANT/ROUTE", 20),
    Column("FROM > TO", 15),
    Column("BY", 10),
    Column("REASON", 0, wide=True),
)


@lru_cache(maxsize=32)
def shown(columns: tuple[Column, ...], width: int) -> list[tuple[Column, int]]:
    """The columns for a terminal's width, each with its cells. One cell stands between two."""
    kept = [column for column in columns if width >= WIDE or not column.wide]
    if not any(column.width == 0 for column in kept):
        kept[-1] = Column(kept[-1].name, 0, kept[-1].right)
    while _cells(kept) + LEAST > width and (last := max(kept, key=lambda column: column.rank)).rank:
        kept.remove(last)
    return [(column, column.width or max(6, width - _cells(kept))) for column in kept]


LEAST = 14
"""Cells that the column with the rest of a line has, before another one has to go."""


def _cells(columns: list[Column]) -> int:
    return sum(column.width for column in columns) + len(columns) - 1 + 3  # cursor, mark, right margin


def heading(columns: tuple[Column, ...], width: int) -> Line:
    """The line of column names."""
    names = [(fit_right if column.right else fit)(column.name, cells) for column, cells in shown(columns, width)]
    return (Span(fit("  " + " ".join(names), width), "head"),)


def laid_out(columns: tuple[Column, ...], cells: dict[str, Span], width: int, lead: Span) -> Line:
    """A row's cells in their columns. `lead`: two cells for the cursor and the mark."""
    spans = [lead]
    for column, size in shown(columns, width):
        cell = cells.get(column.name, Span(""))
        text = whole_items(cell.text, size) if column.items else cell.text
        text = (fit_right if column.right else fit)(text, size)
        spans += [Span(text, cell.style), Span(" ")]
    return tuple(spans[:-1])


def whole_items(text: str, width: int) -> str:
    """As many items of a list as fit, whole, and how many more there are: `bad answers, held +2`."""
    items = text.split(", ")
    for shown in range(len(items), 0, -1):
        rest = f" +{len(items) - shown}" if shown < len(items) else ""
        if cell_len(fitting := ", ".join(items[:shown]) + rest) <= width:
            return fitting
    return text


# ---- nodes -------------------------------------------------------------------------------------------------


def node_heard(state: ConsoleState, node: NodeRow) -> float | None:
    """Seconds since a node's last message, counted on while the link is down; None: never, or not asked for."""
    if node.heard_age_s is None or not (node.lost or state.is_fresh(node.node)):
        return None
    return node.heard_age_s + state.since_received(node.node)


def node_state(node: NodeRow) -> Span:
    """The state of a node in one word."""
    if node.contested:
        return Span("TWO AGENTS", "bad")
    if node.lost:
        return Span("LINK LOST", "bad")
    if not node.linked:
        return Span("unlinked", "warn")
    if node.behind:
        return Span(clean(node.behind), "warn")
    if node.drained:
        return Span("drained", "warn")
    if node.cordoned:
        return Span("cordoned", "warn")
    jobs_alone = node.backend is not None and not node.replicas
    return Span("gateway" if node.gateway else "jobs only" if jobs_alone else "up", "good")


def gpu_summary(node: NodeRow) -> Span:
    """The GPUs of a node in short, '2x 87% 61C', or the fault. A missing figure is left out, never invented."""
    if node.nvml is NvmlState.NO_GPU:
        return Span("no GPU", "dim")
    if node.nvml is not NvmlState.OK:
        return Span(node.nvml.value.replace("_", " "), "dim" if node.nvml is NvmlState.STARTING else "bad")
    used = [gpu.utilisation for gpu in node.gpus if gpu.utilisation is not None]
    hottest = max((gpu.temperature_c for gpu in node.gpus if gpu.temperature_c is not None), default=None)
    text = f"{len(node.gpus)}x"
    text += f" {sum(used) / len(used):.0f}%" if used else " -"
    text += f" {hottest}C" if hottest is not None else ""
    troubled = any(gpu.xids or gpu.throttle or gpu.ecc_uncorrected or links_fail(gpu) for gpu in node.gpus)
    return Span(text + (" !" if troubled else ""), "warn" if troubled else "")


def node_cells(state: ConsoleState, node: NodeRow) -> dict[str, Span]:
    """The cells of a node's row."""
    known = node.lost or state.is_fresh(node.node)  # figures of a node that nobody looked at may be hours old
    host = node.host if known else None
    heard = node_heard(state, node)
    up = sum(replica.state is EngineState.UP for replica in node.replicas)
    stopped = sum(replica.state is EngineState.STOPPED for replica in node.replicas)  # nothing wants them
    labels = " ".join(f"{key}={value}" for key, value in sorted(node.labels.items()))
    old = "" if node.linked and not node.lost else "dim"  # what it said last
    gpu = gpu_summary(node) if known else Span("-")
    engines = Span(f"{up}/{len(node.replicas)} up", "" if up + stopped == len(node.replicas) else "warn")
    return {
        "NODE": Span(clean(node.node), "bold" if node.lost else ""),
        "STATE": node_state(node),
        "HEARD": Span(age(heard) if heard is not None else "never" if node.heard_age_s is None else "-"),
        "CPU%": Span(f"{host.cpu_percent:.0f}" if host else "-", old),
        "MEM GB": Span(f"{gigabytes(host.memory_used)}/{gigabytes(host.memory_total)}" if host else "-", old),
        "GPU": Span(gpu.text, old) if old else gpu,
        "ENGINES": Span(f"was {up}/{len(node.replicas)}", old) if old else engines,
        "LOADED": Span(str(sum(len(replica.loaded) for replica in node.replicas)), old),
        "LABELS": Span(clean(labels), "dim"),
    }


# ---- jobs --------------------------------------------------------------------------------------------------

_JOB_STYLE = {JobState.FAILED: "bad", JobState.RUNNING: "good", JobState.CANCELLED: "dim", JobState.DONE: "dim"}


def progress_bar(step: int | None, of: int | None, width: int) -> str:
    """`[#####-----] 20/40`; without a known end only the step."""
    if step is None:
        return "-"
    if not of:
        return f"step {step}"
    figures = f" {step}/{of}"
    room = width - len(figures) - 2
    if room < 4:
        return figures.strip()
    full = min(room, round(room * step / of))
    return f"[{'#' * full}{'-' * (room - full)}]{figures}"


def job_cells(state: ConsoleState, job: Job) -> dict[str, Span]:
    """The cells of a job's row."""
    loss = job.metrics.get("loss")
    speed = job.metrics.get("tokens_per_second")
    since = state.age_of(job.ended_ms or job.started_ms or job.created_ms)
    return {
        "JOB": Span(clean(job.id[:8])),
        "KIND": Span(clean(job.kind)),
        "TENANT": Span(clean(job.tenant), "bold" if job.state is JobState.FAILED else ""),
        "STATE": Span(job.state.value, _JOB_STYLE.get(job.state, "")),
        "NODE": Span(clean(job.node or "-")),
        "PROGRESS": Span(progress_bar(job.step, job.of, 20)),
        "LOSS": Span(f"{loss:.3f}" if loss is not None else "-"),
        "TOK/S": Span(f"{speed:.0f}" if speed is not None else "-"),
        "AGE": Span(age(since) if since is not None else "-"),
    }


# ---- events ------------------------------------------------------------------------------------------------


def event_cells(state: ConsoleState, event: Event) -> dict[str, Span]:
    """The cells of an event's row."""
    where = clean(event.where)
    left, to = event.path
    path = f"{state.name_of(left)} > {state.name_of(to)}" if left != to and to is not None else ""
    style = "bold" if event.kind.value in ("rollback", "fallback", "rewind") else ""
    reason = clean(event.reason)
    if event.override:
        reason = f"OVERRIDE {reason}"
    if event.one_copy:
        reason = f"1 COPY {reason}"
    return {
        "TIME": Span(state.when(event.at_ms, seconds=True)),
        "REV": Span(str(event.rev)),
        "KIND": Span(event.kind.value.replace("_", " "), style),
        "TENANT/ROUTE": Span(where),
        "FROM > TO": Span(path),
        "BY": Span(clean(event.actor)),
        "REASON": Span(reason, "warn" if event.override or event.one_copy else ""),
    }
