"""What the pane says about a selected node, job or event. Lines without a toolkit."""

from __future__ import annotations

import json

from loradeck.schemas.ids import short
from loradeck.schemas.jobs import EvaluateSpec, Job, PrepareSpec, TrainSpec
from loradeck.schemas.link import EngineState
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.state import NodeReplica, NodeRow
from loradeck.schemas.telemetry import Gpu, NvmlState
from loradeck.tui.columns import node_heard, node_state, progress_bar
from loradeck.tui.preview import title
from loradeck.tui.state import ConsoleState
from loradeck.tui.text import (
    Line,
    Span,
    age,
    clean,
    gigabytes,
    line,
    plural,
    stamp,
)

_NVML = {
    NvmlState.STARTING: "the sampler is starting",
    NvmlState.HUNG: "a driver call does not return; figures are missing, not zero",
    NvmlState.LOST: "fewer GPUs than before: one has fallen off the bus",
    NvmlState.REBOOT_REQUIRED: "library and driver differ: reboot required",
    NvmlState.FAILED: "the driver cannot be asked",
}


def node_lines(state: ConsoleState, node: NodeRow, width: int, height: int) -> list[Line]:
    """A node: its GPUs or, where it has none, CPU and memory; then engines with what they have loaded."""
    heard = node_heard(state, node)
    state_span = node_state(node)
    said = f"heard {age(heard)} ago" if heard is not None else "never heard since the hub started"
    lines = [
        title(f"{clean(node.node)}   {state_span.text}   {said}   agent {clean(node.version)}", width),
    ]
    if node.nvml is NvmlState.OK:
        lines += [_gpu(gpu) for gpu in node.gpus]
    elif node.nvml is NvmlState.NO_GPU:
        lines.append(line(Span(" no GPU", "label"), f"   {_host(node)}"))
    else:
        lines.append(line(Span(f" GPU {node.nvml.value.replace('_', ' ')}: ", "warn"), _NVML[node.nvml]))
        lines += [_gpu(gpu) for gpu in node.gpus]
    if node.nvml is not NvmlState.NO_GPU:
        lines.append(line(Span(" host  ", "label"), _host(node)))
    for replica in node.replicas:
        lines.append(_engine(state, replica, heard=node.linked and not node.lost))
        if replica.alarm:
            now = node.linked and not node.lost
            lines.append(line(Span("   ALARM " if now else "   said  ", "bad" if now else "dim"), clean(replica.alarm)))
    if not node.replicas:
        lines.append(line(Span(" no engine on this node", "dim")))
    for pin in node.pins:
        said = f'"{clean(pin.reason)}"' if pin.reason else ""
        lines.append(
            line(
                Span(" PIN   ", "warn"),
                f"{pin.tenant}/{pin.route} to {clean(pin.release.label)} {short(pin.release.id)} "
                f"by {clean(pin.actor)} {state.when(pin.at_ms)} {said}",
            )
        )
        route = "" if pin.route == "production" else f" {pin.route}"
        lines.append(line(Span(f"       loradeck node unpin {clean(node.node)} {pin.tenant}{route} ends it", "dim")))
    if len(lines) > height:
        hidden = len(lines) - height + 1
        lines = [*lines[: height - 1], line(Span(f" and {plural(hidden, 'more line')}", "dim"))]
    return lines


def _host(node: NodeRow) -> str:
    host = node.host
    if host is None:
        return "CPU and memory not reported"
    return (
        f"CPU {host.cpu_percent:.0f}%   memory {gigabytes(host.memory_used)} of {gigabytes(host.memory_total)} GB   "
        f"load {host.load1:.1f}"
    )


def _gpu(gpu: Gpu) -> Line:
    name = clean(gpu.name).removeprefix("NVIDIA ")
    spans = [
        Span(f" gpu{gpu.index} ", "label"),
        Span(f" {name[:14]:<14}"),
        Span(f" {_or_dash(gpu.utilisation)}%".rjust(6)),
        Span(f"  {gigabytes(gpu.memory_used)}/{gigabytes(gpu.memory_total)} GB"),
        Span(f"  {_or_dash(gpu.power_w, '.0f')}/{_or_dash(gpu.power_limit_w, '.0f')} W"),
        Span(f"  {_or_dash(gpu.temperature_c)}C  {_or_dash(gpu.clock_sm_mhz)} MHz"),
    ]
    if gpu.throttle:
        spans.append(Span(f"  slowed: {clean(', '.join(gpu.throttle)).replace('_', ' ')}", "warn"))
    if gpu.ecc_uncorrected:
        spans.append(Span(f"  ECC {gpu.ecc_uncorrected} uncorrected", "bad"))
    if gpu.remapped_rows:
        spans.append(Span(f"  {plural(gpu.remapped_rows, 'remapped row')}", "warn"))
    if gpu.xids:
        spans.append(Span(f"  XID {' '.join(map(str, gpu.xids))}", "bad"))
    return tuple(spans)


def _or_dash(value: float | None, form: str = "") -> str:
    return "-" if value is None else format(value, form)


def _engine(state: ConsoleState, replica: NodeReplica, *, heard: bool) -> Line:
    loaded = ", ".join(f"{state.owner_of(view.id) or short(view.id)} {clean(view.label)}" for view in replica.loaded)
    style = {EngineState.UP: "good", EngineState.STOPPED: "dim"}.get(replica.state, "bad")
    return line(
        Span(f" {clean(replica.replica)}  ", "label"),
        Span(replica.state.value, style) if heard else Span(f"was {replica.state.value}", "dim"),
        f"  {clean(replica.base_label) or '-'} {short(replica.base)}  {len(replica.loaded)}/{replica.slots} slots  ",
        Span(loaded or "nothing loaded", "" if loaded else "dim"),
    )


def job_lines(state: ConsoleState, job: Job, width: int) -> list[Line]:
    """A job: what it is for, how far it is, and what it said last."""
    lines = [title(f"{clean(job.kind)} {clean(job.id)}   {job.state.value}", width)]
    lines.append(line(Span(" FOR   ", "label"), _spec(state, job)))
    ran = ""
    if job.started_ms is not None:
        until = job.ended_ms or state.hub_now_ms or job.started_ms
        ran = f"   ran {age((until - job.started_ms) / 1000)}"
    where = f"on {clean(job.node)}" if job.node else "not on a node yet"
    if isinstance(job.spec, PrepareSpec) and not job.node:
        where = "on every node it is placed on"
    lines.append(
        line(
            Span(" WHERE ", "label"),
            f"{where}   attempt {job.attempt}   asked by {clean(job.by)} {state.when(job.created_ms)}{ran}",
        )
    )
    lines.append(line(Span(" AT    ", "label"), progress_bar(job.step, job.of, 48), f"   {_left(state, job)}"))
    metrics = "   ".join(f"{clean(name).replace('_', ' ')} {value:.4g}" for name, value in sorted(job.metrics.items()))
    none = "no figures yet" if job.ended_ms is None else "no figures"
    lines.append(line(Span(" SAYS  ", "label"), metrics or Span(none, "dim")))
    code = f"{clean(job.code)}: " if job.code else ""
    lines.append(line("       ", Span(f"{code}{clean(job.message)}", "bad" if job.code else "")))
    if job.result:
        made = "   ".join(f"{name} {_plain(value)}" for name, value in sorted(job.result.items()))
        lines.append(line(Span(" MADE  ", "label"), clean(made)))
    return lines


def _plain(value: object) -> str:
    """A result as text; digests in short, what is nested as JSON."""
    if isinstance(value, str):
        return value[:12] if len(value) == 64 else value
    return json.dumps(value, sort_keys=True)


def _left(state: ConsoleState, job: Job) -> str:
    """Time left at the speed so far; only while it runs and has done a few steps."""
    now = state.hub_now_ms
    if job.ended_ms is not None or job.started_ms is None or now is None or not job.step or not job.of:
        return ""
    left = (now - job.started_ms) / 1000 / job.step * (job.of - job.step)
    return f"about {age(left)} left" if job.step >= 3 and left > 0 else ""


def _spec(state: ConsoleState, job: Job) -> str:
    match job.spec:
        case TrainSpec() as spec:
            return (
                f"{spec.tenant}/{spec.name}   {spec.steps} steps x {spec.batch}   rank {spec.rank}   "
                f"rate {spec.learning_rate:g}   base {short(spec.base)}   "
                f"{plural(len(spec.datasets), 'dataset')} {short(spec.datasets[0])}"
            )
        case EvaluateSpec() as spec:
            return f"{spec.tenant} {state.name_of(spec.release)} on suite {short(spec.suite)} for {spec.route}"
        case PrepareSpec() as spec:
            return f"{spec.tenant}/{spec.route} {state.name_of(spec.release)} before its promote commits"


def event_lines(state: ConsoleState, event: Event, width: int) -> list[Line]:
    """An event: who, what, why, and its place in the chain."""
    where = f"{event.tenant}/{event.route}" if event.route else event.tenant
    lines = [title(f"rev {event.rev}   {event.kind.value.replace('_', ' ')}   {clean(where)}", width)]
    old = state.age_of(event.at_ms)
    lines.append(
        line(
            Span(" WHEN  ", "label"),
            f"{stamp(event.at_ms)}{f'   {age(old)} ago' if old is not None else ''}   by {clean(event.actor)} "
            f"({event.role.value}){'   OVERRIDE' if event.override else ''}",
        )
    )
    if event.pointer is not None:
        beneath = "  ".join(state.name_of(digest) for digest in event.pointer.beneath[:6]) or "nothing"
        lines.append(
            line(
                Span(" MOVED ", "label"),
                f"{state.name_of(event.from_release)} > {state.name_of(event.to_release)}   gen {event.generation}   "
                f"beneath: {beneath}{'   held' if event.pointer.held else ''}",
            )
        )
    if event.kind is EventKind.PIN:
        path = f"{state.name_of(event.from_release)} > {state.name_of(event.to_release)}"
        made = stamp(int(event.payload.get("at_ms", 0)))
        on = f"on {clean(str(event.payload.get('node', '-')))} alone, {made} by its clock"
        lines.append(line(Span(" PINNED", "warn"), f" {path}   {on}"))
    lines.append(line(Span(" WHY   ", "label"), clean(event.reason) or Span("no reason given", "dim")))
    lines.append(line(Span(" CASE  ", "label"), clean(event.incident or "") or Span("no incident attached", "dim")))
    if event.undoes:
        lines.append(line(Span(" UNDOES", "label"), f" {', '.join(short(undone) for undone in event.undoes)}"))
    if event.payload:
        lines.append(line(Span(" DATA  ", "label"), clean(json.dumps(event.payload, sort_keys=True))))
    lines.append(
        line(
            Span(" CHAIN ", "label"),
            f"event {short(event.id)}   txn {short(event.txn)}   epoch {event.epoch}   "
            f"hash {event.hash[:12]} after {event.prev_hash[:12]}",
        )
    )
    return lines
