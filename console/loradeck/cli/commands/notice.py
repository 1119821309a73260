"""Commands on notices: what people were told outside the console, the channels, tests and silences."""

import base64
import secrets
from pathlib import Path

import click

from loradeck.cli.shared.files import new_secret_file
from loradeck.cli.shared.naming import seconds_of
from loradeck.cli.shared.options import reason_option
from loradeck.cli.shared.output import utc
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.schemas.notice import ChannelRow, NoticeKind, NoticeRow, SilenceRequest

notice = Noun("notice")


@notice.command("ls")
@click.option("--limit", type=click.IntRange(1, 2000), default=50, show_default=True, help="How many.")
@hub_command
async def ls(s: Session, limit: int) -> None:
    """List notices, the newest first, and the silences."""
    found = await s.api.notices(limit=limit)
    s.out.listed(
        found.notices,
        ("AT", "KIND", "SEVERITY", "NOTICE", "NOT GIVEN TO"),
        lambda row: (utc(row.notice.at_ms), row.notice.kind, row.notice.severity, row.notice.title, _waits(row)),
        empty="nobody was told anything yet",
    )
    for one in found.silences:
        what = " ".join(f"{name} {value}" for name, value in _matched(one.kind, one.tenant, one.node))
        s.out.say(f"silence {one.id} until {utc(one.until_ms)}: {what}, by {one.by}: {one.reason}")
    if found.fault:
        s.out.alarm(f"the file of channels cannot be used as it is now: {found.fault}")


def _matched(kind: str | None, tenant: str | None, node: str | None) -> list[tuple[str, str]]:
    return [(name, value) for name, value in (("kind", kind), ("tenant", tenant), ("node", node)) if value is not None]


def _waits(row: NoticeRow) -> str:
    return ", ".join(f"{one.channel}{' (given up)' if one.next_ms is None else ''}" for one in row.waiting) or "-"


@notice.command()
@hub_command
async def channels(s: Session) -> None:
    """List the channels, and whether they take what they are given."""
    found = await s.api.notices(limit=1)
    s.out.listed(
        found.channels,
        ("CHANNEL", "KIND", "FROM", "TENANTS", "WAITING", "GIVEN UP", "LAST TOOK ONE", "FAILS WITH"),
        _channel,
        empty="the file of channels names none",
    )
    if found.fault:
        s.out.alarm(f"the file of channels cannot be used as it is now: {found.fault}")


def _channel(row: ChannelRow) -> tuple[object, ...]:
    given = utc(row.given_ms) if row.given_ms is not None else "-"
    tenants = ", ".join(row.tenants) or "all"
    return (row.name, row.kind, row.least, tenants, row.waiting, row.dead, given, row.error or "-")


@notice.command()
@click.argument("channel")
@writes
async def test(s: Session, channel: str) -> None:
    """Tell one channel that this is a test."""
    sent = await s.api.test_notice(channel)
    s.out.answer(sent, f"{channel} is being told; `loradeck notice channels` says whether it took it")


@notice.command()
@click.argument("channel")
@writes
async def retry(s: Session, channel: str) -> None:
    """Give a channel at once what waits for it or was given up."""
    due = await s.api.retry_notices(channel)
    s.out.answer({"channel": channel, "due": due}, f"{channel} is being given {due} notices")


@notice.command()
@click.option("--kind", type=click.Choice([kind.value for kind in NoticeKind]), help="Only of this kind.")
@click.option("--tenant", help="Only of this tenant.")
@click.option("--node", help="Only of this node.")
@click.option("--for", "span", metavar="SPAN", required=True, help="How long: 90m, 12h or 7d.")
@reason_option(required=True)
@writes
async def silence(s: Session, kind: str | None, tenant: str | None, node: str | None, span: str, reason: str) -> None:
    """Tell nobody of what matches, for some time. What was told before stays told."""
    wanted = {"kind": kind, "tenant": tenant, "node": node}
    request = SilenceRequest.model_validate({**wanted, "seconds": seconds_of(span, "--for"), "reason": reason})
    made = await s.api.silence(request)
    s.out.answer(made, f"silence {made.id} until {utc(made.until_ms)}; loradeck notice unsilence {made.id} ends it")


@notice.command()
@click.argument("silence_id", metavar="ID")
@writes
async def unsilence(s: Session, silence_id: str) -> None:
    """End a silence."""
    await s.api.unsilence(silence_id)
    s.out.answer({"id": silence_id, "ended": True}, f"silence {silence_id} is over")


@notice.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New file for the secret, mode 0600.")
def secret(out: Path) -> None:
    """Make the secret of a webhook, written to a file of mode 0600; it is never shown."""
    with new_secret_file(out) as write:
        write(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}")
    click.echo(f"a secret is in {out}: it goes into the file of channels and to whoever checks the signatures")
