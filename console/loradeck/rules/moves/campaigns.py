"""Campaigns: what one does next, when it stops, and the events that it consists of.

Routes go in waves: the next one begins when no route of the last is under way. A route that something keeps back which
is no fault of its release (a freeze, a hold, no reachable node, a review that nobody has signed) is held, and goes on
once that is over; it neither counts as failed nor keeps its wave waiting. A route that somebody else has moved since
the campaign began is left aside, as they have it. A wave of nodes takes no route's last ready replica: a node that
alone answers for one is held until another does.

The campaign stops when it is seen that more routes fail than are tolerated. The evidence is a likelihood ratio of the
routes that are decided, averaged over a few larger shares, so that it may be looked at after each of them: a campaign
whose routes fail as often as is tolerated, or less, is stopped with a probability of ALPHA at the most (Ville, 1939),
whatever its waves and however many routes it has. docs/campaigns.md has how often, and how soon a bad base is stopped.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor, tenant_draft
from loradeck.rules.quality.statistics import ALPHA
from loradeck.schemas.campaign import (
    UNDER_WAY,
    WHY,
    Campaign,
    CampaignPlan,
    CampaignState,
    CampaignUnit,
    Stage,
)
from loradeck.schemas.ids import Digest
from loradeck.schemas.jobs import FLEET as NODES
from loradeck.schemas.jobs import OVER, JobState
from loradeck.schemas.log import FLEET, Draft, Event, EventKind

TIMES = (2.0, 4.0, 8.0)
"""Shares that the evidence is for, as multiples of the tolerated one."""

LARGEST = 0.95
"""The largest of those shares."""

PROVE_MS = 60_000
"""How long a node with the new build is back at the least before it has moved: routes are assigned and loaded first."""

ALONE = "it alone answers for "

FAULTS = frozenset(
    {
        "quarantined",
        "revoked",
        "unknown_release",
        "wrong_tenant",
        "offboarded",
        "prepare_failed",
        "deprecated",
        "candidate_unfit",
        "unsupported_adapter",
        "gate_failed",
        "bad_report",
        "unknown_dataset",
        "prepare_cancelled",  # by R: it is not begun again over somebody's head
    }
)
"""Codes of refusals by which a route has failed. Any other may end, and holds it."""


ENDS = (Stage.ASIDE, Stage.FAILED)
"""Stages with which a route ends without having moved."""


class Seen(NamedTuple):
    """What there is of a route now.

    Attributes:
        job: state of its training; None: there is none. `made`: the release that it made.
        gate: whether its gate is passed; None: that is not known yet. `awaits`: what only people or time bring.
        live: the release that callers get; `out`: the candidate. `back`: the last move took its release back since its
            stage began, perhaps while no hub noted that it was out. `forward`: it was a promote, or a candidate's
            finish.
        says: in words, why the job or the gate ended so, or what last moved the pointer; `last`: the latter alone.
        drained, built, proven: of a node, whether it is drained, all its engines have the new build, and all that is
            placed there is proven (False: something failed there; None: not yet). `answers`: the routes that it answers
            for, each with the other nodes that do, or of its pool may, and are not drained.
        refused: code and words of the refusal of what was tried last; None: it was not refused.
    """

    job: JobState | None = None
    made: Digest | None = None
    gpu_hours: float | None = None
    gate: bool | None = None
    awaits: str = ""
    live: Digest | None = None
    out: Digest | None = None
    start: str = ""
    soaked: bool = False
    back: bool = False
    forward: bool = False
    says: str = ""
    last: str = ""
    drained: bool = False
    built: bool = False
    proven: bool | None = None
    answers: tuple[tuple[str, frozenset[str]], ...] = ()
    refused: tuple[str, str] | None = None


class Act(NamedTuple):
    """What is done for a route now. `what`: train, evaluate, start (its release goes out), or take back; for a node
    drain, or return.
    """

    unit: CampaignUnit
    what: str


class Decision(NamedTuple):
    """What a campaign does next: acts, then the routes and the state that have changed, which become events."""

    acts: tuple[Act, ...] = ()
    units: tuple[CampaignUnit, ...] = ()
    state: CampaignState | None = None
    why: str = ""


# ---- the stop rule ---------------------------------------------------------------------------------------


def evidence(failed: int, moved: int, tolerated: float) -> float:
    """Says how many times likelier these counts are where more routes fail than are tolerated (a share, 0 to 1)."""
    shares = [min(times * tolerated, LARGEST) for times in TIMES]
    return math.fsum(
        math.pow(share / tolerated, failed) * math.pow((1 - share) / (1 - tolerated), moved) for share in shares
    ) / len(shares)


def stops(plan: CampaignPlan, failed: int, moved: int) -> str:
    """Says why a campaign stops with so many routes failed and moved; '': it goes on."""
    if plan.most_failed is not None and failed > plan.most_failed:
        return f"{failed} routes have failed, and {plan.most_failed} may"
    if evidence(failed, moved, plan.tolerated) >= 1 / ALPHA:
        return f"{failed} of {failed + moved} routes have failed: surely more than {100 * plan.tolerated:g} %"
    return ""


# ---- what is next ----------------------------------------------------------------------------------------


def decide(campaign: Campaign, seen: Mapping[str, Seen], now_ms: int) -> Decision:
    """Decides what a campaign does next. `seen`: of each route that is not waiting and not decided."""
    if campaign.state in (CampaignState.STOPPED, CampaignState.REWOUND):
        ending = {unit: _is_there(unit, seen[unit.name]) for unit in campaign.under_way}
        why = f"the campaign was {campaign.state.value}"
        held = (_changed(u, now_ms, stage=Stage.HELD, why=why) for u, there in ending.items() if not there)
        return Decision(tuple(Act(unit, "take back") for unit, there in ending.items() if there), tuple(held))
    if campaign.state not in (CampaignState.RUNNING, CampaignState.PAUSED):
        return Decision()
    runs, acts, after = campaign.state is CampaignState.RUNNING, list[Act](), dict(campaign.units)
    leaving = set[str]()
    for unit in campaign.under_way:
        what, then = _next(unit, seen[unit.name], campaign.plan, now_ms)
        if what == "drain" and (last := last_of(seen[unit.name], leaving)):
            what, then = "", _stays(unit, then, last)
        leaving |= {unit.route} if what == "drain" else set()
        after[unit.name] = then
        ends = then.stage in ENDS  # what goes with it is done in a pause, too
        acts += [Act(unit, what)] if what and (runs or ends) else []
    now = campaign.model_copy(update={"units": after})
    state, why, opened = _wave(now, now_ms) if runs else (None, "", {})
    changed = tuple(unit for name, unit in (after | opened).items() if unit != campaign.units[name])
    return Decision(tuple(acts), changed, state, why)


def without(decision: Decision, campaign: Campaign, undone: Collection[str]) -> Decision:
    """Takes out what hangs on acts that were not done: the end of their routes, and what would begin or end with it."""
    ends = {unit.name for unit in decision.units if unit.name in undone and unit.stage in ENDS}
    units = tuple(u for u in decision.units if u.name not in ends and campaign.units[u.name].stage is not Stage.WAITING)
    return decision._replace(units=units, state=None, why="") if ends else decision


def _wave(now: Campaign, now_ms: int) -> tuple[CampaignState | None, str, dict[str, CampaignUnit]]:
    """The state that a running campaign gets, why, and the routes that begin."""
    if why := stops(now.plan, now.count(Stage.FAILED), now.count(Stage.MOVED)):
        return CampaignState.STOPPED, why, {}
    waiting = [unit for unit in now.units.values() if unit.stage is Stage.WAITING]
    if now.count(*UNDER_WAY) or (not waiting and now.count(Stage.HELD)):
        return None, "", {}
    if not waiting:
        left = f", {aside} left aside" if (aside := now.count(Stage.ASIDE)) else ""
        return CampaignState.DONE, f"{now.count(Stage.MOVED)} moved, {now.count(Stage.FAILED)} failed{left}", {}
    begin, most = waiting[: now.plan.wave], now.plan.gpu_hours
    hours = math.fsum(unit.gpu_hours for unit in now.units.values() if unit.wave) + math.fsum(
        unit.gpu_hours for unit in begin if unit.release is None
    )
    if most is not None and hours > most:
        return CampaignState.PAUSED, f"the next wave would take it to {hours:.1f} of {most:g} GPU hours", {}
    wave = 1 + max(unit.wave for unit in now.units.values())
    return None, "", {unit.name: _changed(unit, now_ms, stage=_first(unit), wave=wave) for unit in begin}


def _first(unit: CampaignUnit) -> Stage:
    """The stage with which a route or a node begins."""
    if unit.tenant == NODES:
        return Stage.DRAINING
    return Stage.TRAINING if unit.release is None else Stage.GATING


def _next(unit: CampaignUnit, seen: Seen, plan: CampaignPlan, now_ms: int) -> tuple[str, CampaignUnit]:
    """Says what is done for a route that is under way ('': nothing), and how it is after what was seen of it."""
    before = unit.at in (Stage.TRAINING, Stage.GATING) and not seen.back
    if (before or (unit.at is Stage.CANARY and seen.forward)) and is_moved(unit, seen.live):
        why = f"somebody else has moved it: {seen.last}"
        hours = 0.0 if unit.at is Stage.TRAINING and seen.job is None else unit.gpu_hours  # its training never began
        aside = _changed(unit, now_ms, stage=Stage.ASIDE, why=why, gpu_hours=hours)
        return "take back" if _is_there(unit, seen) else "", aside
    what, after = _STEPS[unit.at](unit, seen, now_ms)
    if what == "start" and seen.out is not None:
        seen = seen._replace(refused=("candidate_out", f"another candidate is out: {seen.last}"))
    if after.stage is not unit.at:
        return what, after
    if what and seen.refused is not None and seen.refused[0] in FAULTS:
        return "", _changed(unit, now_ms, stage=Stage.FAILED, resumes=None, why=seen.refused[1])
    why = seen.refused[1] if what and seen.refused is not None else ""
    if not why and now_ms - unit.since_ms > 1000 * plan.patience_s:
        why = f"{unit.at.value} for more than {plan.patience_s / 3600:g} hours" + (seen.awaits and f": {seen.awaits}")
    if why:
        return what, unit.model_copy(update={"stage": Stage.HELD, "resumes": unit.at, "why": why[:WHY]})
    return what, unit.model_copy(update={"stage": unit.at, "resumes": None, "why": seen.awaits[:WHY]})


def is_moved(unit: CampaignUnit, live: Digest | None) -> bool:
    """Tells whether callers of a route get another release than when the campaign began, by somebody else's move."""
    return unit.was is not None and (live or "") not in (unit.was, unit.release)


def last_of(seen: Seen, leaving: Collection[str]) -> str:
    """Names a route that nobody would answer for if this node and those that leave with it were drained; '': none."""
    return min((route for route, others in seen.answers if others <= {*leaving}), default="")


def _stays(unit: CampaignUnit, after: CampaignUnit, last: str) -> CampaignUnit:
    """The node, as it is where it may not be drained since it alone answers for a route."""
    why = f"{ALONE}{last}"
    if after.stage is Stage.FAILED:
        return after.model_copy(update={"why": f"{after.why}; not drained, since {why}"[:WHY]})
    kept = unit.why if unit.why.startswith(ALONE) else why  # no event for each other route that has only this one
    return after.model_copy(update={"stage": Stage.HELD, "resumes": unit.at, "why": kept[:WHY]})


def _trains(unit: CampaignUnit, seen: Seen, now_ms: int) -> tuple[str, CampaignUnit]:
    if seen.job is None:
        return "train", unit.model_copy(update={"stage": unit.at})
    if seen.job is JobState.DONE and seen.made is not None:
        hours = unit.gpu_hours if seen.gpu_hours is None else seen.gpu_hours
        return "", _changed(unit, now_ms, stage=Stage.GATING, release=seen.made, gpu_hours=hours)
    if seen.job in (JobState.FAILED, JobState.CANCELLED, JobState.DONE):
        return "", _changed(unit, now_ms, stage=Stage.FAILED, why=f"training: {seen.says or seen.job.value}")
    return "", unit.model_copy(update={"stage": unit.at})


def _is_there(unit: CampaignUnit, seen: Seen) -> bool:
    """Tells whether there is something under way for a route or a node that a stop takes back."""
    trains = seen.job is not None and seen.job not in OVER
    return trains or seen.drained or (seen.out is not None and seen.out == unit.release)


def _is_out(unit: CampaignUnit, seen: Seen) -> bool:
    return unit.release is not None and unit.release in (seen.live, seen.out)


def _is_gated(unit: CampaignUnit, seen: Seen, now_ms: int) -> tuple[str, CampaignUnit]:
    if _is_out(unit, seen):
        return "", _changed(unit, now_ms, stage=Stage.CANARY, start=seen.start)
    if seen.back:
        return "", _changed(unit, now_ms, stage=Stage.FAILED, why=f"it was taken back: {seen.says}")
    if seen.gate is False and not seen.awaits:
        return "", _changed(unit, now_ms, stage=Stage.FAILED, why=f"gate: {seen.says}")
    what = "" if seen.awaits else "start" if seen.gate else "evaluate"
    return what, unit.model_copy(update={"stage": unit.at})


def _is_tried(unit: CampaignUnit, seen: Seen, now_ms: int) -> tuple[str, CampaignUnit]:
    if not _is_out(unit, seen):
        return "", _changed(unit, now_ms, stage=Stage.FAILED, why=f"it was taken back: {seen.says}")
    if unit.release == seen.live and seen.soaked:
        return "", _changed(unit, now_ms, stage=Stage.MOVED)
    return "", unit.model_copy(update={"stage": unit.at})


def _drains(unit: CampaignUnit, seen: Seen, now_ms: int) -> tuple[str, CampaignUnit]:
    if seen.built:
        return "", _changed(unit, now_ms, stage=Stage.PROVING)
    return "" if seen.drained or seen.awaits else "drain", unit.model_copy(update={"stage": unit.at})


def _proves(unit: CampaignUnit, seen: Seen, now_ms: int) -> tuple[str, CampaignUnit]:
    if seen.proven is False:
        return "drain", _changed(unit, now_ms, stage=Stage.FAILED, why=seen.says)
    if seen.proven and not seen.drained and now_ms - unit.since_ms >= PROVE_MS:
        return "", _changed(unit, now_ms, stage=Stage.MOVED)
    return "return" if seen.drained else "", unit.model_copy(update={"stage": unit.at})


_STEPS = {
    Stage.TRAINING: _trains,
    Stage.GATING: _is_gated,
    Stage.CANARY: _is_tried,
    Stage.DRAINING: _drains,
    Stage.PROVING: _proves,
}


def _changed(unit: CampaignUnit, now_ms: int, **update: Any) -> CampaignUnit:
    """The route in another stage, from now on."""
    said = {"since_ms": now_ms, "resumes": None, "why": "", **update}
    return unit.model_copy(update=said | {"why": said["why"][:WHY]})


# ---- its events ------------------------------------------------------------------------------------------


def begun(campaign: Campaign, actor: Actor, reason: str) -> Draft:
    """The event that starts a campaign. Raises: Refused: nothing_to_move."""
    if not campaign.units:
        raise Refused("nothing_to_move", "no route is left that this campaign would move", fix="--dry-run says why")
    said = campaign.model_dump(mode="json", exclude_defaults=True, exclude={"by", "started_ms"})
    return tenant_draft(EventKind.CAMPAIGN, FLEET, actor, reason, {"campaign": campaign.campaign, "begun": said})


def unit_event(name: str, unit: CampaignUnit, actor: Actor) -> Draft:
    """The event of a route that has come to another stage, or is held."""
    said = unit.model_dump(mode="json", exclude_defaults=True, exclude={"tenant", "route"})
    why = f"campaign {name}: {unit.stage.value}" + (unit.why and f", {unit.why}")
    payload: dict[str, object] = {"campaign": name, "unit": said, "automation": True}
    if unit.tenant == NODES:
        return tenant_draft(EventKind.CAMPAIGN, FLEET, actor, why, {**payload, "node": unit.route})
    return tenant_draft(EventKind.CAMPAIGN, unit.tenant, actor, why, payload, route=unit.route)


def state_event(
    campaign: Campaign, state: CampaignState, actor: Actor, reason: str, *, gpu_hours: float | None = None
) -> Draft:
    """The event that pauses, resumes, stops, ends or rewinds a campaign. Raises: Refused: campaign_over, no_change."""
    over = campaign.state not in (CampaignState.RUNNING, CampaignState.PAUSED)
    if over and (state is not CampaignState.REWOUND or campaign.state is CampaignState.REWOUND):
        title = f"the campaign {campaign.campaign} is {campaign.state.value}"
        raise Refused("campaign_over", title, detail=campaign.why, fix="start another one, under another name")
    if state is campaign.state and gpu_hours is None:
        raise Refused("no_change", f"the campaign {campaign.campaign} is {state.value} already")
    payload: dict[str, object] = {"campaign": campaign.campaign, "state": state.value, "gpu_hours": gpu_hours}
    payload |= {"automation": True} if actor.automation else {}
    return tenant_draft(EventKind.CAMPAIGN, FLEET, actor, reason, payload)


def after(known: Campaign | None, event: Event) -> Campaign | None:
    """A campaign after one of its events; None: it is not known."""
    said = event.payload
    if "begun" in said:
        begun = {**said["begun"], "by": event.actor, "started_ms": event.at_ms, "rev": event.rev}
        return Campaign.model_validate(begun)
    if known is None:
        return None
    if "unit" in said:
        tenant, route = (NODES, said["node"]) if "node" in said else (event.tenant, event.route)
        unit = CampaignUnit.model_validate({**said["unit"], "tenant": tenant, "route": route})
        return known.model_copy(update={"units": {**known.units, unit.name: unit}, "rev": event.rev})
    plan = known.plan
    if said["gpu_hours"] is not None:
        plan = plan.model_copy(update={"gpu_hours": said["gpu_hours"]})
    state = CampaignState(said["state"])
    return known.model_copy(update={"state": state, "why": event.reason[:WHY], "plan": plan, "rev": event.rev})
