"""`loradeck audit forward`: the audit trail as OCSF to a syslog receiver, from a cursor on, nothing lost meanwhile."""

import asyncio
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import click
from pydantic import ValidationError

from loradeck.artifacts.staging import replace_durably
from loradeck.cli.shared.exits import misused, refused
from loradeck.cli.shared.session import Session, hub_command
from loradeck.client import ocsf
from loradeck.client.api import HubApi
from loradeck.client.backoff import Backoff
from loradeck.client.errors import HubUnreachable
from loradeck.client.syslog import Receiver, message
from loradeck.schemas.audit import AuditLine
from loradeck.schemas.ids import Digest, Strict, digest_of

LOOK_S = 5.0
"""Seconds between two looks for new lines."""


class Cursor(Strict):
    """The last line that the receiver has confirmed, and its digest, which another hub's trail would not have."""

    line: int = 0
    digest: Digest | None = None


@click.command()
@click.argument("receiver", metavar="tls://HOST[:PORT]|unix:PATH")
@click.option(
    "--cursor",
    "file",
    type=click.Path(path_type=Path),
    required=True,
    help="File that says how far it got. Made where there is none: then from the first line on.",
)
@click.option("--ca-file", type=click.Path(path_type=Path), help="Authorities that the receiver's certificate is of.")
@click.option("--cert", type=click.Path(path_type=Path), help="Certificate to show to the receiver, PEM.")
@click.option("--key", type=click.Path(path_type=Path), help="Its key, PEM, mode 0600.")
@click.option("--without-close-notify", is_flag=True, help="For receivers that end connections without TLS's own end.")
@click.option("--once", is_flag=True, help="End when all lines are delivered, and fail when the receiver is away.")
@hub_command
async def forward(
    s: Session,
    receiver: str,
    file: Path,
    ca_file: Path | None,
    cert: Path | None,
    key: Path | None,
    without_close_notify: bool,
    once: bool,
) -> None:
    """Send the audit trail to a syslog receiver, as OCSF 1.8.0 in JSON, and go on until it is ended.

    A line counts as sent once the receiver has confirmed the end of its connection; until then it is sent again. While
    the receiver or the hub is away nothing is lost: the hub keeps the trail. It takes a releaser's token for all
    tenants (`loradeck token create --name siem --role releaser --only state --only events --out siem.token`).
    docs/regulated.md.
    """
    to = await asyncio.to_thread(_receiver, receiver, ca_file, cert, key, trusting=without_close_notify)
    cursor, hub = await asyncio.to_thread(_opened, file), (await s.api.state()).status.hub
    failures, backoff = 0, Backoff(cap=60)
    while True:
        try:
            lines = await _newer(s.api, cursor, file)
            if lines:
                await asyncio.to_thread(to.deliver, [message(ocsf.event(line, hub), hub) for line in lines])
                after = Cursor(line=lines[-1].seq, digest=digest_of(lines[-1]))
                await asyncio.to_thread(replace_durably, file, after.model_dump_json().encode())
                cursor = after
        except (OSError, HubUnreachable) as error:
            if once and isinstance(error, HubUnreachable):
                raise
            if once:
                raise refused(
                    "the receiver did not take the lines",
                    where=f"{to}: {error}",
                    fix="they are sent again next time: the cursor stands where it stood",
                    code="unanswered",
                ) from None
            if not failures:
                s.out.alarm(f"{to}: waits after line {cursor.line}: {error}")
            failures += 1
            await asyncio.sleep(1 + backoff.pause(failures))
            continue
        if failures:
            s.out.say(f"{to}: goes on after line {cursor.line}")
        failures = 0
        if once and not lines:
            s.out.answer({"line": cursor.line}, f"{to} has all lines up to {cursor.line}")
            return
        if not lines:
            await asyncio.sleep(LOOK_S)


async def _newer(api: HubApi, cursor: Cursor, file: Path) -> list[AuditLine]:
    """The lines after a cursor. It has to stand at one of the trail at each look: a hub may be restored meanwhile."""
    lines = await api.audit_trail(after=max(cursor.line - 1, 0))
    if cursor.line == 0:
        return lines
    if not lines or digest_of(lines[0]) != cursor.digest:
        raise refused(
            "the hub's audit trail is not the one that this cursor is of",
            where=f"{file}: line {cursor.line}",
            fix="after a restore, compare with the receiver and loradeck audit verify; begin anew with another file",
            code="digest_mismatch",
        )
    return lines[1:]


def _receiver(where: str, ca_file: Path | None, cert: Path | None, key: Path | None, *, trusting: bool) -> Receiver:
    if where.startswith("unix:"):
        return Receiver(path=Path(where.removeprefix("unix:")))
    try:
        parts = urlsplit(where)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme != "tls" or not parts.hostname or parts.path not in ("", "/"):
        raise misused("this is no receiver", where=where, fix="tls://HOST:6514, or unix:PATH of a stream socket")
    if (cert is None) != (key is None):
        raise misused("a certificate has a key", where="--cert, --key", fix="give both")
    if key is not None and key.exists() and key.stat().st_mode & 0o077:
        raise misused("others may read the key", where=str(key), fix=f"chmod 600 {key}", code="key_exposed")
    try:
        tls = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        if cert is not None and key is not None:
            tls.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise misused("a certificate or its key cannot be read", where=str(error), fix="give PEM files") from None
    return Receiver(host=parts.hostname, port=port or Receiver.port, tls=tls, trusting=trusting)


def _opened(file: Path) -> Cursor:
    """Reads a cursor, or makes one at the beginning. It is written anew at once, so that nothing is sent in vain."""
    try:
        cursor = Cursor.model_validate_json(file.read_bytes()) if file.exists() else Cursor()
        replace_durably(file, cursor.model_dump_json().encode())
    except (OSError, ValidationError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is no cursor"
        raise misused("the cursor cannot be used", where=f"{file}: {what}", fix="name another file") from None
    return cursor
