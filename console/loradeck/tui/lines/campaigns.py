"""Campaigns as cells of a row, lines of the pane and a page: waves, budget, who has moved, what stopped them."""

from loradeck.client.terminal_text import clean
from loradeck.schemas.campaign import UNDER_WAY, Campaign, CampaignState, CampaignUnit, Stage
from loradeck.schemas.ids import short
from loradeck.tui.lines.columns import Column
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, dated, labelled, line, title

CAMPAIGN_COLUMNS = (
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

NAMED = 20
"""Routes or nodes that a line of the pane names; the page of a campaign has all."""

_CAMPAIGN_STYLES = {CampaignState.RUNNING: "good", CampaignState.PAUSED: "warn", CampaignState.STOPPED: "bad"}
_STAGE_STYLES = {Stage.MOVED: "good", Stage.FAILED: "bad", Stage.HELD: "warn", Stage.WAITING: "dim", Stage.ASIDE: "dim"}


def _spent(one: Campaign) -> str:
    """GPU hours of the trainings that have begun, of the budget: '12.5/40'."""
    hours = sum(unit.gpu_hours for unit in one.units.values() if unit.wave)
    return f"{hours:.1f}{f'/{one.plan.gpu_hours:g}' if one.plan.gpu_hours is not None else ''}"


def campaign_cells(state: ConsoleState, row: Campaign) -> dict[str, Span]:
    """The cells of a campaign's row."""
    counts = {stage: row.count(stage) for stage in (Stage.FAILED, Stage.HELD, Stage.ASIDE)}
    return {
        "CAMPAIGN": Span(clean(row.campaign), "bold"),
        "STATE": Span(row.state.value, _CAMPAIGN_STYLES.get(row.state, "dim")),
        "WAVE": Span(str(_wave(row))),
        "MOVED": Span(f"{row.count(Stage.MOVED)}/{len(row.units)}"),
        **{stage.value.upper(): Span(str(n), _STAGE_STYLES[stage] if n else "dim") for stage, n in counts.items()},
        "GPU HOURS": Span(_spent(row)),
        "BY": Span(clean(row.by), "dim"),
    }


def _wave(one: Campaign) -> int:
    return max(unit.wave for unit in one.units.values()) if one.units else 0


def _proven(state: ConsoleState, unit: CampaignUnit) -> str:
    """The replicas that are proven with a unit's release, of those that are placed; '-': it is not live, or a node."""
    row = state.tenants.get((unit.tenant, unit.route))
    is_live = row is not None and row.live is not None and row.live.id == unit.release
    return f"{row.proven}/{row.placed}" if row is not None and is_live else "-"


def campaign_lines(state: ConsoleState, row: Campaign, width: int) -> list[Line]:
    """A campaign in the pane: its waves and budget, who moved and is proven, who is kept back, and what stopped it."""
    units = list(row.units.values())
    of = {stage: [unit for unit in units if unit.stage is stage] for stage in Stage}
    plan, moved = row.plan, of[Stage.MOVED]
    to = f"base {short(plan.base)}" if plan.base else f"engine {plan.engine}" if plan.engine else "named releases"
    begun = f"{row.campaign}   to {to}   {row.state.value}   by {row.by} {dated(row.started_ms)}"
    proven = "   ".join(f"{unit.name} {_proven(state, unit)}" for unit in moved[:NAMED]) or "-"
    under_way = [unit.name for unit in units if unit.stage in UNDER_WAY]
    going = f"{len(under_way)}: {'   '.join(under_way[:NAMED])}" if under_way else "nothing"
    steps = "drained and proven" if plan.engine else "by growing shares" if plan.steps is not None else "by promotes"
    waves = f"wave {_wave(row)}, of {plan.wave} each, {steps}   {len(of[Stage.WAITING])} wait"
    found = [
        title(clean(begun), width),
        labelled(" WAVES     ", f"{waves}   {plan.tolerated:.0%} may fail"),
        labelled(" BUDGET    ", f"{_spent(row)} GPU hours, those to come as by their recipes"),
        labelled(" MOVED     ", clean(f"{len(moved)} of {len(units)}, proven now: {proven}")),
        labelled(" UNDER WAY ", clean(going)),
    ]
    for stage in (Stage.FAILED, Stage.HELD, Stage.ASIDE):
        if of[stage]:
            said = "   ".join(f"{unit.name}: {unit.why}" for unit in of[stage][:NAMED])
            found.append(
                labelled(f" {stage.value.upper():<10}", Span(clean(f"{len(of[stage])}: {said}"), _STAGE_STYLES[stage]))
            )
    if row.why:
        found.append(labelled(" WHY       ", Span(clean(row.why), _CAMPAIGN_STYLES.get(row.state, ""))))
    return found


def campaign_page(state: ConsoleState, name: str, width: int) -> list[Line]:
    """Every route or node of a campaign, in the order of its waves."""
    row = state.registry.campaigns.get(name)
    if row is None:
        return [line(Span(f" {clean(name)}: the hub lists no such campaign any more", "warn"))]
    rows = [
        f" {unit.name:<28} {unit.wave or '-':>4} {unit.stage.value:<9} {short(unit.release):<7} "
        f"{_proven(state, unit):>6}  {unit.why}"
        for unit in row.units.values()
    ]
    names = " ROUTE OR NODE                WAVE STAGE     RELEASE PROVEN  WHY"
    return [*campaign_lines(state, row, width), (), line(Span(names, "head")), *(line(clean(said)) for said in rows)]
