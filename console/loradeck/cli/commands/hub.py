"""Commands that run and maintain a hub on this machine. Only these import the hub's packages, and only to run one."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from loradeck.cli.shared.exits import CliError, Exit, misused, refused
from loradeck.cli.shared.files import name_models
from loradeck.cli.shared.options import dry_run_option, expected_errors, reason_option, together, yes_option
from loradeck.cli.shared.output import utc
from loradeck.cli.shared.session import Session, hub_command, writes
from loradeck.client.api import HubApi
from loradeck.client.config import state_path
from loradeck.client.errors import ClientError, HubUnreachable
from loradeck.client.idempotency import new_key
from loradeck.rules.moves.lease import TTL_S
from loradeck.schemas.dataset_ledger import CollectRequest
from loradeck.schemas.ids import short
from loradeck.schemas.moves import RecoverRequest, RecoveryPlan
from loradeck.schemas.responses import LostAdapters
from loradeck.schemas.state import LeaseStatus

_data_option = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of the hub's data. [default: $XDG_STATE_HOME/loradeck/hub]"
)

_key_program_option = click.option(
    "--key-program", type=click.Path(path_type=Path), help="Program that holds the tenants' keys, as of a KMS."
)

_old_keys_option = click.option(
    "--keys",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Unseal by the keys in this folder, as an earlier version reads it.",
)

_run_options = together(
    click.option("--tls-key", type=click.Path(path_type=Path), help="Key of the certificate, PEM."),
    click.option(
        "--tls-cert", type=click.Path(path_type=Path), help="Certificate, PEM. [default beyond loopback: of `hub init`]"
    ),
    click.option("--backup-every", type=float, default=6, show_default=True, help="Hours between two backups."),
    click.option("--backup-to", type=click.Path(path_type=Path), help="Folder for backups, with new blobs."),
    click.option("--notices", type=click.Path(path_type=Path), help="TOML file of channels: who is told, and where."),
    click.option("--names", type=click.Path(path_type=Path), help="TOML file of models that look for names in rows."),
    click.option("--artifacts", metavar="URL", help="Keep artifacts at s3://BUCKET/PREFIX, gs:// or az://."),
    _key_program_option,
    click.option(
        "--keys",
        type=click.Path(path_type=Path),
        help="Folder of the keys of rows, in no backup. [default: keys in --data; with --store: none]",
    ),
    click.option("--oidc", type=click.Path(path_type=Path), help="TOML file of the provider where people sign in."),
    click.option(
        "--store", "database", metavar="URL", help="PostgreSQL, which hubs may share. [default: a file in --data]"
    ),
    click.option(
        "--without-standby",
        type=click.Choice(["refuse", "degrade"]),
        default="refuse",
        show_default=True,
        help="PostgreSQL's standby is gone: refuse, or go back with 1 copy.",
    ),
    click.option("--production", is_flag=True, help="Consoles show this hub as production."),
    click.option(
        "--address", default="", metavar="URL", help="Where others reach this hub. [default: that of --listen]"
    ),
    click.option("--name", default="hub", show_default=True, help="Shown in every console's header."),
    click.option("--nodes", metavar="HOST:PORT", help="Also listen for nodes that join, with mutual TLS."),
    click.option("--listen", metavar="HOST:PORT", help="Also listen on TCP, for consoles, and agents with a token."),
    _data_option,
)


@click.group(invoke_without_command=True)
@_run_options
@click.pass_context
def hub(ctx: click.Context, /, **settings: Any) -> None:
    """Run a hub on this machine; certificates, recovery, backup, garbage.

    Without a command: run.
    """
    if ctx.invoked_subcommand is None:
        _serve(**settings)
        return
    given = [name for name in settings if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if given and ctx.invoked_subcommand != "run":
        raise click.UsageError(f"--{given[0].replace('_', '-')} belongs to `loradeck hub run`")
    ctx.obj = {name: settings[name] for name in given}


@hub.command()
@_run_options
@click.pass_context
def run(ctx: click.Context, /, **settings: Any) -> None:
    """Run a hub until it is interrupted."""
    _serve(**{**settings, **(ctx.obj or {})})


@hub.command("install-service")
@_run_options
@click.option("--print", "show", is_flag=True, help="Only print the files.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@click.option("--uninstall", is_flag=True, help="Take the service away; its data and its user stay.")
@click.pass_context
def install_service(ctx: click.Context, /, show: bool, dry_run: bool, uninstall: bool, **settings: Any) -> None:
    """Install the hub as a service of systemd, with these options of `hub run`. Needs root.

    It runs as a user of its own, loradeck-hub, on /var/lib/loradeck-hub unless --data names another folder. systemd
    starts it again when it ends or hangs. Called again, it writes what has changed. Commands on this host that need the
    hub's own socket are that user's: sudo -u loradeck-hub loradeck ...
    """
    with _service_errors():
        from loradeck.systemd import units

        data = settings["data"] or Path("/var/lib") / units.HUB
        files = units.hub_files(units.program("loradeck"), data.absolute(), _as_given(ctx, settings))
        if show:
            click.echo(units.printed(files))
        elif uninstall:
            units.uninstall(files, click.echo, dry_run=dry_run)
        else:
            units.install(files, data.absolute(), units.HUB, click.echo, dry_run=dry_run)


def _as_given(ctx: click.Context, settings: dict[str, Any]) -> list[str]:
    """The options of `hub run` that were given, as they are written; paths are absolute."""
    found: list[str] = []
    for option in ctx.command.params:
        name = option.name or ""
        source = ctx.get_parameter_source(name)
        if name == "data" or name not in settings or source is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = settings[name]
        found.append(max(option.opts, key=len))
        if not isinstance(value, bool):
            found.append(str(value.absolute()) if isinstance(value, Path) else str(value))
    return found


@contextmanager
def _service_errors() -> Iterator[None]:
    from loradeck.systemd.units import ServiceFault

    with expected_errors(as_json=False):
        try:
            yield
        except ServiceFault as fault:
            raise misused(fault.title, where=fault.detail, fix=fault.fix, code=fault.code) from None


@hub.command()
@hub_command
async def status(s: Session) -> None:
    """Show of each hub whether it is active or stands by, and who holds the lease.

    A hub that stands by says how many events of the log it has yet to read. One that does not answer is named, and the
    command fails only where none does.
    """
    found: list[LeaseStatus] = []
    trouble: ClientError | None = None
    for context in s.context.each():
        async with HubApi.to(context) as api:
            try:
                found.append(await api.lease())
            except HubUnreachable as error:
                trouble = error
                s.out.alarm(f"{context.where}: no answer ({error.detail})")
            else:
                s.out.say(f"{context.where}: {_standing(found[-1])}")
                for lost in found[-1].lost:
                    s.out.alarm(f"{context.where}: {lost.words}; loradeck hub recover --dry-run lists what is missing")
    if trouble is not None and not found:
        raise trouble
    s.out.json(found)


def _standing(lease: LeaseStatus) -> str:
    left = "" if lease.left_s is None else f" for {lease.left_s:.1f} s more unless it renews it"
    held = f"{lease.holder} at {lease.address}" if lease.address else lease.holder
    state = "ACTIVE" if lease.active else f"stands by, {lease.lag} events behind, read {lease.read_s:.1f} s ago"
    if lease.unrenewed_s > 2 * TTL_S:
        left = f" and has not renewed it for {lease.unrenewed_s:.0f} s: nobody takes over, see this hub's log"
    return f"{lease.hub}: {state}; epoch {lease.epoch}, rev {lease.rev}; {held} holds the lease{left}"


@hub.command()
@reason_option(required=True)
@click.option("--unproven", is_flag=True, help="Believe nodes too that cannot prove what they have seen.")
@dry_run_option
@yes_option
@writes
async def recover(s: Session, reason: str, unproven: bool, dry_run: bool, yes: bool) -> None:
    """Plan what becomes of moves that have been seen and the log lacks; with a yes, carry it out.

    After a restore from a backup, a failover to a database that lacked something, or when two hubs wrote to copies of
    one log. The newest move of each pointer is adopted. Every other one that a node has seen, or a hub had folded,
    stands in the log as dropped. The epoch is raised.
    Nodes prove what they have seen by the hub's signature. `--unproven` is for a hub whose trusted keys were lost too.
    """
    request = RecoverRequest(idempotency_key=new_key(), reason=reason, unproven=unproven)
    plan = await s.api.plan_recover(request)
    for text in _recovery(plan):
        s.out.say(text)
    if dry_run:
        s.out.json(plan)
        return
    unknown = [node.node for node in plan.nodes if node.state not in ("answered", "known")]
    warning = f" What only {', '.join(unknown)} have seen stays unknown." if unknown else ""
    s.confirm(f"Carry this out, and raise the epoch?{warning}", yes=yes)
    result = await s.api.recover(request.model_copy(update={"plan": plan.digest}))
    s.out.answer(result, f"recovered: rev {result.rev}, epoch {result.epoch}, {len(result.events)} events appended")


@hub.command()
@reason_option(required=True)
@dry_run_option
@yes_option
@writes
async def rebuild(s: Session, reason: str, dry_run: bool, yes: bool) -> None:
    """Put a hub that has lost everything together again from what its nodes hold; they serve on meanwhile.

    Start a hub on an empty folder, with the folder tls/ if you have a copy, and let the nodes link to it: with new
    tokens otherwise. Each pointer's newest move, what lies beneath it, tenants and callers' keys come from the nodes'
    tables into a new log, pointers held; manifests and files of adapters from their disks. It asks first, as `recover`
    does. Give it again where a node was away, or where files were still coming.
    """
    if not await s.api.tenants():
        request = RecoverRequest(idempotency_key=new_key(), reason=reason, unproven=True)
        plan = await s.api.plan_recover(request)
        if not plan.steps:
            raise refused("no linked node has a table", fix="loradeck node ls: let the nodes link first")
        for text in (*_recovery(plan), *_LOST):
            s.out.say(text)
        if dry_run:
            s.out.json(plan)
            return
        s.confirm("Begin a new log with this?", yes=yes)
        result = await s.api.recover(request.model_copy(update={"plan": plan.digest}))
        s.out.say(f"a new log: rev {result.rev}, epoch {result.epoch}, {len(result.events)} events")
    found = await _files(s)
    s.out.json(found)
    for adapter in found.lacking:
        where = f"{adapter.node} has not sent it" if adapter.node else "no linked node has its files"
        s.out.alarm(f"NOT HERE: {adapter.tenant} {adapter.label} {adapter.digest}: {where}")
    if found.lacking:
        raise click.exceptions.Exit(Exit.NOT_IN_TIME)
    s.out.say("the hub has every adapter that its pointers name")


FILES_S = 0.5
"""Pause between two looks at which files have come, seconds."""

STALLED_S = 600.0
"""Seconds without another adapter after which no more are waited for."""


async def _files(s: Session) -> LostAdapters:
    """Has nodes send what the hub lacks, until nothing comes any more; what is lacking then."""
    found, news = await s.api.recover_files(), time.monotonic()
    while found.registered or any(adapter.node is not None for adapter in found.lacking):
        for name in found.registered:
            s.out.say(f"has come back: {name}")
            news = time.monotonic()
        if not found.lacking or time.monotonic() - news > STALLED_S:
            break
        await asyncio.sleep(FILES_S)
        found = await s.api.recover_files()
    return found


_LOST = (
    "What no node knows, and stays lost:",
    " placements and gates of routes: each route is placed on every node until `loradeck route set` says otherwise",
    " bases' names, datasets, suites, jobs: register them again",
    " which releases were proven, soaked, breached, quarantined: R asks until they are proven again",
    " tokens, sign-ins, the audit trail and the log of moves before this one",
)


def _recovery(plan: RecoveryPlan) -> Iterator[str]:
    """A recovery's plan as lines of text."""
    for tail in plan.lost:
        yield f"{tail.words}. It lacks:"
        for event in tail.events:
            what = "/".join(filter(None, (event.tenant, event.route)))
            to = f" to {short(event.release)}" if event.release is not None else ""
            why = f": {event.reason}" if event.reason else ""
            yield f"  rev {event.rev}  {utc(event.at_ms)}  {event.kind.value} {what}{to} by {event.actor}{why}"
    for step in plan.steps:
        yield f"{step.tenant}/{step.route}: the log has {step.label}, gen {step.generation} of epoch {step.epoch}"
        for verb, move in (*(("adopt", m) for m in (step.adopted,) if m), *(("DROP", m) for m in step.dropped)):
            seen = f"gen {move.generation} of epoch {move.epoch}, seen by {', '.join(move.nodes) or 'nobody'}"
            yield f"  {verb} {move.label}, {seen}: {move.why}"
    if plan.further:
        yield f"{len(plan.further)} further events: {', '.join(plan.further[:5])}" + (
            " ..." if len(plan.further) > 5 else ""
        )
    if not plan.steps and not plan.further:
        yield "nobody has seen a move that the log lacks"
    for node in plan.nodes:
        over = f"; {node.unsigned} entries that no hub of this log has signed are passed over" if node.unsigned else ""
        yield f" {node.node}: {_ANSWERS[node.state]}{f' ({node.behind})' if node.behind else ''}{over}"


_ANSWERS = {
    "answered": "sent its table",
    "known": "not linked; what it had seen is known",
    "silent": "DID NOT ANSWER; it stays as it is until the next recover",
    "away": "NOT LINKED; what only it has seen stays unknown until it is back",
    "unproven": "NOT BELIEVED: it shows no signature of a hub of this log; see --unproven",
}
"""What a plan says of a node."""


@hub.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, resolve_path=True))
@writes
async def backup(s: Session, file: Path) -> None:
    """Copy the database of a running hub to a new file.

    Moves are made meanwhile. Artifacts never change: copy the folder artifacts/ beside it with any tool, afterwards.
    `loradeck hub run --backup-to FOLDER` does both by the clock.
    """
    made = await s.api.backup(str(file))
    s.out.answer(made, f"{made.path}: {made.size / 1e6:,.1f} MB, the log up to rev {made.rev}")


@hub.command()
@click.argument("backup", metavar="BACKUP", type=click.Path(path_type=Path, resolve_path=True))
def drill(backup: Path) -> None:
    """Try what a backup would bring back, in a folder that is removed afterwards. No hub is needed.

    The log's chain is verified, what it folds to, the audit trail, and that each file that it names lies in artifacts/
    beside it.
    """
    with _hub_errors(str(backup), fix="keep another backup; nothing was changed"):
        from loradeck.store.drill import drill

        found = drill(backup)
        click.echo(f"the log is whole up to rev {found.rev}, head {found.hash}; the audit trail verifies")
        click.echo(f"{found.files - len(found.missing)} of {found.files} files lie in artifacts/ beside it")
        if found.missing:
            names = ", ".join(name[:12] for name in found.missing[:5])
            raise refused("files are missing", where=names, fix=f"copy the hub's artifacts/ to {backup.parent}")


@hub.command()
@click.option(
    "--from", "source", required=True, metavar="STORE", help="A SQLite file, or postgresql://USER@HOST/DATABASE."
)
@click.option("--to", "target", metavar="STORE", help="Where to: the same, and without a log.")
@click.option("--down", metavar="MIGRATION", help="Take the schema of --from back to this migration.")
@_old_keys_option
@_key_program_option
@yes_option
def migrate(
    source: str, target: str | None, down: str | None, keys: Path | None, key_program: Path | None, yes: bool
) -> None:
    """Copy a hub's database to another one, from SQLite to PostgreSQL or back; or undo an upgrade of its schema.

    Stop the hub first. Both logs are verified, with all that they fold to, and the source keeps its own. What else is
    in the hub's folder stays there: artifacts, keys, certificates.

    An older Loradeck names the --down that it needs when it refuses a database. What is lost is said first; where it
    could not read what was written since, the schema stays, and the backup from before the upgrade is to be restored.
    Texts of feedback are unsealed by --keys.
    """
    if (target is None) == (down is None):
        raise click.UsageError("give either --to or --down")
    fix = "the source was not changed" if down is None else "nothing was changed"

    with _hub_errors(target or source, fix=fix):
        if down is not None:
            _take_back(source, down, keys, key_program, yes)
            return
        assert target is not None
        from loradeck.store.opening import migrate

        report = migrate(source, target)
        click.echo(f"{report.rev} events, verified on both sides: head {report.hash}")


def _take_back(source: str, down: str, keys: Path | None, key_program: Path | None, yes: bool) -> None:
    """Takes a schema back, or says what would be lost and who has to agree to it."""
    from loradeck.artifacts.blobs.row_keys import RowKeys
    from loradeck.hub.data.feedback import unseal_all
    from loradeck.store.downgrade import downgrade

    unseal = partial(unseal_all, RowKeys(keys, key_program)) if keys is not None else None
    done = downgrade(source, down, dry_run=not yes, unseal=unseal)
    for name in done.steps:
        click.echo(f"{'taken back' if yes else 'would be taken back'}: {name}")
    for what in done.lost:
        click.echo(f"{'lost' if yes else 'WOULD BE LOST'}: {what}")
    if not yes:
        raise misused("nothing was changed yet", where=source, fix="give --yes to do it", code="not_confirmed")


@hub.command("check-artifacts")
@click.argument("url", metavar="URL")
def check_artifacts(url: str) -> None:
    """Try an object store for artifacts, as a hub does when it starts: conditions of puts, uploads in parts, deletes.

    Credentials come from the environment, as for the hub.
    """
    with _hub_errors(url):
        from loradeck.artifacts.blobs.objects import opened, probe

        probe(opened(url, retry_s=3))
        click.echo(f"{url}: keeps its promises")


@hub.command("copy-artifacts")
@click.option("--from", "source", required=True, metavar="STORE", help="A folder artifacts/, or an object store's URL.")
@click.option("--to", "target", required=True, metavar="STORE", help="Where to: the same.")
@_old_keys_option
@_key_program_option
def copy_artifacts(source: str, target: str, keys: Path | None, key_program: Path | None) -> None:
    """Copy a hub's artifacts to another store: from its folder to an object store, or back.

    Each file is verified. Those that are there already are not copied again, and the source keeps its own. Rows stay
    sealed; with --keys they are copied as an earlier version reads them, while no hub runs.
    """
    with _hub_errors(target):
        from loradeck.artifacts.blobs.folder import copy, open_blobs

        with tempfile.TemporaryDirectory(prefix="loradeck-copy-") as scratch:
            stores = [
                open_blobs(store, Path(scratch, str(n))) if "://" in store else open_blobs(None, Path(store))
                for n, store in enumerate((source, target))
            ]
            if keys is not None:
                from loradeck.artifacts.blobs.keyed import KeyedBlobs
                from loradeck.artifacts.blobs.row_keys import RowKeys

                stores[0] = KeyedBlobs(stores[0], RowKeys(keys, key_program))
            files, size = copy(*stores)
        click.echo(f"{files} files copied, {size / 1e6:,.1f} MB")


@hub.command()
@click.option("--older-than", "days", type=float, default=30, show_default=True, help="Days that adapters are kept.")
@dry_run_option
@yes_option
@writes
async def collect(s: Session, days: float, dry_run: bool, yes: bool) -> None:
    """Collect garbage: files of releases that no pointer can go back to, and of datasets with erased rows.

    Kept: releases that a pointer serves or may return to, the last attested releases, releases that an engine lists,
    and those that a job, a pin or a prepare needs. Manifests, attestations and the log are never collected.
    """
    request = CollectRequest(older_than_days=days)
    plan = await s.api.collect(request)
    s.out.heading(f"{plan.files} files, {plan.size / 1e6:,.1f} MB; {plan.roots} releases must stay")
    for what, found in (("adapter", plan.adapters), ("erased dataset", plan.datasets), ("listed, kept", plan.listed)):
        for one in found:
            s.out.say(f" {what}: {one.label}  {one.id[:12]}")
    for node in plan.unheard:
        s.out.alarm(f" node does not report: {node}")
    if dry_run:
        s.out.json(plan)
        return
    if not plan.files:
        raise refused("there is nothing to collect", fix="see --older-than", code="nothing_to_collect")
    s.confirm(f"Remove {plan.files} files for ever?", yes=yes)
    done = await s.api.collect(request.model_copy(update={"dry_run": False, "plan": plan.digest}))
    s.out.answer(done, f"collected: {done.files} files, {done.size / 1e6:,.1f} MB")


_host_option = click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="A name or address under which this hub is reached."
)


@hub.command()
@_host_option
@_data_option
def init(hosts: tuple[str, ...], data: Path | None) -> None:
    """Make the hub's authority for certificates, and a certificate of its own.

    Consoles elsewhere need tls/authority.pem of the hub's folder as their `ca_file`. Its key never leaves that folder.
    """
    _with_authority(data, lambda authority, folder, now: authority.make(folder, hosts, now))


@hub.command()
@_host_option
@_data_option
def rotate(hosts: tuple[str, ...], data: Path | None) -> None:
    """Renew the hub's own certificate, with a new key; --host gives it other names.

    A running hub shows it at the next connection. It renews its certificate by itself after a third of its 90 days.
    """

    def renew(authority: Any, folder: Path, now: int) -> Any:
        made = authority(folder)
        made.serve(hosts or made.served().hosts, now)
        return made

    _with_authority(data, renew)


@hub.command("rotate-authority")
@click.option("--force", is_flag=True, help="Also where nodes would be left outside: they have to join again.")
@writes
async def rotate_authority(s: Session, force: bool) -> None:
    """Take the next step of replacing the authority; give it three times, on the hub's host.

    First a new one is trusted beside the old, then it signs, then the old one is dropped. Linked nodes renew by
    themselves after each step, and the next one is refused until all have.
    """
    state = await s.api.rotate_authority(force=force)
    s.out.answer(state, f"{_STAGES[state.stage]}   signs: SHA-256 {state.roots[0][:16]}")
    if state.behind:
        s.out.say(f"not told yet: {', '.join(state.behind)}")


_STAGES = {
    "trusted": "a new authority is trusted beside the old one: give consoles and callers tls/authority.pem, then go on",
    "signs": "the new authority signs, and the old one is still trusted",
    "alone": "the old authority is trusted no more",
}


def _with_authority(data: Path | None, work: Callable[[Any, Path, int], Any]) -> None:
    folder = data or state_path() / "hub"

    with _hub_errors(str(folder)):
        from loradeck.hub.access.authority import Authority

        made = work(Authority, folder, time.time_ns() // 1_000_000)
        served = made.served()
        until = utc(served.validity.until_ms)
        click.echo(f"authority {made.certificates}, SHA-256 {made.fingerprint}")
        click.echo(f"certificate for {', '.join(served.hosts)} until {until}")


def _serve(**settings: Any) -> None:
    """Runs a hub until SIGTERM or SIGINT. Every expected failure to start exits with an error."""
    data: Path = settings.pop("data") or state_path() / "hub"
    names: Path | None = settings.pop("names")

    with _hub_errors(str(data), settings["listen"]):
        from loradeck.hub.server import serve

        serve(data=data, **settings, names=name_models(names) if names is not None else None)


_EXTRAS = {"psycopg": ("postgres", "PostgreSQL"), "obstore": ("objects", "object stores")}
"""Package -> the extra that brings it, and what it is for."""

_FIX = "a second hub on the same folder, a full disk or a damaged file; nothing was changed"


@contextmanager
def _hub_errors(data: str, listen: str | None = None, fix: str = _FIX) -> Iterator[None]:
    """Exits with a command's error after an expected failure of a block that needs the hub's packages."""
    from loradeck.artifacts.errors import BadArtifact
    from loradeck.rules.errors import Refused

    with expected_errors(as_json=False):
        try:
            yield
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("loradeck"):
                raise
            extra, what = _EXTRAS.get(error.name, ("hub", "hub"))
            extras = extra if extra == "hub" else f"hub,{extra}"
            raise misused(
                f"this installation has no {what} in it",
                where=f"the package {error.name} is missing",
                fix=f"{sys.executable} -m pip install 'loradeck[{extras}]'",
                code="no_hub",
            ) from None
        except (Refused, BadArtifact) as error:
            raise misused(error.title, where=error.detail, fix=error.fix, code=error.code) from None
        except OSError as error:
            raise misused(
                "the hub cannot start",
                where=f"{error.filename or listen or data}: {error.strerror or error}",
                fix="choose another --listen or --data, or free this one",
                code="cannot_start",
            ) from None
        except Exception as error:
            from loradeck.store.interface import StoreError

            if not isinstance(error, StoreError):
                raise
            raise CliError(str(error), where=data, fix=fix, code=error.code, exit=Exit.UNREACHABLE) from None
