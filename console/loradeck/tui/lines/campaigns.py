"""Campaigns as cells of a row, lines of the pane and a page: waves, budget, who has moved, what stopped them."""

from collections.abc import Iterable

from loradeck.client.terminal_text import clean
from loradeck.schemas.campaign import UNDER_WAY, Campaign, CampaignState, CampaignUnit, Stage
from loradeck.schemas.ids import short
from loradeck.schemas.jobs import FLEET as NODES
from loradeck.tui.lines.columns import Column, heading, laid_out
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, dated, labelled, line, title

COLUMNS = (
    Column("CAMPAIGN", 0),
    Column("STATE", 8),
    Column("WAVE", 5, right=True),
    Column("MOVED", 9, right=True),
    Column("FAILED", 6, right=True),
    Column("HELD", 5, right=True),
    Column("ASIDE", 5, right=True),
    Column("GPU HOURS", 13, right=True),
    Column("BY", 12, wide=True),
)

UNIT_COLUMNS = (
    Column("ROUTE OR NODE", 28),
    Column("WAVE", 4, right=True),
    Column("STAGE", 8),
    Column("RELEASE", 8),
    Column("PROVEN", 6, right=True),
    Column("WHY", 0),
)

_STATES = {CampaignState.RUNNING: "good", CampaignState.PAUSED: "warn", CampaignState.STOPPED: "bad"}
_STAGES = {Stage.MOVED: "good", Stage.FAILED: "bad", Stage.HELD: "warn", Stage.WAITING: "dim", Stage.ASIDE: "dim"}


def spent(one: Campaign) -> str:
    """GPU hours of the trainings that have begun, of the budget: '12.5/40'."""
    hours = sum(unit.gpu_hours for unit in one.units.values() if unit.wave)
    return f"{hours:.1f}{f'/{one.plan.gpu_hours:g}' if one.plan.gpu_hours is not None else ''}"


def cells(state: ConsoleState, row: Campaign) -> dict[str, Span]:
    """The cells of a campaign's row."""
    counts = {stage: row.count(stage) for stage in (Stage.FAILED, Stage.HELD, Stage.ASIDE)}
    return {
        "CAMPAIGN": Span(clean(row.campaign), "bold"),
        "STATE": Span(row.state.value, _STATES.get(row.state, "dim")),
        "WAVE": Span(str(_wave(row))),
        "MOVED": Span(f"{row.count(Stage.MOVED)}/{len(row.units)}"),
        **{stage.value.upper(): Span(str(n), _STAGES[stage] if n else "dim") for stage, n in counts.items()},
        "GPU HOURS": Span(spent(row)),
        "BY": Span(clean(row.by), "dim"),
    }


def _wave(one: Campaign) -> int:
    return max(unit.wave for unit in one.units.values()) if one.units else 0


def _proven(state: ConsoleState, unit: CampaignUnit) -> tuple[int, int] | None:
    """The replicas that are proven with a unit's release, and all that are placed; None: it is not live, or a node."""
    row = state.tenants.get((unit.tenant, unit.route))
    if row is None or row.live is None or row.live.id != unit.release:
        return None
    return row.proven, row.placed


def _names(units: Iterable[CampaignUnit], width: int, *, why: bool = False) -> str:
    """Names of routes or nodes, as many as fit in a line."""
    said = [clean(_name(unit) + (f": {unit.why}" if why and unit.why else "")) for unit in units]
    shown = said[:1]
    for name in said[1:]:
        if len("   ".join([*shown, name])) > width - 26:
            break
        shown.append(name)
    return "   ".join(shown) + (f"   and {len(said) - len(shown)} more" if len(said) > len(shown) else "")


def _name(unit: CampaignUnit) -> str:
    return unit.route if unit.tenant == NODES else unit.name


def lines(state: ConsoleState, row: Campaign, width: int) -> list[Line]:
    """A campaign in the pane: its waves and budget, who moved and is proven, who is kept back, and what stopped it."""
    units = list(row.units.values())
    of = {stage: [unit for unit in units if unit.stage is stage] for stage in Stage}
    plan, moved = row.plan, of[Stage.MOVED]
    to = f"base {short(plan.base)}" if plan.base else f"engine {plan.engine}" if plan.engine else "named releases"
    begun = f"{row.campaign}   to {to}   {row.state.value}   by {row.by} {dated(row.started_ms)}"
    proven = [at for unit in moved if (at := _proven(state, unit)) is not None]
    whole = sum(some == every > 0 for some, every in proven)
    said = "" if plan.engine else f"   all replicas proven: {whole} of {len(moved)}"
    back = f"{plan.tolerated:.0%} may fail"
    steps = "drained and proven" if plan.engine else "by growing shares" if plan.steps is not None else "by promotes"
    found = [
        title(clean(begun), width),
        labelled(
            " WAVES     ", f"wave {_wave(row)}, of {plan.wave} each, {steps}   {len(of[Stage.WAITING])} wait   {back}"
        ),
        labelled(" BUDGET    ", f"{spent(row)} GPU hours, those to come as by their recipes"),
        labelled(" MOVED     ", f"{len(moved)} of {len(units)}{said}   {_names(moved, width - 40)}"),
        labelled(" UNDER WAY ", _names((unit for unit in units if unit.stage in UNDER_WAY), width) or "nothing"),
    ]
    found += [
        labelled(f" {stage.value.upper():<10}", Span(_names(of[stage], width, why=True), _STAGES[stage]))
        for stage in (Stage.FAILED, Stage.HELD, Stage.ASIDE)
        if of[stage]
    ]
    if row.why:
        found.append(labelled(" WHY       ", Span(clean(row.why), _STATES.get(row.state, ""))))
    return found


def page(state: ConsoleState, name: str, width: int) -> list[Line]:
    """Every route or node of a campaign, in the order of its waves."""
    row = state.registry.campaigns.get(name)
    if row is None:
        return [line(Span(f" {clean(name)}: the hub lists no such campaign any more", "warn"))]
    return [
        *lines(state, row, width),
        (),
        heading(UNIT_COLUMNS, width),
        *(_unit(state, u, width) for u in row.units.values()),
    ]


def _unit(state: ConsoleState, unit: CampaignUnit, width: int) -> Line:
    proven = _proven(state, unit)
    made = {
        "ROUTE OR NODE": Span(clean(_name(unit))),
        "WAVE": Span(str(unit.wave or "-"), "" if unit.wave else "dim"),
        "STAGE": Span(unit.stage.value, _STAGES.get(unit.stage, "")),
        "RELEASE": Span(short(unit.release), "" if unit.release else "dim"),
        "PROVEN": Span("-" if proven is None else f"{proven[0]}/{proven[1]}", "dim" if proven is None else ""),
        "WHY": Span(clean(unit.why), "dim"),
    }
    return laid_out(UNIT_COLUMNS, made, width, Span("  "))
