"""`loradeck --once`: the console's first screen, printed once."""

from collections.abc import Iterable

from loradeck.cli.shared.output import ago, span, utc
from loradeck.cli.shared.session import Session, hub_command
from loradeck.client.capacity_words import share
from loradeck.rules.quality.attention import NEEDS_YOU, harm
from loradeck.rules.serving.counting import PROVEN_STALE_S
from loradeck.schemas.ids import short
from loradeck.schemas.state import HubState, Preview, PreviewAction, TenantRow

_ATTENTION = (*NEEDS_YOU, "AHEAD", "NOPRIOR", "PIN", "SUSP", "OVR", "HELD", "PREP", "CAND")


@hub_command
async def once(s: Session, /) -> None:
    """Print the state and exit."""
    state = await s.api.state()
    s.out.json(state)
    _print_state(s, state)


_WAITING = {
    "disk_full": "free space on the hub's disk, on the hub's host",
    "one_copy": "bring a standby of the database back; ways back are on one server alone",
}
"""Problem code of what forward moves wait for -> what ends the wait."""


def _print_state(s: Session, state: HubState) -> None:
    status = state.status
    up = sum(1 for node in state.nodes if node.linked and not node.lost)
    production = "PRODUCTION " if status.production or s.context.production else ""
    s.out.heading(
        f"{production}{status.hub}  {utc(status.at_ms)}  rev {status.rev}  epoch {status.epoch}  "
        f"nodes {up}/{len(state.nodes)} up  {state.me.actor} ({state.me.role.value})"
    )
    if status.refusing:
        s.out.alarm(f"EVERY MOVE IS REFUSED: {status.refusing}")
    elif status.waiting:
        what = _WAITING.get(status.waiting, "loradeck hub recover, on the hub's host")
        s.out.alarm(f"FORWARD MOVES WAIT: {status.waiting}; {what}")
        for tail in status.lost:
            s.out.alarm(tail.words)
    if status.backup_late:
        s.out.alarm(f"NO BACKUP SINCE {utc(status.last_backup_ms) if status.last_backup_ms else 'the start'}")
    elif status.last_backup_ms:
        s.out.say(f"last backup {ago(status.last_backup_ms, status.at_ms)}")
    pointers(s, state.tenants, status.at_ms)
    lost = [node.node for node in state.nodes if node.lost or not node.linked]
    if lost:
        s.out.alarm(f"link lost: {' '.join(lost)}")
    running = [job for job in state.jobs if job.state.value in ("queued", "assigned", "running")]
    for job in running:
        progress = f" {job.step}/{job.of or '?'}" if job.step is not None else ""
        s.out.say(f"job {job.id} {job.kind} {job.tenant} {job.state.value}{progress} on {job.node or 'no node yet'}")


def pointers(s: Session, rows: Iterable[TenantRow], now_ms: int) -> None:
    """Prints pointer rows as a table, the ones that need attention first, as the console's first screen does."""
    s.out.table(
        ("TENANT", "LIVE", "FOR", "REQ/S", "ERR%", "BAD% WAS>NOW", "PROVEN", "R GOES TO", "READY", "FLAG"),
        [_line(row, now_ms) for row in by_urgency(rows)],
        empty="no routes; loradeck tenant create NAME, then loradeck route set NAME",
    )


def by_urgency(rows: Iterable[TenantRow]) -> list[TenantRow]:
    """Sorts rows: bad ones first and of these the worst, then unproven ones, those without a way back, and the rest."""
    return sorted(rows, key=_urgency)


def _line(row: TenantRow, now_ms: int) -> tuple[object, ...]:
    name = row.tenant if row.route == "production" else f"{row.tenant}/{row.route}"
    moved = row.pointer.moved_ms
    reports = not row.replicas or any(replica.linked for replica in row.replicas)
    return (
        name,
        f"{row.live.label}/{row.live.base_label} {short(row.live.id)}" if row.live else "nothing",
        span((now_ms - moved) / 1000) if moved is not None else "-",
        f"{row.requests_per_s:.1f}" if reports else "-",
        share(row.error_share if reports else None),
        f"{share(row.bad_before)}>{share(row.bad_now)}",
        f"{row.proven}/{row.placed}" + (f" listed {row.listed}" if row.listed else "") + _stale(row),
        *_way_back(row.preview),
        " ".join(row.flags),
    )


def _stale(row: TenantRow) -> str:
    """The age of the proofs, where it is more than that of the last round."""
    proof = row.source("proven")
    return f" · {span(proof.age_s)}" if proof is not None and proof.age_s > PROVEN_STALE_S else ""


def _way_back(preview: Preview) -> tuple[str, str]:
    """The target of R, and how near it is to serving."""
    if preview.action is PreviewAction.CANCEL_PREPARE:
        return "cancels", "-"
    if preview.action is not PreviewAction.ROLLBACK or preview.target is None:
        return "none", "F only" if preview.action is PreviewAction.FALLBACK else "-"
    asks = " y?" if preview.asks else ""
    return (
        f"{preview.target.label}/{preview.target.base_label}{asks}",
        f"{preview.readiness.value} {preview.ready}/{preview.placed}",
    )


def _urgency(row: TenantRow) -> tuple[int, int, str, str]:
    """Sort key: the row's most urgent flag, then what goes wrong there, then its name."""
    worst = min((_ATTENTION.index(flag) for flag in row.flags if flag in _ATTENTION), default=len(_ATTENTION))
    return (worst, -harm(row), row.tenant, row.route)
