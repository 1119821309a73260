"""Commands on a route's gate: its settings, its freeze windows, and the results of candidates."""

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path

import click

from loradeck.cli.commands.route import replace_route, route_of
from loradeck.cli.shared import model_card as cards
from loradeck.cli.shared.exits import Exit, misused, refused
from loradeck.cli.shared.files import checked, rows_of, toml_of
from loradeck.cli.shared.gate_file import freeze_of, gate_settings
from loradeck.cli.shared.naming import Pointer, moment, on_pointer, pointer_and_release, release_named
from loradeck.cli.shared.options import break_glass_option, reason_option, yes_option
from loradeck.cli.shared.output import Output, utc
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client.terminal_text import clean
from loradeck.rules.quality.figures import share
from loradeck.rules.quality.review import in_words
from loradeck.schemas.attestation import Acknowledgement, Attestation, AttestationKind, GateResult
from loradeck.schemas.gate import GateConfig, SuiteGate
from loradeck.schemas.ids import digest_of, short
from loradeck.schemas.review import DRAWN, Drawn, Review, ReviewedItem, ReviewSheet, SampledItem
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.state import ReleaseView

gate = Noun("gate")


@gate.command("set")
@click.option("--file", type=click.Path(path_type=Path), required=True, help="TOML with the gate, whole.")
@reason_option()
@break_glass_option
@yes_option
@writes
@on_pointer
async def set_gate(s: Session, at: Pointer, file: Path, reason: str, break_glass: str | None, yes: bool) -> None:
    """Set a route's gate, and freeze windows if the file has any, from TOML; other settings stay."""
    before = (await s.api.tenant(at.tenant)).routes.get(at.route) or RouteConfig()
    settings = await asyncio.to_thread(toml_of, file)
    freeze = freeze_of(settings.pop("freeze")) if "freeze" in settings else before.freeze
    named = await gate_settings(s.api, at.tenant, settings, before.gate)
    fix = "correct it; docs/gates.md shows the file of a gate, which has no table [gate]"
    gate = checked(GateConfig, named, where=str(file), file=file, fix=fix)
    config = before.model_copy(update={"gate": gate, "freeze": freeze})
    if before.gate is not None and config != before:
        s.confirm(f"Change the gate of {at}?", yes=yes or not s.interactive)
    kept = await replace_route(s, at, config, reason, break_glass)
    s.out.answer(kept, f"the gate of {at} is set")


@gate.command("anchor")
@click.argument("words", nargs=-1, metavar="TENANT [ROUTE] RELEASE")
@reason_option()
@break_glass_option
@writes
async def move_anchor(s: Session, /, words: tuple[str, ...], reason: str, break_glass: str | None) -> None:
    """Compare candidates with another fixed release from now on. Two people ask for it, each with a reason."""
    at, name = pointer_and_release(words)
    before, anchor = await route_of(s, at), await release_named(s.api, at.tenant, name)
    gate = _gate_of(at, before).model_copy(update={"anchor": anchor.id})
    kept = await replace_route(s, at, before.model_copy(update={"gate": gate}), reason, break_glass)
    s.out.answer(kept, f"candidates of {at} are compared with {anchor.label}, too")


@gate.command("freeze")
@click.option("--from", "start", metavar="TIME", required=True, help="With a zone: 2026-12-24T18:00Z, 18:00+01:00.")
@click.option("--until", "end", metavar="TIME", required=True, help="With a zone.")
@writes
@on_pointer
async def freeze_route(s: Session, at: Pointer, start: str, end: str) -> None:
    """Freeze a route: nothing is promoted on it for a time. R, undo and rewind still work."""
    window = (moment(start, interactive=False, ahead=True), moment(end, interactive=False, ahead=True))
    if window[0] >= window[1]:
        raise misused(
            "the window ends before it begins", where=f"{utc(window[0])} to {utc(window[1])}", fix="give dates, too"
        )
    before = await route_of(s, at)
    frozen = before.model_copy(update={"freeze": tuple(sorted({*before.freeze, window}))})
    kept = await s.api.set_route(at.tenant, at.route, frozen)
    s.out.answer(kept, f"nothing is promoted on {at} from {utc(window[0])} to {utc(window[1])}")


@gate.command("thaw")
@writes
@on_pointer
async def thaw_route(s: Session, at: Pointer) -> None:
    """End a route's freeze windows, future ones included."""
    before = await route_of(s, at)
    if not before.freeze:
        raise misused(f"{at} has no freeze window", fix=f"loradeck gate show {at.tenant} {at.route}", code="no_change")
    kept = await s.api.set_route(at.tenant, at.route, before.model_copy(update={"freeze": ()}))
    s.out.answer(kept, f"{at} has no freeze window any more")


@gate.command("show")
@click.option("--release", metavar="RELEASE", help="This candidate's newest result, instead of the newest of all.")
@hub_command
@on_pointer
async def show(s: Session, at: Pointer, release: str | None) -> None:
    """Show a route's gate, and its newest result with all figures."""
    config = await route_of(s, at)
    gate = _gate_of(at, config)
    subject = (await release_named(s.api, at.tenant, release)).id if release else None
    found = await s.api.attestations(kind=AttestationKind.GATE, subject=subject, tenant=at.tenant, route=at.route)
    newest = found[-1] if found else None
    s.out.json({"gate": gate.model_dump(mode="json"), "result": newest and newest.model_dump(mode="json")})
    suites = {entry.digest: entry.manifest.name for entry in await s.api.suites()}
    s.out.heading(f"{at}  gate")
    for part in gate.suites:
        s.out.say(f"  {suites.get(part.suite, short(part.suite))} {short(part.suite)}: {_asks(part)}")
    names = {view.id: f"{view.label}/{view.base_label}" for view in await s.api.releases(at.tenant)}
    if gate.max_age_days:
        s.out.say(f"  evaluations of the last {gate.max_age_days} days")
    if gate.is_anchored:
        first = "the first release that is attested here"
        anchor = gate.anchor
        s.out.say(f"  anchor {names.get(anchor, short(anchor)) if anchor else first}")
    if gate.after is not None:
        s.out.say(f"  attested on {gate.after} first")
    if gate.leak is not None:
        most = f"{gate.leak.max_increase:.1%}"
        s.out.say(f"  rows of its datasets that it reproduces: surely under {most} more than its base does")
    if (by := gate.judge) is not None:
        who = by.address or names.get(by.release or "", short(by.release))
        s.out.say(
            f"  judged by {who} on {suites.get(by.suite, short(by.suite))}, where it agrees with people: "
            f"at least {by.min_passed:.1%} passed, surely under {by.max_drop:.1%} of pairs lost at equal length"
        )
    if (ab := gate.compare) is not None:
        where = f" on {ab.route}" if ab.route is not None else ""
        s.out.say(
            f"  A/B of {ab.figure.value}{where}: upper end under {100 * ab.margin:g} points, {ab.keys} keys in each arm"
        )
    if (asked := gate.review) is not None:
        s.out.say(f"  review of {asked.items} answers, at most {asked.max_bad} bad, signed by {asked.people}")
    for start, end in config.freeze:
        s.out.say(f"  frozen from {utc(start)} to {utc(end)}")
    if newest is None:
        s.out.say("no result yet; loradeck job evaluate TENANT RELEASE --suite SUITE")
        return
    _result(s, newest, names, suites)


@gate.command("ls")
@click.argument("tenant", required=False)
@click.option("--route", help="Only results of this route.")
@hub_command
async def ls(s: Session, tenant: str | None, route: str | None) -> None:
    """List gate results, oldest first: each candidate against the release that was live then."""
    found = await s.api.attestations(kind=AttestationKind.GATE, tenant=tenant, route=route)
    s.out.json(found)
    names = {view.id: f"{view.label}/{view.base_label}" for view in await s.api.releases()}
    results = [(one, GateResult.model_validate(one.body)) for one in found]
    s.out.table(
        ("TIME", "POINTER", "CANDIDATE", "AGAINST", "RESULT", "CHECKS"),
        [
            (
                utc(one.at_ms),
                f"{one.tenant}/{one.route}",
                names.get(result.release, short(result.release)),
                names.get(result.against or "", short(result.against)),
                "passed" if result.passed else "FAILED",
                ", ".join(
                    f"{check.name} {check.measured} {'ok' if check.passed else 'FAILED'}, {check.asked}"
                    for check in result.checks
                ),
            )
            for one, result in results
        ],
        empty="no gate results; loradeck job evaluate TENANT RELEASE --suite SUITE",
    )


@gate.command()
@click.argument("words", nargs=-1, metavar="TENANT [ROUTE] RELEASE")
@yes_option
@writes
async def acknowledge(s: Session, /, words: tuple[str, ...], yes: bool) -> None:
    """Read how a release's card and its data differ from the live release's, and sign that you have.

    A route with stakeholders (`loradeck route set --stakeholder WHO`) promotes it once all of them have.
    """
    at, name = pointer_and_release(words)
    release = await release_named(s.api, at.tenant, name)
    live, shown = await _differences(s, at, release)
    cards.print_differences(s.out, shown)
    s.confirm(f"Have you read how {release.label} differs from what is live on {at}?", yes=yes)
    if not yes and (live, shown) != await _differences(s, at, release):
        raise refused("the cards have changed while you were reading", fix="read them again", code="card_changed")
    body = Acknowledgement(against=live, differences=digest_of({"differences": shown}))
    stated = Attestation.of(AttestationKind.ACKNOWLEDGED, release.id, at.tenant, body, at.route)
    done = await s.api.sign(stated)
    s.out.answer(done, f"{done.by} has read how {release.label} differs, in {len(shown)} lines")


async def _differences(s: Session, at: Pointer, release: ReleaseView) -> tuple[str | None, list[tuple[str, str, str]]]:
    """The live release of a pointer, and how a release's card differs from its card; of none, the whole card."""
    live = (await s.api.row(at.tenant, at.route)).pointer.release
    known = await cards.record_of_release(s.api, at.tenant, release)
    if live is None:
        return None, [(f"{fact.section}: {fact.key}", "-", fact.value) for fact in cards.facts(known)]
    before = await cards.record_of_release(s.api, at.tenant, await release_named(s.api, at.tenant, live))
    return live, cards.differences(before, known)


@gate.command()
@click.argument("words", nargs=-1, metavar="TENANT [ROUTE] RELEASE")
@click.option("--show", is_flag=True, help="Only show the answers, and who has signed.")
@click.option(
    "--verdicts", type=click.Path(path_type=Path), help='JSONL of {"id", "good", "note"} instead of being asked.'
)
@click.option("--note", default="", help="Note that is kept with the verdicts.")
@writes
async def review(s: Session, /, words: tuple[str, ...], show: bool, verdicts: Path | None, note: str) -> None:
    """Judge the sampled answers of a candidate one by one, and sign the verdicts with your name."""
    at, name = pointer_and_release(words)
    release = await release_named(s.api, at.tenant, name)
    sheet = await s.api.review_sheet(at.tenant, at.route, release.id)
    s.out.heading(
        f"{at}  {release.label}: {len(sheet.items)} answers to look at; {sheet.people} must sign, at most "
        f"{sheet.max_bad} bad"
    )
    s.out.say("  drawn: " + "; ".join(f"{k} of {n} {DRAWN[why]}" for why, (k, n) in sheet.drawn.items()))
    for one in sheet.signed:
        s.out.say(f"  {utc(one.at_ms)}  {one.by}: {in_words(one)}")
    if show:
        s.out.json(sheet)
        for number, item in enumerate(sheet.items, start=1):
            _print_item(s.out, number, len(sheet.items), item)
        return
    if verdicts is not None:
        judged = await asyncio.to_thread(_read, verdicts)
    elif s.interactive:
        judged = _judge(s.out, sheet)
    else:
        raise misused(
            "somebody must look at the answers, and there is nobody to ask",
            fix="run it in a terminal, or look with --show and give --verdicts FILE",
            code="not_confirmed",
        )
    fields = {"release": sheet.release, "suite": sheet.suite, "answers": sheet.answers, "items": judged, "note": note}
    result = await s.api.sign_review(at.tenant, at.route, checked(Review, fields, where="review"))
    s.out.json(result.model_dump(mode="json") if result is not None else {"passed": None})
    bad = sum(not item.good for item in judged)
    lot = {item.id for item in sheet.items if item.drawn is Drawn.LOT}
    by_lot = share(sum(item.id in lot and not item.good for item in judged), len(lot))
    s.out.say(f"signed: {bad} of {len(judged)} bad; of those by lot {by_lot}")
    for check in result.checks if result is not None else ():
        if check.name == "review":
            s.out.say(f"  {'passed' if check.passed else 'FAILED'}  review: {check.note}")


def _print_item(out: Output, number: int, of: int, item: SampledItem) -> None:
    out.say("")
    out.heading(f"{number} of {of}  {item.id}{'' if item.exact else '   (scored as wrong)'}   ({DRAWN[item.drawn]})")
    for message in item.prompt:
        out.say(f"  {message.get('role', '?'):9} {message.get('content', '')}")
    out.say(f"  wanted    {item.wanted}")
    out.say(f"  answered  {item.answer}")


def _judge(out: Output, sheet: ReviewSheet) -> tuple[ReviewedItem, ...]:
    """Asks for a verdict on each answer. Ctrl-C or q exits, and nothing was signed."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    judged = []
    try:
        for number, item in enumerate(sheet.items, start=1):
            _print_item(out, number, len(sheet.items), item)
            word = click.prompt("good? y, n, q to leave", type=click.Choice(["y", "n", "q"]), err=True)
            if word == "q":
                click.echo("nothing was signed", err=True)
                raise click.exceptions.Exit(Exit.REFUSED)
            why = click.prompt("what is wrong", default="", show_default=False, err=True) if word == "n" else ""
            judged.append(ReviewedItem(id=item.id, good=word == "y", note=clean(why)))
    finally:
        signal.signal(signal.SIGINT, before)
    return tuple(judged)


def _read(path: Path) -> tuple[ReviewedItem, ...]:
    return tuple(checked(ReviewedItem, row, where=str(path)) for row in rows_of(path, ("id",)))


def _gate_of(at: Pointer, config: RouteConfig) -> GateConfig:
    if config.gate is None:
        raise misused(f"{at} has no gate", fix=f"loradeck gate set {at.tenant} {at.route} --file FILE", code="no_gate")
    return config.gate


def _asks(part: SuiteGate) -> str:
    sure = " (exact 95 % lower bound)" if part.bound else ""
    asks = [f"exact at least {part.min_exact:.1%}{sure}", f"valid at least {part.min_valid:.1%}"]
    asks += [f"choices by {part.choice}"] if part.choice != "acc" else []
    if part.max_drop < 1:
        asks.append(f"drop {'surely under' if part.bound_drop else 'at most'} {part.max_drop:.1%}")
    if part.min_slice is not None:
        asks.append(f"no slice of {part.min_slice} items or more seen to lose as much")
    if part.canaries:
        asks.append("every canary")
    if part.max_p95_ms is not None:
        asks.append(f"p95 at most {part.max_p95_ms:g} ms")
    return ", ".join(asks)


def _result(s: Session, newest: Attestation, names: Mapping[str, str], suites: Mapping[str, str]) -> None:
    result = GateResult.model_validate(newest.body)
    against = f" against {names.get(result.against, short(result.against))}" if result.against else ""
    against += f" and the anchor {names.get(result.anchor, short(result.anchor))}" if result.anchor else ""
    outcome = "passed" if result.passed else "FAILED"
    s.out.heading(f"{names.get(result.release, short(result.release))}{against}  {outcome}  {utc(newest.at_ms)}")
    if result.looks is not None:
        s.out.say(f"  {result.looks} different releases were evaluated on its suite by then")
    for check in result.checks:
        verdict = f"  {'passed' if check.passed else 'FAILED'} "
        if check.unit in ("people", "stage"):
            s.out.say(f"{verdict} {check.name}: {check.note}")
            continue
        where = suites.get(check.suite or "", "")
        s.out.say(f"{verdict} {where} {check.name}: {check.measured}, {check.asked}")
        if check.lost is not None and check.p is not None and not check.name.startswith("slices"):
            seen = "no drop" if check.visible is None else f"a drop of {check.in_unit(check.visible)} or more"
            s.out.say(f"          {check.lost} lost, {check.won} won, p {check.p:.3f}; these items see {seen}")
        if check.tries:
            s.out.say(f"          {check.tries}, since {names.get(result.against or '', 'the live release')} is live")
        if check.note:
            s.out.say(f"          {check.note}")
