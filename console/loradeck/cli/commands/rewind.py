"""The command that moves pointers back to a rev or a time, in one transaction."""

from __future__ import annotations

import click

from loradeck.cli.shared.exits import Exit, refused
from loradeck.cli.shared.naming import moment
from loradeck.cli.shared.options import dry_run_option, incident_option
from loradeck.cli.shared.output import ago, utc
from loradeck.cli.shared.progress import MoveOptions, in_time, move_command
from loradeck.cli.shared.session import Session
from loradeck.client.idempotency import new_key
from loradeck.schemas.ids import short
from loradeck.schemas.moves import RewindPlan, RewindRequest


@click.command()
@click.option("--to", "to", required=True, metavar="REV|TIME", help="A rev, or a time: 14:05Z, '20m ago'.")
@click.option("--tenant", "tenants", multiple=True, help="Only this tenant; may be repeated.")
@dry_run_option
@incident_option
@move_command(timeout=10)
async def rewind(
    s: Session, how: MoveOptions, to: str, tenants: tuple[str, ...], dry_run: bool, incident: str | None
) -> None:
    """Put pointers back as they were at a rev or a time, all in one transaction."""
    to_rev = int(to) if to.isdecimal() else None
    time_ms = None if to_rev is not None else moment(to, interactive=s.interactive)
    key = new_key()
    request = RewindRequest(
        to_rev=to_rev, time_ms=time_ms, tenants=tenants, idempotency_key=key, reason=how.reason, incident=incident
    )
    plan = await s.api.plan_rewind(request)
    _show(s, plan, time_ms)
    if dry_run:
        s.out.json(plan)
        return
    moving = [step for step in plan.steps if step.skipped is None]
    if not moving:
        raise refused(
            "no pointer would move",
            where=f"rev {plan.to_rev}",
            fix="every step is skipped for the reason shown (loradeck rewind --dry-run)",
            code="nothing_to_rewind",
        )
    s.confirm(
        f"Rewind {len(moving)} pointers to rev {plan.to_rev} of {utc(plan.at_ms)} ({ago(plan.at_ms)})?", yes=how.yes
    )
    execute = request.model_copy(
        update={
            # The plan's own rev: exactly the shown moves are made, whatever was committed meanwhile.
            "to_rev": plan.to_rev,
            "time_ms": None,
            "generations": {f"{step.tenant}/{step.route}": step.generation for step in moving},
        }
    )
    result = await s.api.rewind(execute, wait=how.wait, timeout=how.timeout)
    s.out.json(result)
    for event in result.events:
        s.out.say(f" {event.tenant}/{event.route} gen {event.generation}: {' -> '.join(map(short, event.path))}")
    for step in result.skipped:
        s.out.say(f" {step.tenant}/{step.route} stayed: {step.skipped}")
    if not result.events:
        s.out.alarm("nothing moved: every pointer of the plan has moved meanwhile or may not go back")
        raise click.exceptions.Exit(Exit.REFUSED)
    s.out.say(
        f"rewound {len(result.events)} pointers, rev {result.rev}   undo: loradeck undo --txn {result.events[0].txn}"
    )
    in_time(s, result.reached, how.wait)


def _show(s: Session, plan: RewindPlan, time_ms: int | None) -> None:
    if time_ms is not None:
        s.out.say(f"asked for {utc(time_ms)} ({ago(time_ms)})")
    s.out.heading(f"as at rev {plan.to_rev}, committed {utc(plan.at_ms)} ({ago(plan.at_ms)})")
    s.out.table(
        ("POINTER", "GEN", "FROM", "TO", "SKIPPED"),
        [
            (
                f"{step.tenant}/{step.route}",
                step.generation,
                step.from_label or short(step.from_release),
                step.to_label or short(step.to_release),
                step.skipped or "",
            )
            for step in plan.steps
        ],
        empty="no pointers",
    )
