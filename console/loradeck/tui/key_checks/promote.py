"""The release that p offers, and whether its gate lets it be promoted."""

from collections.abc import Sequence

from loradeck.client import capacity_words
from loradeck.client.terminal_text import clean
from loradeck.schemas.attestation import CheckResult, GateResult
from loradeck.schemas.capacity import CapacityPlan
from loradeck.schemas.moves import PromoteRequest
from loradeck.schemas.state import ReleaseView, TenantRow
from loradeck.tui.key_checks.rollback import lock
from loradeck.tui.key_checks.verdict import Ask, Verdict, barrier, live_by, off
from loradeck.tui.keys.action import Action
from loradeck.tui.model.sent_moves import Move
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import plural, release


def newest(releases: Sequence[ReleaseView], row: TenantRow) -> ReleaseView | None:
    """The release p offers: the highest version of the tenant's that is not live."""
    known = [view for view in releases if view.adapter is not None and (row.live is None or view.id != row.live.id)]
    return max(known, key=lambda view: (_number(view.label), view.label), default=None)


def _number(label: str) -> int:
    digits = label.lstrip("v")
    return int(digits) if digits.isdecimal() else -1


def offer(
    state: ConsoleState,
    row: TenantRow,
    candidate: ReleaseView,
    gate: GateResult | None,
    asks: str | None = None,
    fits: CapacityPlan | None = None,
    on_demand: bool = False,
    *,
    override: bool,
) -> Verdict:
    """Decide on a promote of `candidate`: it always asks; against its gate it needs `override` and a typed reason.

    Only the reasons known here are checked here; the hub decides.

    `asks`: what the hub says to ask about this promote (`TenantRow.promote_asks`).
    `fits`: whether it fits, and who would be colder for it; None: the hub does not say.
    `on_demand`: it sets the route on demand (`TenantRow.promote_on_demand`).
    """
    barred = barrier(Action.PROMOTE, state)
    if barred is not None:
        return barred
    if row.live is not None and candidate.id == row.live.id:
        return off(state, Action.PROMOTE, f"{release(candidate)} is live already")
    if not row.settled and lock(state, row) is not None:
        return off(
            state, Action.PROMOTE, f"still moving: flipped {row.flipped}/{row.placed}, proven {row.proven}/{row.placed}"
        )
    if any(entry.release == candidate.id for entry in row.pointer.quarantined):
        lift = f"loradeck lift {row.tenant} {row.route} {clean(candidate.label)}"
        return off(
            state,
            Action.PROMOTE,
            f"{clean(candidate.label)} is quarantined here; {lift} ends that; :promote vN names another",
        )
    if row.pointer.held:
        return off(state, Action.PROMOTE, f"the pointer is held; {state.keys.shown(Action.HOLD)} releases the hold")
    trouble = gate_says(gate) if gate is not None and not gate.passed else None
    key = state.keys.shown(Action.PROMOTE)
    says = f"{key} {release(row.live)} > {release(candidate)}"
    request = PromoteRequest(
        release=candidate.id,
        expected_generation=row.pointer.generation,
        override=override,
        idempotency_key=state.make_key(),
        on_demand=on_demand,
    )
    move = Move(Action.PROMOTE, row.tenant, row.route, request, says + (" OVERRIDE" if override else ""))
    line = f"{key} {row.tenant}/{row.route} {release(row.live)} > {release(candidate)}: "
    if trouble and not override:
        return off(state, Action.PROMOTE, f"{trouble}; :promote! {clean(candidate.label)} overrides, with a reason")
    asked = f"; {clean(capacity_words.verdict(fits))}" if fits is not None else ""
    asked += f"; asks: {clean(asks)}" if asks else ""
    colder = tuple(clean(said) for said in capacity_words.lines(fits, 3)) if fits is not None and fits.total else ()
    if override:
        return Ask(f"{line}OVERRIDE, {trouble or gate_says(gate)}{asked}", (move,), wants_reason=True, listed=colder)
    return Ask(f"{line}{gate_says(gate)}{live_by(state, row)}{asked}", (move,), listed=colder)


def gate_says(gate: GateResult | None) -> str:
    """'gate passed', or the failed checks with their figures."""
    if gate is None:
        return "no gate result on record (a route with a gate refuses it)"
    failed = [check for check in gate.checks if not check.passed]
    if gate.passed and not failed:
        return f"gate passed ({plural(len(gate.checks), 'check')})"
    return "gate " + ", ".join(_missed(check) for check in failed)


def _missed(check: CheckResult) -> str:
    """A failed check: 'json 71 < 95', or why it failed although its figure would do."""
    enough = check.value <= check.threshold if check.at_most else check.value >= check.threshold
    if enough:
        return f"{clean(check.name)} failed ({clean(check.note) or f'n {check.n}'})"
    sign = ">" if check.at_most else "<"
    if check.unit != "share":
        return f"{clean(check.name)} {check.in_unit(check.value)} {sign} {check.in_unit(check.threshold)}"
    return f"{clean(check.name)} {_percent(check.value)} {sign} {_percent(check.threshold)}"


def _percent(share: float) -> str:
    """A share as percent: 71, or 2.4 if the decimal is not zero."""
    return f"{share * 100:.1f}".removesuffix(".0")
