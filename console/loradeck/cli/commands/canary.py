"""Canaries: prompts that tell a release from its base and the one before it, and what nodes recorded of them."""

from collections import defaultdict

import click

from loradeck.cli.shared.exits import Exit, refused
from loradeck.cli.shared.naming import owned_named, pointer_and_release, release_named
from loradeck.cli.shared.options import reason_option, yes_option
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.rules.serving.canaries import Stated, agreed, alike, voices
from loradeck.schemas.attestation import Attestation, AttestationKind, CanaryRecord
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import AdapterManifest
from loradeck.schemas.route import Suggestion, Suggestions, SuggestRequest

_SHOWN = 60
"""Characters of a prompt in the table."""

canary = Noun("canary")


@canary.command("suggest")
@click.argument("words", nargs=-1, required=True, metavar="TENANT [ROUTE] RELEASE")
@click.option("--dataset", metavar="NAME", help="Dataset whose rows are tried; by default one it was trained on.")
@click.option(
    "--prompts", type=click.IntRange(1, 64), default=24, show_default=True, help="Rows to try, spread over the dataset."
)
@click.option("--apply", is_flag=True, help="Put the proposed ones in the place of the route's canaries.")
@yes_option
@writes
async def suggest(
    s: Session, words: tuple[str, ...], dataset: str | None, prompts: int, apply: bool, yes: bool
) -> None:
    """Propose canaries of a release from rows of a dataset, with the margins measured.

    An engine that serves is asked for the release, its base and the other release of the route: at least 0.5 nat over
    every one makes a canary by which the release is proven. Without --apply nothing changes.
    """
    at, name = pointer_and_release(words)
    release = await release_named(s.api, at.tenant, name)
    if dataset is not None:
        digest = owned_named("dataset", dataset, at.tenant, await s.api.datasets())
    else:
        manifest = (await s.api.release(release.id)).manifest
        trained_on = manifest.datasets if isinstance(manifest, AdapterManifest) else ()
        if not trained_on:
            raise refused(
                f"{release.label} names no dataset that it was trained on",
                where=f"{at.tenant} {release.label} {short(release.id)}",
                fix="register rows like those it was trained on with `loradeck dataset add`, and give --dataset NAME",
                code="no_prompts",
            )
        digest = trained_on[-1]
    request = SuggestRequest(release=release.id, dataset=digest, prompts=prompts)
    s.out.say(f"asking an engine for {prompts} prompts with {release.label} and what it could be taken for ...")
    found = await s.api.suggest_canaries(at.tenant, at.route, request)
    s.out.json(found)
    _print(s, found)
    proposed = [one for one in found.prompts if one.proposed]
    if not proposed:
        s.out.alarm(f"no row tells {release.label} from {' or '.join(found.others.values())}: it can only be listed")
        s.out.say("  try more rows (--prompts 64) or another dataset (--dataset)")
        raise click.exceptions.Exit(Exit.REFUSED)
    if not apply:
        again = " ".join(["loradeck canary suggest", *words, *(["--dataset", dataset] if dataset else [])])
        s.out.say(f"in force with: {again}{f' --prompts {prompts}' if prompts != 24 else ''} --apply")
        return
    config = (await s.api.tenant(at.tenant)).routes[at.route]
    s.confirm(f"Replace the {len(config.canaries)} canaries of {at} by these {len(proposed)}?", yes=yes)
    canaries = tuple(one.messages for one in proposed)
    await s.api.set_route(at.tenant, at.route, config.model_copy(update={"canaries": canaries}))
    s.out.say(f"{at} has {len(canaries)} canaries now; what it serves is proven by them within seconds")


@canary.command("ls")
@click.argument("tenant")
@click.argument("release", metavar="RELEASE")
@hub_command
async def ls(s: Session, tenant: str, release: str) -> None:
    """List what nodes recorded of a release's answers, and which of it counts."""
    view = await release_named(s.api, tenant, release)
    found = await _records(s, view.id)
    s.out.json([attestation for attestation, _ in found])
    counting = _counting(found)
    s.out.table(
        ("SEQ", "BY", "BUILD", "CANARY", "TOKENS", "COUNTS"),
        [
            (
                str(attestation.seq),
                attestation.by,
                record.build.engine,
                short(item.prompt),
                " ".join(map(str, item.tokens)),
                counting.get((record.build.key, item.prompt, attestation.by), "no"),
            )
            for attestation, record in found
            for item in record.items
        ],
        empty=f"no node has recorded what {view.label} answers",
    )


@canary.command("withdraw")
@click.argument("tenant")
@click.argument("release", metavar="RELEASE")
@click.option("--by", required=True, metavar="NODE", help="Whose records of this release count no more.")
@reason_option(required=True)
@yes_option
@writes
async def withdraw(s: Session, tenant: str, release: str, by: str, reason: str, yes: bool) -> None:
    """Withdraw what a node recorded of a release's answers, with a reason.

    Nodes see it with their next proof, within a minute. What the node records later counts again.
    """
    view = await release_named(s.api, tenant, release)
    wrong = [(attestation, record) for attestation, record in await _records(s, view.id) if attestation.by == by]
    if not wrong:
        raise refused(f"{by} has recorded nothing of {view.label}", fix=f"loradeck canary ls {tenant} {release}")
    s.confirm(f"Withdraw {len(wrong)} records that {by} made of {view.label}?", yes=yes)
    builds = {record.build.key: record.build for _, record in wrong}
    for name, build in builds.items():
        seqs = tuple(attestation.seq for attestation, record in wrong if record.build.key == name)
        body = CanaryRecord(release=view.id, build=build, items=(), withdraws=seqs, reason=reason)
        s.out.json(await s.api.attest(Attestation.of(AttestationKind.CANARY, view.id, tenant, body)))
    s.out.say(f"{len(wrong)} of {by}'s records count no more")


async def _records(s: Session, release: str) -> list[tuple[Attestation, CanaryRecord]]:
    found = await s.api.attestations(kind=AttestationKind.CANARY, subject=release)
    return [(attestation, CanaryRecord.model_validate(attestation.body)) for attestation in found]


def _counting(found: list[tuple[Attestation, CanaryRecord]]) -> dict[tuple[str, str, str], str]:
    """(engine build, prompt, who recorded it) -> 'yes', or 'disputed' where nodes contradict each other."""
    builds: dict[str, list[Stated]] = defaultdict(list)
    for attestation, record in found:
        builds[record.build.key].append(Stated(attestation.seq, attestation.by, record))
    result: dict[tuple[str, str, str], str] = {}
    for build, stated in builds.items():
        now = agreed(stated)
        for prompt in (*now.items, *now.disputed):
            for by, item in voices(stated, prompt).items():
                if prompt in now.disputed:
                    result[build, prompt, by] = "disputed"
                elif alike(item, now.items[prompt]):
                    result[build, prompt, by] = "yes"
    return result


def _print(s: Session, found: Suggestions) -> None:
    s.out.heading(f"asked {found.replica} ({found.build})   margins in nats, - is not told apart; * is proposed")
    asked = [release for release in found.others if release not in found.not_asked]
    s.out.table(
        ("", "ROW", "SMALLEST", *(f"OVER {found.others[release]}" for release in asked), "PROMPT"),
        [
            (
                "*" if one.proposed else "",
                one.where,
                _nats(one.margin),
                *(_nats(one.margins.get(release)) for release in asked),
                _shown(one),
            )
            for one in found.prompts
        ],
        empty="no prompt was tried",
    )
    for release, why in found.not_asked.items():
        s.out.alarm(f"not compared with {found.others[release]}: {why}")


def _nats(margin: float | None) -> str:
    return "-" if margin is None else f"{margin:.2f}"


def _shown(one: Suggestion) -> str:
    text = " ".join(one.messages[-1]["content"].split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
