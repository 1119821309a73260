"""Commands on routes: their settings, live releases, related releases, traces and samples."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from loradeck.cli.shared.deprecating import called_by
from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.files import checked, json_of, new_secret_file, rows_of, text_of, toml_of
from loradeck.cli.shared.gate_file import gate_settings
from loradeck.cli.shared.naming import Pointer, labels_of, on_pointer, release_named
from loradeck.cli.shared.once import by_urgency, pointers
from loradeck.cli.shared.options import break_glass_option, reason_option, yes_option
from loradeck.cli.shared.output import nearness, span, utc
from loradeck.cli.shared.progress import replicas
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client.api import HubApi
from loradeck.client.candidate_words import of_pairs
from loradeck.client.capacity_words import share
from loradeck.client.history import in_steps
from loradeck.client.traces import export, missing
from loradeck.rules.clocks import MINUTE_MS
from loradeck.rules.quality import figures
from loradeck.rules.quality.cause import whose
from loradeck.schemas.counts import HISTORY_HOURS
from loradeck.schemas.freshness import Replay, ReplayedDay
from loradeck.schemas.ids import GENESIS, short
from loradeck.schemas.incident import SHARED_WORDS
from loradeck.schemas.log import PointerState
from loradeck.schemas.route import Guard, RouteConfig
from loradeck.schemas.state import Preview, PreviewAction
from loradeck.schemas.table import Gap, RouteResidency, Streams
from loradeck.schemas.trace import SAMPLES

_STEPS = 18  # rows of a history

route = Noun("route")


@route.command("set")
@click.option("--file", type=click.Path(path_type=Path), help="TOML with the settings; the rest are defaults.")
@click.option("--placement", multiple=True, metavar="KEY=VALUE", help="Label a node must carry; may be repeated.")
@click.option("--pool", metavar="POOL", help="Pool in which the hub places it, in place of labels; '': none.")
@click.option("--replicas", type=int, help="Nodes of the pool that serve it.")
@click.option("--spread", metavar="LABEL", help="Label in which these nodes differ, such as zone.")
@click.option("--min-replicas", type=int, help="Proven replicas that make a generation attested.")
@click.option("--soak-seconds", type=float, help="Seconds that a release serves before R goes to it without asking.")
@click.option("--soak-requests", type=int, help="Requests that it answers before that.")
@click.option("--gate-suite", metavar="SUITE", help="Suite of the gate, by name or digest.")
@click.option("--min-exact", type=float, help="Gate: least share of exact answers, 0 to 1.")
@click.option("--min-valid", type=float, help="Gate: least share of valid answers, 0 to 1.")
@click.option("--max-drop", type=float, help="Gate: largest loss against the live release, 0 to 1.")
@click.option(
    "--bound-drop/--no-bound-drop",
    default=None,
    help="Gate: whether the 95 % bound of the loss must be under --max-drop, as a new gate asks, or only the loss.",
)
@click.option("--answer-schema", type=click.Path(path_type=Path), help="JSON Schema that live answers must satisfy.")
@click.option(
    "--promise-bad",
    type=float,
    help="Promised share of bad answers, 0 to 0.4; well above it a release is flagged. Default: what is usual.",
)
@click.option("--promise-errors", type=float, help="Promised share of failed requests, likewise.")
@click.option(
    "--promise-refusals",
    type=float,
    help="Promised share of requests that routers refuse, 0 to 0.4; above it for a minute pages. Default: 0.05.",
)
@click.option("--promise-ttft-ms", type=int, help="Milliseconds in which 95 % of streamed answers are to begin.")
@click.option("--promise-token-ms", type=int, help="Milliseconds between two tokens that 95 % of them keep on average.")
@click.option(
    "--promise-noticed",
    type=float,
    help="Promised share of answers that a check notices which makes none bad, 0 to 0.4; well above it reads DRIFT.",
)
@click.option(
    "--promise-judged",
    type=float,
    help="Promised share of a judge's verdicts that are FAIL, likewise. Default: that of --promise-noticed.",
)
@click.option(
    "--promise-corrected",
    type=float,
    help="Promised share of callers' feedback that corrects answers, 0 to 0.4; well above it reads DRIFT.",
)
@click.option("--guard", type=click.Choice([g.value for g in Guard]), help="What happens by itself to a bad release.")
@click.option("--gap", type=click.Choice([gap.value for gap in Gap]), help="What answers until a release is ready.")
@click.option(
    "--residency",
    type=click.Choice([residency.value for residency in RouteResidency]),
    help="Always: it and where R goes keep slots. On-demand: it shares them, and a move does not wait for its load. "
    "Default: what the route's first promote says.",
)
@click.option("--streams", type=click.Choice([streams.value for streams in Streams]), help="Answers under way.")
@click.option("--fallback/--no-fallback", default=None, help="Whether F may move the route to the base alone.")
@click.option("--refuse-after", "refuse_after_s", type=float, help="Seconds without a hub after which it refuses.")
@click.option(
    "--signer",
    "signers",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Public key (KEY.pub); adapters that none of these has signed are not served. May be repeated.",
)
@click.option(
    "--duties/--no-duties",
    default=None,
    help="Whether those who made, who reviewed and who promotes a release must be different people.",
)
@click.option("--tickets/--no-tickets", default=None, help="Whether moves carry change tickets; R never waits for one.")
@click.option(
    "--stakeholder",
    "stakeholders",
    multiple=True,
    help="Who has to read how a release's card differs from the live one's before it goes out; '' for nobody.",
)
@click.option("--standing-ticket", metavar="ID", help="Ticket under which the hub moves by itself.")
@click.option("--canary", "canaries", multiple=True, metavar="PROMPT", help="Fixed prompt; may be repeated.")
@reason_option()
@break_glass_option
@yes_option
@writes
@on_pointer
async def set_route(
    s: Session, at: Pointer, file: Path | None, reason: str, break_glass: str | None, yes: bool, **flags: Any
) -> None:
    """Set a route's settings, from a TOML file and flags; flags alone change the route as it is.

    With --guard hold or rollback the release beneath is asked a sample of the requests again for a day after a promote,
    on the same node; nobody gets its answers.
    """
    before = (await s.api.tenant(at.tenant)).routes.get(at.route)
    if file is not None:
        settings = await asyncio.to_thread(toml_of, file)
    else:
        settings = before.model_dump(mode="json") if before else {}
    await _put(s.api, at.tenant, settings, flags, before)
    config = checked(RouteConfig, settings, where=str(file or at), file=file)
    if before is not None and config != before:
        for line in _differences(before, config):
            s.out.say(f" {line}")
        s.confirm(f"Change these settings of {at}?", yes=yes or not s.interactive)
    kept = await replace_route(s, at, config, reason, break_glass)
    s.out.answer(kept, f"route {at} is set")


@route.command("ls")
@click.argument("tenant", metavar="[TENANT]", required=False)
@hub_command
async def ls(s: Session, tenant: str | None) -> None:
    """List every route's live release, its health and the target of R: the console's first screen."""
    state = await s.api.state()
    rows = by_urgency(row for row in state.tenants if tenant in (None, row.tenant))
    s.out.json(rows)
    pointers(s, rows, state.status.at_ms)


@route.command("show")
@click.option("--settings", is_flag=True, help="Show the route's settings instead.")
@hub_command
@on_pointer
async def show(s: Session, at: Pointer, settings: bool) -> None:
    """Show a route's live release and the target of R."""
    if settings:
        config = await route_of(s, at)
        s.out.json(config)
        for key, value in config.model_dump(mode="json").items():
            s.out.say(f"{key:15} {value}")
        return
    row = await s.api.row(at.tenant, at.route)
    s.out.json(row)
    live = f"{row.live.label} {short(row.live.id)} on {row.live.base_label}" if row.live else "nothing"
    s.out.heading(f"{at}  gen {row.pointer.generation}  {live}  {' '.join(row.flags)}".rstrip())
    s.out.say(f"R goes to   {_goes(row.preview)}")
    for skipped in row.preview.skipped:
        s.out.say(f"            skipped {skipped.release.label} {short(skipped.release.id)}: {skipped.reason}")
        if skipped.liftable:
            lift = f"loradeck lift {at.tenant} {at.route} {skipped.release.label} --reason ..."
            s.out.say(f"              if it was not at fault: {lift}")
    s.out.say(f"flipped     {row.flipped}/{row.placed}   proven {row.proven}/{row.placed}   listed {row.listed}")
    for source in row.sources:
        s.out.say(f"            {source.count} by {source.by}, the oldest {span(source.age_s)} ago from {source.node}")
    before, now = round((row.bad_before or 0) * row.bad_before_n), round((row.bad_now or 0) * row.bad_n)
    bad = f"{figures.share(before, row.bad_before_n)} > {figures.share(now, row.bad_n)}"
    s.out.say(f"bad         {bad}   {whose(row.cause.verdict, row.cause.who)}")
    labels = {view.id: view.label for view in await s.api.releases(at.tenant)} if row.pointer.quarantined else {}
    s.out.say(f"since       {utc(row.pointer.moved_ms)}   {_bound(row.pointer, labels)}")
    if row.slow:
        s.out.say(f"slow        {' and '.join(row.slow)} come later than promised")
    if row.drift:
        s.out.say(f"drift       more than usual: {', '.join(row.drift)}")
    if row.guard:
        s.out.say(f"guard       {row.guard}")
    if row.deprecated is not None:
        until = f" until {utc(row.deprecated.until_ms)}" if row.deprecated.until_ms is not None else ""
        s.out.say(f"deprecated  from {utc(row.deprecated.from_ms)}{until}: {row.deprecated.reason}")
        s.out.say(f"            called since by: {called_by(row.deprecated)}")
    if row.incident is not None:
        s.out.say(f"incident    {row.incident.id} since {utc(row.incident.opened_ms)}: {row.incident.title}")
    if row.again:
        counts = row.again.counts
        s.out.say(
            f"{'shadow' if row.candidate else 'beneath':<11} {row.again.release.label} was asked {counts.asked} again, "
            f"{counts.shed} shed: {of_pairs(row.again)}"
        )
    s.out.say(f"soak        {span(row.soak[0])}, {row.soak[1]} requests")
    replicas(s, row)


@route.command("company")
@hub_command
@on_pointer
async def company(s: Session, at: Pointer) -> None:
    """List other live releases that share a dataset, recipe, base move, batch or signer with this route's.

    One fault may be in all of them; FLAGS show the present state of each.
    """
    found = await s.api.related(at.tenant, at.route)
    s.out.json(found)
    s.out.table(
        ("TENANT/ROUTE", "LIVE", "SHARES", "BAD NOW", "FLAGS"),
        [
            (
                f"{one.tenant}/{one.route}",
                f"{one.live.label}/{one.live.base_label}",
                ", ".join(f"{SHARED_WORDS[tie.what]} {tie.name}" for tie in one.ties),
                figures.share(round((one.bad_now or 0) * one.bad_n), one.bad_n),
                " ".join(one.flags) or "fine",
            )
            for one in found.companions
        ],
        empty="no other live release shares its data, recipe, base move, batch or signer",
    )
    if found.total > len(found.companions):
        s.out.say(f"{len(found.companions)} of {found.total} are listed")


@route.command("history")
@click.option("--hours", type=click.IntRange(1, HISTORY_HOURS), default=3, show_default=True, help="How far back.")
@hub_command
@on_pointer
async def history(s: Session, at: Pointer, hours: int) -> None:
    """List a route's requests over the last hours, in steps.

    The hub keeps them by the minute for a week, and by the hour for 400 days (--hours 9600).
    """
    found = await s.api.route_history(at.tenant, at.route, minutes=min(60 * hours + 1, 60 * HISTORY_HOURS))
    s.out.json(found)
    s.out.table(
        ("FROM", "REQ/S", "REQUESTS", "FAILED", "REFUSED", "BAD"),
        [
            (
                utc(MINUTE_MS * step.since),
                f"{step.requests_per_s:.1f}",
                f"{step.counts.attempted:,}",
                share(step.counts.failed_share),
                share(step.counts.refused_share),
                figures.share(step.counts.bad, step.counts.checked),
            )
            for step in in_steps(found, _STEPS)
        ],
        empty="no minute is over yet",
    )


@route.command("traces")
@click.option("--left", is_flag=True, help="Only requests answered by the release that the last move left.")
@click.option("--release", "name", metavar="RELEASE", help="Only requests that this release answered.")
@click.option(
    "--last", type=click.IntRange(1, 20_000), default=200, show_default=True, help="Most requests of each router."
)
@click.option("--out", type=click.Path(path_type=Path), help="A new file for the request ids.")
@hub_command
@on_pointer
async def traces(s: Session, at: Pointer, left: bool, name: str | None, last: int, out: Path | None) -> None:
    """List a route's newest requests, and the release that answered each.

    Routers keep their newest requests only, in memory; the last lines name what may be missing.
    """
    if left and name:
        raise misused("two releases are named at once", where="--left and --release", fix="give one of them")
    views = {view.id: view for view in await s.api.releases(at.tenant)}
    wanted = (await release_named(s.api, at.tenant, name)).id if name else None
    if left:
        event = (await s.api.row(at.tenant, at.route)).last_event
        wanted = event.left if event is not None else None
        if wanted is None:
            raise misused(f"{at} has left no release", fix=f"loradeck event ls {at.tenant}")
    found = await s.api.traces(at.tenant, at.route, release=wanted, last=last)
    if out is not None:
        label = views[wanted].label if wanted in views else short(wanted)
        await asyncio.to_thread(_write, out, export(found, label))
        s.out.say(f"{len(found.rows)} request ids in {out}")
    s.out.json(found)
    if out is None:
        s.out.table(
            ("ADMITTED", "RELEASE", "GEN", "REPLICA", "STATUS", "MS", "CHECKED", "REQUEST"),
            [
                (
                    utc(row.admitted_ms),
                    views[row.release].label if row.release in views else short(row.release),
                    str(row.generation),
                    row.replica,
                    str(row.status),
                    str(row.finished_ms - row.admitted_ms),
                    "bad" if row.bad else "ok" if row.checked else "-",
                    row.request,
                )
                for row in found.rows
            ],
            empty="no request in any router's trace",
        )
    for reason in missing(found):
        s.out.say(f"not all: {reason}")


@route.command("replay")
@click.option(
    "--file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True, help="One JSON object a day."
)
@click.option("--release", "name", metavar="RELEASE", help="Whose answers they were.  [default: the live one]")
@reason_option(required=True)
@writes
@on_pointer
async def replay(s: Session, at: Pointer, file: Path, name: str | None, reason: str) -> None:
    """Import days that Loradeck did not count itself, for the freshness meters.

    They are called replayed wherever they count. A row has `day` (2026-11-02), `"replayed": true`, and perhaps
    `attempted`, `refused`, `checked`, `bad`, `said` (callers who said anything) and `corrected` (those of them who
    corrected an answer). The newest import of a release counts, with its days before it became live here.
    """
    release = (await release_named(s.api, at.tenant, name)).id if name else None
    release = release or (await s.api.row(at.tenant, at.route)).pointer.release
    rows = list(rows_of(file, ("day", "replayed")))
    if release is None:
        raise refused(
            f"{at} has no live release", fix="name whose answers they were: --release", code="unknown_release"
        )
    replayed = [checked(ReplayedDay, row, where=f"{file}, row {n}") for n, row in enumerate(rows, start=1)]
    days = checked(Replay, {"release": release, "reason": reason, "days": replayed}, where=str(file))
    kept = await s.api.replay(at.tenant, at.route, days)
    s.out.answer(kept, f"{len(rows)} replayed days of {short(release)} on {at}")


@route.command("samples")
@click.option("--release", "name", metavar="RELEASE", help="Only answers of this release.")
@click.option(
    "--last", type=click.IntRange(1, SAMPLES), default=SAMPLES, show_default=True, help="Most samples of each node."
)
@hub_command
@on_pointer
async def samples(s: Session, at: Pointer, name: str | None, last: int) -> None:
    """Read samples of bad answers with their questions, from the nodes that keep them.

    Nodes keep them where the tenant agrees to it (`loradeck tenant data --sample-hours`), and replace what has the form
    of personal data or of a key. It takes the role releaser, and each reading stands in the audit trail.
    """
    views = {view.id: view for view in await s.api.releases(at.tenant)}
    wanted = (await release_named(s.api, at.tenant, name)).id if name else None
    found = await s.api.samples(at.tenant, at.route, release=wanted, last=last)
    silent = [f"{node.node}: {node.why}" for node in found.nodes if node.why]
    if not found.rows and silent:
        raise refused(
            "no node could be asked for its samples",
            where="; ".join(silent),
            fix="ask again once a node of the route answers",
            code="unanswered",
        )
    s.out.json(found)
    for row in found.rows:
        label = views[row.release].label if row.release in views else short(row.release)
        s.out.heading(f"{utc(row.at_ms)}   {label}   {row.fault}   {row.node}   {row.request}")
        for what, text in (("asked", row.question), ("answered", row.answer)):
            for line in text.splitlines() or [""]:
                s.out.say(f"  {what:<9}| {line}")
    if not found.rows:
        s.out.say(f"no samples of {at}: no answer that is kept failed a check in the last {found.hours} hours")
    for why in silent:
        s.out.say(f"not all: {why}")


async def route_of(s: Session, at: Pointer) -> RouteConfig:
    """The settings of a route. Raises: CliError: the tenant has none of this name."""
    config = (await s.api.tenant(at.tenant)).routes.get(at.route)
    if config is None:
        raise misused(f"{at.tenant} has no route {at.route!r}", fix=f"loradeck tenant show {at.tenant}")
    return config


async def replace_route(
    s: Session, at: Pointer, config: RouteConfig, reason: str, break_glass: str | None
) -> RouteConfig:
    """Replaces a route's settings. A broken glass has a reason of its own, which counts."""
    broken = break_glass is not None
    return await s.api.set_route(at.tenant, at.route, config, break_glass or reason, break_glass=broken)


def _write(path: Path, text: str) -> None:
    with new_secret_file(path) as write:
        write(text.rstrip("\n"))


def _goes(preview: Preview) -> str:
    if preview.action is PreviewAction.CANCEL_PREPARE:
        return f"nowhere: it cancels the pending promote, job {preview.prepare}"
    target = preview.target
    if preview.action is not PreviewAction.ROLLBACK or target is None:
        return f"none: {preview.refused or 'no release to go back to'}"
    asks = f"   asks: {preview.asks}" if preview.asks else ""
    return f"{target.label} {short(target.id)} on {target.base_label}   {nearness(preview)}{asks}"


async def _put(
    api: HubApi, tenant: str, settings: dict[str, Any], flags: dict[str, Any], before: RouteConfig | None
) -> None:
    """Puts the flags into the settings, replaces the name of the gate's suite by its digest, and completes the gate.

    Raises: CliError: a flag is wrong, or the suite is unknown.
    """

    def into(table: str, key: str, value: Any) -> None:
        if value is not None:
            inner = settings.get(table)
            settings[table] = {**(inner if isinstance(inner, dict) else {}), key: value}

    if flags["placement"]:
        settings["placement"] = labels_of(flags["placement"])
        settings.pop("pool", None)
    if flags["pool"] == "":
        settings.pop("pool", None)
    elif flags["pool"] is not None:
        into("pool", "pool", flags["pool"])
        settings["placement"] = {}
    into("pool", "replicas", flags["replicas"])
    into("pool", "spread", flags["spread"])
    for key in ("min_replicas", "guard", "gap", "residency", "streams", "fallback", "refuse_after_s"):
        if flags[key] is not None:
            settings[key] = flags[key]
    if flags["canaries"]:
        settings["canaries"] = [[{"role": "user", "content": prompt}] for prompt in flags["canaries"]]
    if flags["signers"]:
        settings["signers"] = [(await asyncio.to_thread(text_of, path)).strip() for path in flags["signers"]]
    for key in ("duties", "tickets", "standing_ticket"):
        into("controls", key, flags[key])
    if flags["stakeholders"]:
        into("controls", "stakeholders", [who for who in flags["stakeholders"] if who])
    into("gate", "suite", flags["gate_suite"])
    for key in ("min_exact", "min_valid", "max_drop", "bound_drop"):
        into("gate", key, flags[key])
    for prefix, table in (("soak_", "soak"), ("promise_", "objectives")):
        for flag in flags:
            if flag.startswith(prefix):
                into(table, flag.removeprefix(prefix), flags[flag])
    if flags["answer_schema"] is not None:
        await asyncio.to_thread(json_of, flags["answer_schema"])
        into("checks", "answer_schema", await asyncio.to_thread(text_of, flags["answer_schema"]))
    checks = settings.get("checks")
    judge = checks.get("judge") if isinstance(checks, dict) else None
    if isinstance(judge, dict) and isinstance(name := judge.get("release"), str) and len(name) < len(GENESIS):
        judge["release"] = (await release_named(api, tenant, name)).id
    if isinstance(settings.get("gate"), dict):
        settings["gate"] = await gate_settings(api, tenant, settings["gate"], before.gate if before else None)


def _differences(before: RouteConfig, after: RouteConfig) -> list[str]:
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    fields = RouteConfig.model_fields  # one that is as by default may not be in the dump
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in fields if old.get(key) != new.get(key)]


def _bound(state: PointerState, labels: Mapping[str, str]) -> str:
    words = ["HELD"] if state.held else []
    words += [f"quarantined {labels.get(entry.release, '-')} {short(entry.release)}" for entry in state.quarantined]
    return "   ".join(words) or "not held, nothing quarantined"
