"""A job's page above its log: how far it is, how fast, and its figures by step. Lines without a toolkit."""

from __future__ import annotations

from loradeck.client.terminal_text import clean
from loradeck.schemas.jobs import Job, JobState, PrepareSpec
from loradeck.tui.lines.columns import progress_bar
from loradeck.tui.model.feed_state import Link
from loradeck.tui.model.followed_job import FollowedJob
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.plots import plot
from loradeck.tui.text.spans import Line, Span, age, fit, line, title

FIGURES = ("loss", "grad_norm", "token_accuracy", "exact", "valid")
"""What is plotted, the first two that there are."""

PLOT_HEIGHT = 7


def job_head(state: ConsoleState, job: Job | None, following: FollowedJob, width: int) -> list[Line]:
    """Title, progress, plots and the log's title. Always the same number of lines."""
    if job is None:
        head = [title(f"{clean(following.job)}   the hub lists no such job any more", width), (), ()]
    else:
        head = [_title(state, job, width), _progress(job, following), _figures(job)]
    return [*head, *_plots(following, job, width), title(_log_title(state, following), width)]


def _title(state: ConsoleState, job: Job, width: int) -> Line:
    where = f"on {clean(job.node)}" if job.node else "not on a node yet"
    if isinstance(job.spec, PrepareSpec) and not job.node:
        where = "on all placed nodes"
    name = f"{clean(job.kind)} {clean(job.id)} of {clean(job.tenant)}"
    text = f"{name}   {job.state.value}   {where}   attempt {job.attempt}"
    if state.link is not Link.LIVE:
        text += f"   AS OF {age(state.silent_s)} AGO: {state.link.value}"
    return title(text, width)


def _progress(job: Job, following: FollowedJob) -> Line:
    left = following.left_s(job.of) if job.state is JobState.RUNNING else None
    speed = job.metrics.get("tokens_per_second")
    words = progress_bar(job.step, job.of, 40)
    words += f"   {speed:,.0f} tokens/s" if speed is not None else ""
    words += f"   about {age(left)} left" if left is not None else ""
    code = f"{clean(job.code)}: " if job.code else ""
    said = f"   {code}{clean(job.message)}" if job.message or code else ""
    return line(Span(" AT    ", "label"), words, Span(said, "bad" if job.code else "dim"))


def _figures(job: Job) -> Line:
    metrics = "   ".join(f"{clean(name).replace('_', ' ')} {value:.4g}" for name, value in sorted(job.metrics.items()))
    return line(
        Span(" SAYS  ", "label"), metrics or Span("no figures yet" if job.ended_ms is None else "no figures", "dim")
    )


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
    told = "log   following the end" if log.following else f"log   NOT following: {log.new:,} new; G follows"
    if fetch.trouble:
        ago = f", as of {age(state.clock() - fetch.at)} ago" if fetch.at is not None else ""
        told += f"   no answer{ago}: {clean(fetch.trouble)}"
    return told
