"""Commands on tenants and the keys of their callers."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import click

from loradeck.artifacts.rows.barred_rows import opted_out
from loradeck.cli.shared.exits import misused
from loradeck.cli.shared.files import checked, new_secret_file, toml_of
from loradeck.cli.shared.naming import moment
from loradeck.cli.shared.options import reason_option, yes_option
from loradeck.cli.shared.output import utc
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.dataset_ledger import TRAIN, Assessment, DataPolicy, OptedOut, OptOut, Reasons, Use, UseTerms
from loradeck.schemas.freshness import ExpectedChange, TrainingFreeze
from loradeck.schemas.ids import digest_of, short
from loradeck.schemas.manifest import Tier
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.tenant import Quota, TenantCreate, TenantState
from loradeck.schemas.training import WordList

tenant = Noun("tenant")


@tenant.command()
@click.argument("name")
@writes
async def create(s: Session, name: str) -> None:
    """Create a tenant."""
    made = checked(TenantCreate, {"name": name}, where=repr(name), fix="for example acme, or acme-corp")
    state = await s.api.create_tenant(made)
    s.out.answer(state, f"tenant {state.name} is created; give it a route: loradeck route set {state.name}")


@tenant.command()
@click.argument("name")
@reason_option()
@yes_option
@writes
async def suspend(s: Session, name: str, reason: str, yes: bool) -> None:
    """Refuse a tenant's requests on every router, until it is resumed."""
    s.confirm(f"Suspend {name}? Its requests are refused at once.", yes=yes)
    _print(s, await s.api.order_tenant(name, "suspend", reason), "suspended")


@tenant.command()
@click.argument("name")
@reason_option()
@writes
async def resume(s: Session, name: str, reason: str) -> None:
    """Serve a suspended tenant again."""
    _print(s, await s.api.order_tenant(name, "resume", reason), "served again")


@tenant.command()
@click.argument("name")
@click.option("--synthetic-cap", type=float, help="Largest share of rows that a model wrote, 0 to 1.")
@click.option(
    "--depth-cap",
    "depth_caps",
    type=float,
    multiple=True,
    help="Largest share of rows two deep and deeper; the second is of three and deeper, ...",
)
@click.option(
    "--forbid-licence", "forbidden_licences", multiple=True, help="Licence class, * for any characters; repeatable."
)
@click.option(
    "--lift-erasures", metavar="WHY", help="Why rows that other tenants had erased may be used here; '' refuses them."
)
@click.option(
    "--unrated-pairs", metavar="WHY", help="Why pairs of which no raters are known may be trained on; '' refuses them."
)
@click.option(
    "--rated-twice", type=float, help="Least share of rows made of judgements that two persons judged, 0 to 1."
)
@click.option("--rated-by", help="Qualification that those two have; '' whoever they are.")
@click.option("--ledger-days", type=int, help="Days for which the answer ledger is kept; 0 keeps none.")
@click.option("--feedback-days", type=int, help="Days for which feedback on answers is kept, with its texts; 0: none.")
@click.option("--input-days", type=int, help="Days for which what callers ask is counted, without text; 0: not at all.")
@click.option(
    "--worksheet-required/--no-worksheet-required", default=None, help="Whether recipes name one of `loradeck decide`."
)
@click.option(
    "--assessor",
    "assessors",
    multiple=True,
    help="Who signs impact assessments, which training then asks for; '' ends it.",
)
@click.option(
    "--assess-tier",
    "assessed_tiers",
    multiple=True,
    type=click.Choice(["", *(tier.value for tier in Tier)]),
    help="Only datasets with rows of this tier ask for one; '' all do.",
)
@click.option(
    "--regulated-source",
    "regulated_sources",
    multiple=True,
    help="Comes in with an assessment only; * for any characters.",
)
@click.option(
    "--regulated-column", "regulated_columns", multiple=True, help="Field of rows that does not come in; '' for none."
)
@click.option(
    "--toxic-list", metavar="FILE", help="TOML of a list, name and words, by which rows are toxic; '' ends it."
)
@click.option("--toxic-cap", type=float, help="Largest share of a dataset's rows that are, 0 to 1; 1 only counts them.")
@click.option("--shadow/--no-shadow", default=None, help="Whether a candidate may be asked what callers ask too.")
@click.option(
    "--sample-hours",
    type=int,
    is_flag=False,
    flag_value=24,
    help="Hours for which nodes keep samples of bad answers, redacted; 24 without a number, 0 keeps none.",
)
@click.option(
    "--use",
    "uses",
    multiple=True,
    metavar="USE=PURPOSE[@REGION]",
    help="Allow shadow, judge or labelling for a purpose, on nodes with that label region; 'USE=' ends it.",
)
@click.option(
    "--reasons",
    type=click.Choice([r.value for r in Reasons]),
    help="What becomes of reasons in the log with what looks like personal data.",
)
@reason_option()
@writes
async def data(s: Session, /, name: str, reason: str, **given: Any) -> None:
    """Show or change a tenant's data policy: rows its adapters may be trained on, its answer ledger, feedback, shadows,
    samples.

    To allow shadows needs a reason: callers' requests then go to candidates as well, whose answers nobody gets. So do
    feedback and samples, which `loradeck route samples` reads; where samples are not kept any more, nodes remove those
    that there are.
    """
    policy = (await s.api.tenant(name)).data
    given["uses"] = _uses(policy, given["uses"])
    file = given.pop("toxic_list")
    given = {key: value for key, value in given.items() if value not in (None, ())}
    given |= {key: tuple(one for one in value if one != "") for key, value in given.items() if isinstance(value, tuple)}
    if file is not None:
        path = Path(file)
        words = await asyncio.to_thread(toml_of, path) if file else None
        given["toxic"] = checked(WordList, words, where=file, file=path) if words is not None else None
    if given:
        wanted = checked(DataPolicy, {**policy.model_dump(), **given}, where="options")
        policy = await s.api.set_data_policy(name, wanted, reason, was=policy)
    s.out.answer(policy, f"{name}: at most {policy.synthetic_cap:.0%} of the rows by a model")
    s.out.say(f"forbidden licences: {' '.join(policy.forbidden_licences) or 'none'}")
    if policy.lift_erasures:
        s.out.say(f"rows that other tenants had erased may be used: {policy.lift_erasures}")
    if policy.unrated_pairs:
        s.out.say(f"pairs of which no raters are known may be trained on: {policy.unrated_pairs}")
    if policy.rated_twice:
        by = f" who have the qualification {policy.rated_by!r}" * bool(policy.rated_by)
        s.out.say(f"two persons{by} have judged {policy.rated_twice:.0%} or more of the rows made of judgements")
    kept = f"for {policy.ledger_days} days" if policy.ledger_days else "not at all"
    s.out.say(f"what answered its requests is kept {kept}")
    kept = f"kept for {policy.feedback_days} days" if policy.feedback_days else "not taken"
    s.out.say(f"feedback on its answers is {kept}")
    kept = f"kept for {policy.input_days} days" if policy.input_days else "not made"
    s.out.say(f"counts of what its callers ask, without text, are {kept}")
    s.out.say(f"candidates in the shadow of live releases are {'allowed' if policy.shadow else 'not allowed'}")
    sampled = f"for {policy.sample_hours} hours" if policy.sample_hours else "not at all"
    s.out.say(f"samples of its bad answers are kept on nodes {sampled}")
    for use in Use:
        s.out.say(f"{use.value}: {_terms(policy.uses.get(use))}")
    if policy.reasons is not Reasons.KEEP:
        s.out.say(f"reasons in the log with what looks like personal data: {policy.reasons.value}")
    if policy.worksheet_required:
        s.out.say("recipes name a worksheet of loradeck decide")
    if policy.assessors:
        tiers = " ".join(policy.assessed_tiers) or "all"
        s.out.say(f"{', '.join(policy.assessors)} sign impact assessments, for {tiers} rows that are trained on")
    for what, names in (("sources", policy.regulated_sources), ("columns", policy.regulated_columns)):
        if names:
            s.out.say(f"regulated {what}: {', '.join(names)}")
    if policy.toxic is not None:
        s.out.say(f"at most {policy.toxic_cap:.1%} of a dataset's rows hold a word of {policy.toxic.name!r}")
    for freeze in policy.training_freezes:
        s.out.say(f"training is frozen: {_frozen(freeze)}")
    for change in policy.expected_changes:
        s.out.say(f"from {utc(change.at_ms)}: {change.what}")


@tenant.command()
@click.argument("name")
@click.option("--from", "start", metavar="TIME", help="With a zone: 2026-12-24T18:00Z; now, where it is left out.")
@click.option("--until", "end", metavar="TIME", help="With a zone; until it is lifted, where it is left out.")
@click.option("--source", default="", help="Hold data of this source alone, * for any characters: a legal hold.")
@reason_option(required=True)
@writes
async def freeze(s: Session, name: str, start: str | None, end: str | None, source: str, reason: str) -> None:
    """Freeze a tenant's training: no train or generate job is begun; what runs goes on. Open incidents freeze too."""
    policy = (await s.api.tenant(name)).data
    window = [moment(text, interactive=False, ahead=True) if text else None for text in (start, end)]
    given = {"from_ms": window[0] or int(time.time() * 1000), "until_ms": window[1], "source": source, "reason": reason}
    added = checked(TrainingFreeze, given, where="options", fix="give dates, too")
    kept = await _change(s, name, policy, reason, training_freezes=(*policy.training_freezes, added))
    s.out.answer(kept, f"training of {name} is frozen: {_frozen(added)}")


@tenant.command()
@click.argument("name")
@click.option("--source", metavar="SOURCE", help="Only the freezes of this source, as it was given.")
@reason_option(required=True)
@writes
async def thaw(s: Session, name: str, source: str | None, reason: str) -> None:
    """End a tenant's training freezes, future ones included. What an incident freezes goes on when it is closed."""
    policy = (await s.api.tenant(name)).data
    left = tuple(freeze for freeze in policy.training_freezes if source is not None and freeze.source != source)
    if left == policy.training_freezes:
        raise misused(f"{name} has no such freeze", fix=f"loradeck tenant data {name} lists them", code="no_change")
    kept = await _change(s, name, policy, reason, training_freezes=left)
    s.out.answer(kept, f"{len(policy.training_freezes) - len(left)} freezes of {name} end, {len(left)} stay")


@tenant.command()
@click.argument("name")
@click.option("--on", "at", metavar="TIME", required=True, help="With a zone: 2027-01-01T00:00Z.")
@click.option("--what", required=True, help="What its adapters may not know from then on; '' forgets the day.")
@reason_option()
@writes
async def expect(s: Session, name: str, at: str, what: str, reason: str) -> None:
    """Enter a day from which a tenant's adapters may be wrong: a regulation, a new taxonomy, the end of a licence.

    `loradeck freshness` names the day, and has a signal once it has come.
    """
    policy = (await s.api.tenant(name)).data
    at_ms = moment(at, interactive=False, ahead=True)
    changes = [change for change in policy.expected_changes if change.at_ms != at_ms]
    if what:
        changes.append(checked(ExpectedChange, {"at_ms": at_ms, "what": what}, where="options"))
    changes.sort(key=lambda change: change.at_ms)
    kept = await _change(s, name, policy, reason, expected_changes=tuple(changes))
    s.out.answer(kept, f"{len(kept.expected_changes)} days are entered for {name}")


@tenant.command()
@click.argument("name")
@click.option("--source", required=True, help="Source of the rows, * for any characters.")
@click.option("--reference", required=True, help="The impact assessment (DPIA), as people find it.")
@click.option("--purpose", "purposes", multiple=True, help="What it allows; train, unless given. May be repeated.")
@click.option("--until", metavar="TIME", help="With a zone: 2027-12-31T00:00Z; until it is withdrawn, where left out.")
@click.option("--withdraw", "withdrawn", is_flag=True, help="It counts no more.")
@writes
async def assess(s: Session, /, name: str, until: str | None, **given: Any) -> None:
    """Sign an impact assessment (DPIA) of sources of a tenant's rows, as a person whom its data policy names.

    The newest of a source counts. `loradeck tenant data NAME --assessor WHO` has training ask for it.
    """
    given["purposes"] = given["purposes"] or (TRAIN,)
    until_ms = moment(until, interactive=False, ahead=True) if until else None
    body = checked(Assessment, {**given, "until_ms": until_ms}, where="options")
    subject = digest_of({"tenant": name, "source": body.source})
    signed = await s.api.sign(Attestation.of(AttestationKind.ASSESSMENT, subject, name, body))
    what = "counts no more" if body.withdrawn else f"is signed for {', '.join(body.purposes)}"
    s.out.answer(signed, f"{body.reference} of {body.source} {what}, by {signed.by}")


@tenant.command("opt-out")
@click.argument("name")
@click.argument("people", metavar="FILE", type=click.File(encoding="utf-8"))
@click.option("--withdraw", "withdrawn", is_flag=True, help="Rows of these people may come in again.")
@reason_option(required=True)
@writes
async def opt_out(s: Session, name: str, people: TextIO, withdrawn: bool, reason: str) -> None:
    """Let no rows of people come in at a tenant from now on: what each is known by, one a line, in a file or - .

    An address, a number or a full name is found whatever its case, accents and punctuation. The hub gets and keeps
    digests. Rows that are here already go by `loradeck dataset erase`.
    """
    listed, wrong = dict[str, OptedOut](), list[int]()
    for number, line in enumerate(people, start=1):
        try:
            listed |= {line.strip(): opted_out(name, line)} if line.strip() else {}
        except ValueError:
            wrong.append(number)
    if wrong or not listed:
        where = f"lines {', '.join(map(str, wrong[:20]))}" if wrong else "the file is empty"
        raise misused("what people are known by needs five letters and digits, on each line", where=where)
    body = checked(OptOut, {"people": [*listed.values()], "reason": reason, "withdrawn": withdrawn}, where="FILE")
    done = await s.api.attest(Attestation.of(AttestationKind.OPT_OUT, digest_of({"tenant": name}), name, body))
    s.out.answer(done, f"rows of {len(body.people)} people {'may come in again' if withdrawn else 'do not come in'}")


async def _change(s: Session, name: str, policy: DataPolicy, reason: str, **fields: object) -> DataPolicy:
    return await s.api.set_data_policy(name, policy.model_copy(update=fields), reason, was=policy)


def _uses(policy: DataPolicy, said: tuple[str, ...]) -> dict[str, dict[str, str]] | None:
    """The uses that a policy allows with what the options say; None: they say nothing. Raises: CliError."""
    if not said:
        return None
    found = {use.value: terms.model_dump() for use, terms in policy.uses.items()}
    for one in said:
        use, equals, words = one.partition("=")
        if not equals or use not in {known.value for known in Use}:
            raise misused("this is no use", where=f"--use {one}", fix="--use judge=PURPOSE, or judge=PURPOSE@REGION")
        purpose, _, region = words.partition("@")
        found.pop(use, None)
        if words:
            found[use] = {"purpose": purpose, "region": region}
    return found


def _terms(terms: UseTerms | None) -> str:
    if terms is None:
        return "not allowed"
    return f"for {terms.purpose}, {f'on nodes of {terms.region}' if terms.region else 'anywhere'}"


def _frozen(freeze: TrainingFreeze) -> str:
    end = "until it is lifted" if freeze.until_ms is None else f"to {utc(freeze.until_ms)}"
    about = f", data of {freeze.source}" if freeze.source else ""
    return f"from {utc(freeze.from_ms)} {end}{about}: {freeze.reason}"


@tenant.command()
@click.argument("name")
@reason_option()
@yes_option
@writes
async def offboard(s: Session, name: str, reason: str, yes: bool) -> None:
    """End a tenant: its routes are taken down, its keys withdrawn, and the key of its rows is destroyed."""
    warning = "Its routes are taken down, and nobody can read its rows any more; this is not undone by `undo`."
    s.confirm(f"Offboard {name}? {warning}", yes=yes)
    _print(s, await s.api.order_tenant(name, "offboard", reason), "offboarded")


@tenant.command("ls")
@hub_command
async def ls(s: Session) -> None:
    """List tenants."""
    s.out.listed(
        await s.api.tenants(),
        ("TENANT", "STATE", "ROUTES", "KEYS"),
        lambda t: (t.name, _state(t), " ".join(sorted(t.routes)) or "-", len(t.keys)),
        empty="no tenants; loradeck tenant create NAME",
    )


@tenant.command()
@click.argument("name")
@hub_command
async def show(s: Session, name: str) -> None:
    """Show a tenant: routes, and the ids of its keys."""
    state = await s.api.tenant(name)
    s.out.json(state)
    s.out.heading(f"{state.name}: {_state(state)}")
    s.out.table(
        ("ROUTE", "PLACEMENT", "MIN REPLICAS", "GATE SUITE", "GAP", "FALLBACK"),
        [
            (
                route,
                _placed(config, state.assigned.get(route, ())),
                config.min_replicas,
                short(config.gate.suite) if config.gate else "-",
                config.gap.value,
                "yes" if config.fallback else "no",
            )
            for route, config in sorted(state.routes.items())
        ],
        empty="no routes",
    )
    s.out.table(("KEY", "SHA-256"), [(key.id, short(key.sha256)) for key in state.keys], empty="no keys")


def _placed(config: RouteConfig, nodes: Sequence[str]) -> str:
    if config.pool is not None:
        return f"pool {config.pool.pool}: {' '.join(nodes) or 'no node yet'}"
    return " ".join(f"{k}={v}" for k, v in config.placement.items()) or "any node"


@tenant.command()
@click.argument("name")
@click.option("--adapters", type=click.IntRange(min=0), help="Most adapter versions.")
@click.option("--mb", type=click.IntRange(min=0), help="Most megabytes of their files.")
@click.option("--weights-mb", type=click.IntRange(min=0), help="Size of whole weights that its jobs make, on nodes.")
@click.option("--slots", type=click.IntRange(min=0), help="Slots of its `always` routes: two on each node of each.")
@click.option("--no-limit", is_flag=True, help="End all limits.")
@reason_option()
@writes
async def quota(
    s: Session,
    name: str,
    adapters: int | None,
    mb: int | None,
    weights_mb: int | None,
    slots: int | None,
    no_limit: bool,
    reason: str,
) -> None:
    """Show or set what a tenant may have: adapter versions and their files at the hub, whole weights on nodes, slots.

    Deprecated versions and revoked weights do not count. What the tenant has already stays. Routes on demand keep no
    slot, and take one when they are asked for.
    """
    use = await s.api.quota(name)
    sizes = {"bytes": mb, "weights": weights_mb}
    given = {"adapters": adapters, "slots": slots, **{key: n and n * 10**6 for key, n in sizes.items()}}
    given = {key: value for key, value in given.items() if value is not None}
    if given or no_limit:
        kept = {} if no_limit else use.quota.model_dump()
        use = await s.api.set_quota(name, checked(Quota, {**kept, **given}, where="options"), reason)
    most = use.quota
    s.out.answer(use, f"{name}: {use.adapters} adapter versions of {_most(most.adapters)}")
    for what, has, size in (("", use.bytes, most.bytes), (" of whole weights on nodes", use.weights, most.weights)):
        s.out.say(f"{has / 1e6:,.1f} MB{what} of {'any size' if size is None else f'{size / 1e6:,.1f} MB'}")
    s.out.say(f"{use.slots} slots of {_most(most.slots)}")


def _most(count: int | None) -> str:
    return "any number" if count is None else str(count)


@tenant.group()
def key() -> None:
    """Keys that a tenant's own callers present to a router."""


@key.command("create")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="New file for the key, mode 0600; else it is printed.")
@writes
async def create_key(s: Session, name: str, out: Path | None) -> None:
    """Create a key. It is shown this once; the hub keeps its hash."""
    if out is None:
        created = await s.api.create_key(name)
        s.out.json(created)
        if not s.out.as_json:
            s.out.raw(created.key)
        return
    with new_secret_file(out) as write:
        created = await s.api.create_key(name)
        write(created.key)
    s.out.answer({"id": created.id, "file": str(out)}, f"key {created.id} of {name} is in {out}")


@key.command("withdraw")
@click.argument("name")
@click.argument("key_id", metavar="ID")
@yes_option
@writes
async def withdraw_key(s: Session, name: str, key_id: str, yes: bool) -> None:
    """Withdraw a key: routers refuse it from the next table on."""
    s.confirm(f"Withdraw key {key_id} of {name}?", yes=yes)
    await s.api.withdraw_key(name, key_id)
    s.out.answer({"id": key_id, "withdrawn": True}, f"key {key_id} of {name} is withdrawn")


def _print(s: Session, state: TenantState, what: str) -> None:
    s.out.answer(state, f"tenant {state.name} is {what}")


def _state(tenant: TenantState) -> str:
    return "offboarded" if tenant.offboarded else "SUSPENDED" if tenant.suspended else "served"
