"""What the pane says about a selected job or event. Lines without a toolkit."""

from __future__ import annotations

import json

from loradeck.client.terminal_text import clean
from loradeck.client.times import stamp
from loradeck.schemas.ids import short
from loradeck.schemas.jobs import EvaluateSpec, Job, MergeSpec, PrepareSpec, TrainSpec
from loradeck.schemas.log import Event, EventKind
from loradeck.tui.lines.columns import progress_bar
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, age, line, plural, title


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
        where = "on all placed nodes"
    lines.append(
        line(
            Span(" WHERE ", "label"),
            f"{where}   attempt {job.attempt}{ran}   asked by {clean(job.by)} {state.when(job.created_ms)}",
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
    """Time left at the speed so far; only of a first attempt that has done a few steps: others began further on."""
    now = state.hub_now_ms
    if job.attempt > 1 or job.ended_ms is not None or job.started_ms is None:
        return ""
    if now is None or not job.step or not job.of:
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
        case MergeSpec() as spec:
            return f"{spec.tenant} {state.name_of(spec.release)} into its base"
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
            f"hash {event.hash[:8]} after {event.prev_hash[:8]}",
        )
    )
    return lines
