"""A node: its pane and its page, with GPUs or none, host, engines with their releases, pins."""

from loradeck.client import node_words
from loradeck.client.node_words import gigabytes
from loradeck.client.terminal_text import clean
from loradeck.rules.scheduling import links_fail
from loradeck.schemas.ids import short
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.state import NodeReplica, NodeRow
from loradeck.schemas.telemetry import Gpu, NvmlState
from loradeck.tui.keys.action import Action
from loradeck.tui.lines.columns import node_heard, node_state
from loradeck.tui.model.feed_state import Link
from loradeck.tui.model.hardware_history import SLOT_S, SLOTS, Figure
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.plots import sparkline
from loradeck.tui.text.spans import BLANK, Line, Span, age, line, on_gpus, plural, span, title, width_of

_NVML = {
    NvmlState.STARTING: "the sampler is starting",
    NvmlState.HUNG: "a driver call does not return; figures are missing, not zero",
    NvmlState.LOST: "fewer GPUs than before: one has fallen off the bus",
    NvmlState.REBOOT_REQUIRED: "library and driver differ: reboot required",
    NvmlState.FAILED: "the driver cannot be asked",
}

_PANE_SPARK = 12
"""Cells of the line beside a GPU in the pane: its last minute."""


def node_lines(state: ConsoleState, node: NodeRow, width: int, height: int) -> list[Line]:
    """A node in the pane: its GPUs or, if it has none, CPU and memory; then engines with their loaded releases.

    If not all of it fits, GPUs are left out, those in trouble last.
    """
    now = _is_now(state, node)
    lines = [title(_head(state, node), width)]
    below = []
    gpus = list(node.gpus)
    if node.nvml is NvmlState.NO_GPU:
        lines.append(line(Span(" no GPU", "label"), f"   {_host(node)}"))
        gpus.clear()
    else:
        if node.nvml is not NvmlState.OK:
            lines.append(_nvml(node))
        below.append(line(Span(" host  ", "label"), _host(node)))
    for replica in node.replicas:
        below.append(_engine(state, replica, now=now))
        below += _alarm(replica, now=now)
    if not node.replicas:
        below.append(line(Span(" no engine on this node", "dim")))
    below += _pins(state, node)
    room = height - len(lines) - len(below)
    shown = gpus if len(gpus) <= room else sorted(gpus, key=lambda gpu: not _troubles(gpu))[: max(0, room - 1)]
    lines += [_gpu(state, node, gpu, width, now=now) for gpu in gpus if gpu in shown]
    if len(shown) < len(gpus):
        left = [gpu for gpu in gpus if gpu not in shown]
        fine = "" if any(map(_troubles, left)) else ", none slowed or with errors"
        lines.append(
            line(Span(f" and {plural(len(left), 'more GPU')}{fine}; {state.keys.shown(Action.OPEN)} shows all", "dim"))
        )
    lines += below
    if len(lines) > height:
        hidden, opens = len(lines) - height + 1, state.keys.shown(Action.OPEN)
        lines = [*lines[: height - 1], line(Span(f" and {plural(hidden, 'more line')}; {opens} shows them", "dim"))]
    return lines


def node_page(state: ConsoleState, node: NodeRow, width: int) -> list[Line]:
    """Writes all about a node, with what it reported over the last minutes."""
    now = _is_now(state, node)
    lines = [title(_head(state, node), width)]
    if state.link is not Link.LIVE:
        lines.append(line(Span(f" AS OF {age(state.silent_s)} AGO: {state.link.value}", "bad")))
    elif node.contested:
        where = " and ".join(map(clean, node.contested))
        lines.append(
            line(Span(f" agents at {where} are linked as this node: neither counts. Stop the false one,", "bad"))
        )
        lines.append(line(Span(f" or loradeck node revoke {node.node} and let the true one join anew", "bad")))
    elif not now:
        lines.append(line(Span(" it is away: this is what it said last", "bad")))
    if node.cordoned_for:
        lines.append(line(Span(f" cordoned by itself: {clean('; '.join(node.cordoned_for))}", "bad")))
    labels = " ".join(f"{key}={value}" for key, value in sorted(node.labels.items()))
    cells = max(12, min(SLOTS, (width - 44) // 2))
    says = " ".join(f"{key}={value}" for key, value in sorted((node.says or {}).items()))
    other = [Span(f" it says {clean(says) or '-'}: loradeck node relabel {node.node}", "warn")]
    lines.append(line(Span(" LABELS ", "label"), clean(labels) or "-", *(other if node.says is not None else [])))
    if node.training:
        role = "warn" if node.unproven else ""
        lines.append(line(Span(" TRAINS ", "label"), Span(clean(node.training), role)))
    for replica in node.replicas:
        lines.append(_engine(state, replica, now=now, loaded=False))
        lines += _alarm(replica, now=now)
        if said := node_words.paging(replica):
            lines.append(line(Span(f"   {said}", "dim")))
    if not node.replicas:
        lines.append(line(Span(" no engine on this node", "dim")))
    if node.cold is not None:
        lines.append(line(Span(f" {node_words.on_demand(node.cold)}", "" if now else "dim")))
    lines += _pins(state, node)
    lines.append(line(Span(f" lines: {_spanned(cells)}", "dim")))
    if node.nvml is NvmlState.NO_GPU:
        lines.append(line(Span(" no GPU ", "label"), "this host has none, or no driver for it"))
    elif node.nvml is not NvmlState.OK:
        lines.append(_nvml(node))
    for gpu in node.gpus if node.nvml is not NvmlState.NO_GPU else ():
        lines += [BLANK, *_gpu_block(state, node, gpu, cells)]
    lines += [BLANK, *_host_block(state, node, cells)]
    for replica in node.replicas:
        lines += [BLANK, line(Span(f" loaded in {clean(replica.replica)}", "label"))]
        lines += [
            line(f"     {clean(state.owner_of(view.id) or '')} {clean(view.label)}/{clean(view.base_label)}  ", Span(
                short(view.id), "dim"))
            for view in replica.loaded
        ]  # fmt: skip
        if not replica.loaded:
            lines.append(line(Span("     nothing loaded", "dim")))
    return lines


def _is_now(state: ConsoleState, node: NodeRow) -> bool:
    return node.linked and not node.lost


def _head(state: ConsoleState, node: NodeRow) -> str:
    heard = node_heard(state, node)
    unheard = "never heard since the hub started" if node.heard_age_s is None else "asking for its figures ..."
    last_heard = f"heard {age(heard)} ago" if heard is not None else unheard
    return f"{clean(node.node)}   {node_state(node).text}   {last_heard}   agent {clean(node.version)}"


def _spanned(cells: int) -> str:
    return f"the last {span(cells * SLOT_S)}, {SLOT_S:.0f} s a sign, a space where nothing came"


def _nvml(node: NodeRow) -> Line:
    return line(Span(f" GPU {node.nvml.value.replace('_', ' ')}: ", "warn"), _NVML[node.nvml])


def _host(node: NodeRow) -> str:
    host = node.host
    if host is None:
        return "CPU and memory not reported"
    return (
        f"CPU {host.cpu_percent:.0f}%   memory {gigabytes(host.memory_used)} of {gigabytes(host.memory_total)} GB   "
        f"load {host.load1:.1f}"
    )


def _gpu(state: ConsoleState, node: NodeRow, gpu: Gpu, width: int, *, now: bool) -> Line:
    name = clean(gpu.name).removeprefix("NVIDIA ")
    spans = [
        Span(f" gpu{gpu.index} ", "label"),
        Span(f" {name[:14]:<14}"),
        Span(("MIG" if gpu.mig and gpu.utilisation is None else f"{_or_dash(gpu.utilisation)}%").rjust(6)),
        Span(f"  {gigabytes(gpu.memory_used)}/{gigabytes(gpu.memory_total)} GB"),
        Span(f"  {_or_dash(gpu.power_w, '.0f')}/{_or_dash(gpu.power_limit_w, '.0f')} W"),
        Span(f"  {_or_dash(gpu.temperature_c)}C  {_or_dash(gpu.clock_sm_mhz)} MHz"),
        *_troubles(gpu),
    ]
    if now and width - width_of(spans) >= _PANE_SPARK + 3:
        spans.append(Span(f"  {_spark(state, node, gpu.uuid, Figure.USE, 100, _PANE_SPARK)}", "good"))
    return tuple(spans)


def _troubles(gpu: Gpu) -> list[Span]:
    """Shows what an on-call engineer looks for first: slowed clocks, memory errors, XIDs, NVLinks that are down."""
    spans = []
    if gpu.throttle:
        spans.append(Span(f"  slowed: {clean(', '.join(gpu.throttle)).replace('_', ' ')}", "warn"))
    if gpu.ecc_uncorrected:
        spans.append(Span(f"  ECC {gpu.ecc_uncorrected} uncorrected", "bad"))
    if gpu.remapped_rows:
        spans.append(Span(f"  {plural(gpu.remapped_rows, 'remapped row')}", "warn"))
    if gpu.xids:
        spans.append(Span(f"  XID {' '.join(map(str, gpu.xids))}", "bad"))
    if links_fail(gpu):
        spans.append(Span(f"  {node_words.links(gpu)}", "bad"))
    return spans


def _gpu_block(state: ConsoleState, node: NodeRow, gpu: Gpu, cells: int) -> list[Line]:
    def drawn(figure: Figure, high: float) -> str:
        return _spark(state, node, gpu.uuid, figure, high, cells)

    use = "not known" if gpu.mig and gpu.utilisation is None else f"{_or_dash(gpu.utilisation)}%"
    clocks = f"{_or_dash(gpu.clock_sm_mhz)} MHz, memory {_or_dash(gpu.clock_mem_mhz)} MHz"
    fastest = max((v for v in _series(state, node, gpu.uuid, Figure.CLOCK) if v is not None), default=0.0)
    name = clean(gpu.name).removeprefix("NVIDIA ")
    lines = [
        line(Span(f" gpu{gpu.index} ", "label"), f" {name}  ", Span(clean(gpu.uuid), "dim"), *_troubles(gpu)),
        _pair(
            ("use", use, drawn(Figure.USE, 100)),
            ("memory", f"{gigabytes(gpu.memory_used)}/{gigabytes(gpu.memory_total)} GB", drawn(Figure.MEMORY, 100)),
        ),
        _pair(
            (
                "power",
                f"{_or_dash(gpu.power_w, '.0f')}/{_or_dash(gpu.power_limit_w, '.0f')} W",
                drawn(Figure.POWER, gpu.power_limit_w or 1000),
            ),
            ("heat", f"{_or_dash(gpu.temperature_c)}C", drawn(Figure.TEMPERATURE, 100)),
        ),
        line(f"   {'clock':<7}", clocks, "  ", Span(drawn(Figure.CLOCK, fastest or 1), "good")),
    ]
    ecc = f"{_or_dash(gpu.ecc_uncorrected)} uncorrected, {_or_dash(gpu.ecc_corrected)} corrected"
    xids = " ".join(map(str, gpu.xids)) or "none"
    rows = f"remapped rows {_or_dash(gpu.remapped_rows)}"
    lines.append(line(f"   {'errors':<7}", f"XID {xids}   ECC {ecc}   {rows}"))
    lines += [line(f"   {words}") for words in (node_words.links(gpu), *node_words.mig(gpu))]
    if gpu.processes:
        processes = ", ".join(f"{process.pid} ({gigabytes(process.memory_bytes)} GB)" for process in gpu.processes[:8])
        more = f" and {len(gpu.processes) - 8} more" if len(gpu.processes) > 8 else ""
        lines.append(line(f"   {'pids':<7}", processes + more))
    return lines


def _pair(left: tuple[str, str, str], right: tuple[str, str, str]) -> Line:
    spans: list[Span] = []
    for label, figure, drawn in (left, right):
        spans += [Span(f"   {label:<7}"), Span(f"{figure:<12}"), Span(drawn, "good")]
    return tuple(spans)


def _host_block(state: ConsoleState, node: NodeRow, cells: int) -> list[Line]:
    host = node.host
    if host is None:
        return [line(Span(" host  ", "label"), "CPU and memory not reported")]
    memory = f"{gigabytes(host.memory_used)}/{gigabytes(host.memory_total)} GB"
    return [
        line(Span(" host  ", "label"), f"load {host.load1:.1f}"),
        _pair(
            ("cpu", f"{host.cpu_percent:.0f}%", _spark(state, node, "", Figure.USE, 100, cells)),
            ("memory", memory, _spark(state, node, "", Figure.MEMORY, 100, cells)),
        ),
    ]


def _series(state: ConsoleState, node: NodeRow, gpu: str, figure: Figure) -> list[float | None]:
    return state.history.series(node.node, gpu, figure, state.clock())


def _spark(state: ConsoleState, node: NodeRow, gpu: str, figure: Figure, high: float, cells: int) -> str:
    return sparkline(_series(state, node, gpu, figure), 0, high, cells)


def _or_dash(value: float | None, form: str = "") -> str:
    return "-" if value is None else format(value, form)


def _engine(state: ConsoleState, replica: NodeReplica, *, now: bool, loaded: bool = True) -> Line:
    held = ", ".join(f"{state.owner_of(view.id) or short(view.id)} {clean(view.label)}" for view in replica.loaded)
    style = {EngineState.UP: "good", EngineState.STOPPED: "dim"}.get(replica.state, "bad")
    return line(
        Span(f" {clean(replica.replica)}  ", "label"),
        Span(replica.state.value, style) if now else Span(f"was {replica.state.value}", "dim"),
        f"  {clean(replica.base_label) or '-'} {short(replica.base)}{on_gpus(replica)}  "
        f"{node_words.slots(replica)} slots{'' if replica.levels_known else ', levels unknown'}  ",
        Span(held or "nothing loaded", "" if held else "dim") if loaded else Span(clean(replica.build), "dim"),
    )


def _alarm(replica: NodeReplica, *, now: bool) -> list[Line]:
    if not replica.alarm:
        return []
    return [line(Span("   ALARM " if now else "   said  ", "bad" if now else "dim"), clean(replica.alarm))]


def _pins(state: ConsoleState, node: NodeRow) -> list[Line]:
    lines: list[Line] = []
    for pin in node.pins:
        reason = f'"{clean(pin.reason)}"' if pin.reason else ""
        lines.append(
            line(
                Span(" PIN   ", "warn"),
                f"{pin.tenant}/{pin.route} to {clean(pin.release.label)} {short(pin.release.id)} "
                f"by {clean(pin.actor)} {state.when(pin.at_ms)} {reason}",
            )
        )
        route = "" if pin.route == "production" else f" {pin.route}"
        lines.append(line(Span(f"       loradeck node unpin {clean(node.node)} {pin.tenant}{route} ends it", "dim")))
    return lines
