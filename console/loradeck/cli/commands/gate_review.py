"""`loradeck gate review`: a person judges sampled answers of a candidate and signs the verdicts."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import click

from loradeck.cli.shared.exits import Exit, misused
from loradeck.cli.shared.files import checked, rows_of
from loradeck.cli.shared.naming import pointer_and_release, release_named
from loradeck.cli.shared.output import Output, utc
from loradeck.cli.shared.session import Session, writes
from loradeck.client.terminal_text import clean
from loradeck.schemas.review import Review, ReviewedItem, ReviewSheet, SampledItem


@click.command()
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
    for one in sheet.signed:
        s.out.say(
            f"  {utc(one.at_ms)}  {one.by}: {one.bad} of {one.n} bad{'' if one.current else ', of other answers'}"
        )
    if show:
        s.out.json(sheet)
        for number, item in enumerate(sheet.items, start=1):
            _print_item(s.out, number, len(sheet.items), item)
        return
    if verdicts is not None:
        judged = await asyncio.to_thread(_read, verdicts)
    elif s.interactive:
        judged = _ask(s.out, sheet)
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
    s.out.say(f"signed: {bad} of {len(judged)} bad")
    for check in result.checks if result is not None else ():
        if check.name == "review":
            s.out.say(f"  {'passed' if check.passed else 'FAILED'}  review: {check.note}")


def _print_item(out: Output, number: int, of: int, item: SampledItem) -> None:
    out.say("")
    out.heading(f"{number} of {of}  {item.id}{'' if item.exact else '   (scored as wrong)'}")
    for message in item.prompt:
        out.say(f"  {message.get('role', '?'):9} {message.get('content', '')}")
    out.say(f"  wanted    {item.wanted}")
    out.say(f"  answered  {item.answer}")


def _ask(out: Output, sheet: ReviewSheet) -> tuple[ReviewedItem, ...]:
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
