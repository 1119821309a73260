"""Commands on datasets: register, list, and erase rows."""

import asyncio
import json
import tempfile
from pathlib import Path
from secrets import token_hex
from typing import Any

import click

from loradeck.artifacts.rows import row_formats
from loradeck.artifacts.rows.name_search import TEXTS, NameSearch
from loradeck.artifacts.rows.personal_data import ADDRESS, BIRTH, ILLNESS, Span
from loradeck.artifacts.rows.pseudonyms import Pseudonyms
from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.files import checked, name_models, new_secret_file, rows_of, write_new
from loradeck.cli.shared.options import (
    dry_run_option,
    expected_errors,
    json_option,
    reason_option,
    wants_json,
    yes_option,
)
from loradeck.cli.shared.output import Output
from loradeck.cli.shared.registered_rows import accept_option, provenance_of, provenance_options, register
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.schemas.backlog import SOURCE
from loradeck.schemas.dataset_ledger import ErasurePlan, ErasureRequest, WeightsPlace
from loradeck.schemas.ids import short

dataset = Noun("dataset")


@dataset.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tenant", required=True, help="Tenant that owns it.")
@click.option("--name", required=True, help="Its name; one name may have many digests.")
@click.option("--split", default="train", show_default=True, help="Which split of a folder.")
@accept_option
@provenance_options
@writes
async def add(
    s: Session, /, file: Path, tenant: str, name: str, split: str, accept: str, sidecar: Path | None, **given: Any
) -> None:
    """Register rows {"prompt", "answer"}, {"messages"} or {"prompt", "chosen", "rejected"}, one JSON object a line.

    Rows of ShareGPT, Alpaca or {"prompt", "completion"}, in JSONL, JSON, parquet or a folder of the datasets library,
    are written anew as these (docs/data.md).

    The hub reads every row for the dataset ledger and looks for personal data and secrets of a known form. This machine
    looks for near-duplicate rows, and for rows that hold items of the tenant's suites.
    """
    provenance = provenance_of(file, sidecar, given)
    with tempfile.TemporaryDirectory(prefix="loradeck-") as folder:
        rows = await asyncio.to_thread(_as_ours, file, split, Path(folder))
        if rows != file:
            s.out.say(f" rows of another format are registered as {rows.name}")
        s.out.json(await register(s, rows, tenant, name, provenance, accept))


@dataset.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--tenant", required=True, help="Tenant whose pseudonyms these are.")
@click.option("--key", "key_file", required=True, type=click.Path(path_type=Path), help="File of the key, mode 0600.")
@click.option("--new-key", is_flag=True, help="Make the key first.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New file for the rows.")
@click.option("--keep", multiple=True, type=click.Choice([ILLNESS, ADDRESS, BIRTH]), help="Leave these as they are.")
@click.option("--names", type=click.Path(path_type=Path), help="TOML file of models that look for names.")
@json_option
@click.pass_context
def redact(
    ctx: click.Context,
    file: Path,
    tenant: str,
    key_file: Path,
    new_key: bool,
    out: Path,
    keep: tuple[str, ...],
    names: Path | None,
) -> None:
    """Write rows anew, with a pseudonym for each illness and each thing that has the form of personal data or of a key.

    The same thing has the same pseudonym in all rows and files of a tenant, as long as the key is the same. What has
    no form stays, and names without --names (docs/data.md: how much is found, by language). No hub is asked.
    """
    with expected_errors(as_json=wants_json(ctx)):
        if new_key:
            with new_secret_file(key_file) as write:
                write(token_hex(32))
        pseudonyms = Pseudonyms(_key(key_file), tenant, frozenset(keep))
        given, left = list(rows_of(file, ())), ["names"]
        where: list[dict[str, list[Span]]] = [{} for _ in given]
        if names is not None:
            with NameSearch(name_models(names)) as search:
                for at in range(0, len(given), TEXTS):
                    some = [{**row, "provenance": None} for row in given[at : at + TEXTS]]
                    where[at : at + TEXTS] = search.in_rows(some)
                left = search.not_looked_for()
        both = zip(given, where, strict=True)
        rows = [json.dumps(pseudonyms.row(row, found), ensure_ascii=False) for row, found in both]
        write_new(out, "".join(f"{row}\n" for row in rows))
        said = Output(as_json=wants_json(ctx))
        said.json({"rows": len(rows), "replaced": pseudonyms.made, "not_looked_for": left, "file": str(out)})
        made = ", ".join(f"{count} {kind}" for kind, count in sorted(pseudonyms.made.items())) or "nothing"
        said.say(f"{out}: {len(rows):,} rows; replaced: {made}")
        if left:
            said.say(f"not looked for: {', '.join(left)}")


def _key(file: Path) -> bytes:
    """Reads a key of pseudonyms. Raises: CliError: it is not there, is none, or others may read it."""
    try:
        key, mode = bytes.fromhex(file.read_text("ascii")), file.stat().st_mode
    except (OSError, ValueError):
        raise misused("the file holds no key", where=str(file), fix="--new-key makes one") from None
    if mode & 0o077:
        fix = f"chmod 600 {file}, or make a new one"
        raise misused("others may read the key", where=str(file), fix=fix, code="key_exposed")
    if len(key) < 32:
        raise misused("the key is too short", where=str(file), fix="--new-key makes one")
    return key


@dataset.command("ls")
@click.option("--tenant", help="Only this tenant's.")
@hub_command
async def ls(s: Session, tenant: str | None) -> None:
    """List datasets."""
    s.out.listed(
        [e for e in await s.api.datasets() if tenant in (None, e.manifest.tenant)],
        ("DATASET", "DIGEST", "ROWS", "ORIGIN", "QUALITY", "CONSENT", "LICENCE", "PURPOSE"),
        lambda e: (
            f"{e.manifest.tenant}/{e.manifest.name}",
            e.digest[:12],
            e.manifest.rows,
            e.manifest.provenance.origin.value,
            e.manifest.provenance.quality or "-",
            e.manifest.provenance.consent,
            e.manifest.provenance.licence_class,
            " ".join(e.manifest.provenance.purpose),
        ),
        empty="no datasets; loradeck dataset add FILE.jsonl",
    )


@dataset.command()
@click.argument("rows", metavar="[ROW]...", nargs=-1)
@click.option(
    "--containing",
    metavar="TEXT",
    help="Rows that contain a text, in any case, with any accents. It is not stored.",
)
@click.option("--near", is_flag=True, help="Erase what is nearly the same as such a row, too; else it is listed.")
@click.option(
    "--tenant",
    "tenants",
    multiple=True,
    help="Only this tenant's datasets; may be repeated. The same rows at others are named and refused there.",
)
@click.option("--retire", is_flag=True, help="Revoke the releases that descend from them too: R steps over those.")
@dry_run_option
@reason_option()
@yes_option
@writes
async def erase(s: Session, /, dry_run: bool, reason: str, yes: bool, **which: Any) -> None:
    """Erase rows, by their digests or by a text: nothing that descends from them is promoted any more.

    All descendants are listed first: datasets, runs, adapters, releases, tenants, and the pointers that serve one or
    lose the target of R.
    """
    request = checked(ErasureRequest, {**which, "reason": reason}, where="arguments")
    plan = await s.api.plan_erasure(request)
    show_erasure(s, plan)
    if dry_run:
        s.out.json(plan)
        return
    if not plan.rows:
        raise refused("no dataset has such a row", fix="loradeck dataset erase --containing TEXT", code="unknown_row")
    if not reason:
        raise misused("an erasure needs a reason", fix="--reason, with the request it answers", code="reason_required")
    losing = sum(pointer.loses_way_back for pointer in plan.pointers)
    warning = f" {losing} pointers lose their way back." if losing else ""
    s.confirm(f"Erase {len(plan.rows)} rows, for ever?{warning}", yes=yes)
    built = {
        one.digest: one.manifest.tenant for one in await s.api.datasets() if one.manifest.provenance.source == SOURCE
    }
    named = {"containing": None, "near": False, "rows": plan.rows, "plan": plan.digest}
    done = await s.api.erase(request.model_copy(update=named))
    s.out.json(done)
    s.out.say(f"erased: {len(done.rows)} rows of {len(done.datasets)} datasets, which are not trained on any more")
    for tenant in sorted({built[one.id] for one in done.datasets if one.id in built}):
        s.out.alarm(f" the feedback that rows were made of stays: loradeck feedback erase {tenant} --request ID")
    for pointer in done.pointers:
        if pointer.live is not None:
            s.out.alarm(f" {pointer.tenant}/{pointer.route} still serves {pointer.live}: loradeck rollback or fallback")


def show_erasure(s: Session, plan: ErasurePlan) -> None:
    """Prints what descends from rows, and what an erasure of them would do."""
    s.out.heading(f"{len(plan.rows)} rows in {len(plan.datasets)} datasets; plan {short(plan.digest)}")
    names = {one.id: one.label for one in plan.datasets}
    s.out.table(
        ("ROW", "DATASET", "WHERE"),
        [(place.row[:12], f"{names[place.dataset]} {short(place.dataset)}", place.where) for place in plan.places],
        empty="no such row",
    )
    for like in plan.alike:
        s.out.alarm(f" nearly the same, and stays: {like.row[:12]}  {short(like.dataset)} {like.where} (--near)")
    for what, found in (
        ("written by one of these releases, or made of such judgements", plan.written),
        ("run", plan.runs),
        ("base", plan.bases),
        ("adapter", plan.adapters),
        ("retired" if plan.retire else "release", plan.releases),
    ):
        for one in found:
            s.out.say(f" {what}: {one.label}  {one.id[:12]}")
    for job in plan.cancelled:
        s.out.say(f" cancelled: {job}")
    s.out.say(f" tenants: {' '.join(plan.tenants) or 'none'}")
    for pointer in plan.pointers:
        serves = f"serves {pointer.live}; " if pointer.live is not None else ""
        back = f"R goes to {pointer.way_back or 'nothing'}"
        back += f", then to {pointer.way_back_after or 'nothing'}" if pointer.way_back_after != pointer.way_back else ""
        say = s.out.alarm if pointer.loses_way_back or pointer.live is not None else s.out.say
        say(f" {pointer.tenant}/{pointer.route}: {serves}{back}{'  LOSES ITS WAY BACK' * pointer.loses_way_back}")
    for one in plan.items:
        s.out.alarm(f" stays, in a suite: {one.label}  {one.id[:12]}: register the suite anew without it")
    for one in plan.elsewhere:
        s.out.alarm(
            f" at another tenant: {one.label}  {one.id[:12]}: refused there too, unless its data policy lifts it"
        )
    for place in plan.weights:
        s.out.alarm(f" weights: {place.label} on {place.node}: {_fate(place, plan)}")
    for one in plan.unread:
        s.out.alarm(f" not searched: {one.label}  {one.id[:12]}: its files are gone")


def _fate(place: WeightsPlace, plan: ErasurePlan) -> str:
    """Says in words what becomes of weights on a node."""
    if not place.managed:
        return "an engine's base or a job's result, which its agent does not remove: remove it there"
    if not plan.retire:
        return "they stay, since their releases are not retired (--retire)"
    if not place.linked:
        return "pending: it has no link, and removes them when it is back and nothing serves them"
    return "it removes them within ten minutes of the erasure, once nothing serves them"


def _as_ours(file: Path, split: str, folder: Path) -> Path:
    """The file itself, or its rows written anew into `folder` where they are of another format.

    Raises: BadArtifact: a row cannot be read as one of ours. CliError: there is no such file.
    """
    if not file.exists():
        raise misused("the file cannot be read", where=f"{file}: it is not there", fix="name another")
    if not row_formats.is_foreign(file):
        return file
    made = folder / f"{file.stem}.jsonl"
    with made.open("w", encoding="utf-8") as out:
        for where, row in row_formats.rows_of_any(file, split):
            try:
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
            except (TypeError, ValueError) as error:
                fix = "write it as text, or take it out"
                raise refused(
                    f"a row holds what JSON cannot say: {error}"[:300], where=where, fix=fix, code="bad_rows"
                ) from None
    return made
