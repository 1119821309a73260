"""A job: its pane, and the head of its page with figures by step."""

import json

from loradeck.client.job_words import metrics_in_words
from loradeck.client.terminal_text import clean
from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.ids import short
from loradeck.schemas.jobs import (
    EvaluateSpec,
    Job,
    JobState,
    JudgeSpec,
    LeakSpec,
    MergeSpec,
    PrepareSpec,
    ProveSpec,
    TrainSpec,
)
from loradeck.tui.lines.columns import progress_bar
from loradeck.tui.model.feed_state import Link
from loradeck.tui.model.followed_job import FollowedJob
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.plots import plot
from loradeck.tui.text.spans import Line, Span, age, fit, labelled, line, plural, title

FIGURES = ("loss", "grad_norm", "token_accuracy", "exact", "valid")
"""Figures that may be plotted; the first two that a job has are."""

PLOT_HEIGHT = 7


def job_head(state: ConsoleState, job: Job | None, following: FollowedJob, width: int) -> list[Line]:
    """Title, progress, plots and the log's title. Always the same number of lines."""
    if job is None:
        head = [title(f"{clean(following.job)}   the hub lists no such job any more", width), (), ()]
    else:
        head = [_title(state, job, width), _progress(job, following), _figures(job)]
    return [*head, *_plots(following, job, width), title(_log_title(state, following), width)]


def _title(state: ConsoleState, job: Job, width: int) -> Line:
    name = f"{clean(job.kind)} {clean(job.id)} of {clean(job.tenant)}"
    text = f"{name}   {job.state.value}   {_where(job)}   attempt {job.attempt}{_unproven(state, job)}"
    if state.link is not Link.LIVE:
        text += f"   AS OF {age(state.silent_s)} AGO: {state.link.value}"
    return title(text, width)


def _where(job: Job) -> str:
    """The node of a job, with its entry at a scheduler where one runs it; or the nodes of a prepare."""
    if job.node and job.scheduled is not None:
        return f"by {clean(job.node)} at {clean(job.scheduled.words)}"
    if job.node:
        return f"on {clean(job.node)}"
    return "on all placed nodes" if isinstance(job.spec, PrepareSpec) else "not on a node yet"


def _unproven(state: ConsoleState, job: Job) -> str:
    """Says that training on a job's node is not proven; empty where it is, and for a job that does not train."""
    node = state.nodes.get(job.node or "") if isinstance(job.spec, TrainSpec) else None
    return f"   {clean(node.unproven)}" if node is not None and node.unproven else ""


def _progress(job: Job, following: FollowedJob) -> Line:
    left = following.left_s(job.of) if job.state is JobState.RUNNING else None
    speed = job.metrics.get("tokens_per_second")
    words = progress_bar(job.step, job.of, 40)
    words += f"   {speed:,.0f} tokens/s" if speed is not None else ""
    words += f"   about {age(left)} left" if left is not None else ""
    code = f"{clean(job.code)}: " if job.code else ""
    message = f"   {code}{clean(job.message)}" if job.message or code else ""
    return labelled(" AT    ", words, Span(message, "bad" if job.code else "dim"))


def _figures(job: Job) -> Line:
    metrics = clean(metrics_in_words(job, " ", "   ")).replace("_", " ")
    none = "no figures yet" if job.ended_ms is None else "no figures"
    return labelled(" SAYS  ", metrics or Span(none, "dim"))


def _plots(following: FollowedJob, job: Job | None, width: int) -> list[Line]:
    names = [name for name in FIGURES if following.figures.get(name)][:2]
    if not names:
        loaded = following.fetch.at is not None
        none = "no figure by step since the hub started" if loaded else "loading ..."
        return [(), line(Span(f"   {none}", "dim")), *[()] * (PLOT_HEIGHT - 1)]
    each = (width - 1) // len(names)
    steps = [step for name in names for step in following.figures[name]]
    first, last = min(1, *steps), max(*steps, job.of if job is not None and job.of else 1)
    heads, drawn = [], []
    for name in names:
        known = following.figures[name]
        lost = sum(1 for value in known.values() if value != value or value in (float("inf"), float("-inf")))
        odd = f", {lost} not finite" if lost else ""
        text = f"   {name.replace('_', ' ')} by step {first} to {last}: now {known[max(known)]:.4g}{odd}"
        heads.append(Span(fit(text, each), "bad" if lost else "label"))
        drawn.append(plot(known, first, last, each, PLOT_HEIGHT))
    rows = [tuple(Span(fit(part[i], each)) for part in drawn) for i in range(PLOT_HEIGHT)]
    return [tuple(heads), *rows]


def _log_title(state: ConsoleState, following: FollowedJob) -> str:
    log, fetch = following.log, following.fetch
    log_title = "log   following the end" if log.following else f"log   NOT following: {log.new:,} new; G follows"
    if fetch.trouble:
        ago = f", as of {age(state.clock() - fetch.at)} ago" if fetch.at is not None else ""
        log_title += f"   no answer{ago}: {clean(fetch.trouble)}"
    return log_title


# ---- the pane -----------------------------------------------------------------------------------------------


def job_lines(state: ConsoleState, job: Job, width: int) -> list[Line]:
    """A job in the pane: its purpose, its progress and its last message."""
    lines = [title(f"{clean(job.kind)} {clean(job.id)}   {job.state.value}", width)]
    lines.append(labelled(" FOR   ", _spec(state, job)))
    ran_ms = job.ran_ms(state.hub_now_ms)
    ran = f"   ran {age(ran_ms / 1000)}" if ran_ms or job.started_ms is not None else ""
    asked = f"asked by {clean(job.by)} {state.when(job.created_ms)}"
    unproven = _unproven(state, job)
    lines.append(labelled(" WHERE ", f"{_where(job)}   attempt {job.attempt}{ran}   {asked}", Span(unproven, "warn")))
    lines.append(labelled(" AT    ", progress_bar(job.step, job.of, 48), f"   {_left(state, job)}"))
    lines.append(_figures(job))
    code = f"{clean(job.code)}: " if job.code else ""
    lines.append(line("       ", Span(f"{code}{clean(job.message)}", "bad" if job.code else "")))
    if job.result:
        made = "   ".join(f"{name} {_plain(value)}" for name, value in sorted(job.result.items()))
        lines.append(labelled(" MADE  ", clean(made)))
    return lines


def _plain(value: object) -> str:
    """A result as text: digests in short, nested values as JSON."""
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
        case LeakSpec() as spec:
            rows = f"{spec.rows} rows of {plural(len(spec.datasets), 'dataset')}"
            return f"{spec.tenant} {state.name_of(spec.release)} on {rows}"
        case JudgeSpec() as spec:
            by = spec.judge.address or state.name_of(spec.judge.release or "")
            return f"{spec.tenant} {state.name_of(spec.release)} on suite {short(spec.judge.suite)} judged by {by}"
        case GenerateSpec() as spec:
            names = ", ".join(state.name_of(source.release) for source in spec.sources)
            return f"{spec.tenant}/{spec.name}   {plural(spec.prompts, 'prompt')} to {names}"
        case MergeSpec() as spec:
            return f"{spec.tenant} {state.name_of(spec.release)} into its base"
        case ProveSpec() as spec:
            return f"training on {spec.node}   {spec.steps} steps   base {short(spec.base)}"
        case PrepareSpec() as spec:
            return f"{spec.tenant}/{spec.route} {state.name_of(spec.release)} before its promote commits"
