"""What the hub is asked for beside pointers: gate results, adapter versions, data, capacity, the loop, campaigns."""

from rich.cells import cell_len

from loradeck.client import capacity_words, loop_words, node_words
from loradeck.client.terminal_text import clean
from loradeck.client.times import stamp
from loradeck.rules.quality.figures import share
from loradeck.schemas.attestation import CheckResult, EvaluationReport
from loradeck.schemas.campaign import UNDER_WAY, Campaign, CampaignState, CampaignUnit, Stage
from loradeck.schemas.capacity import CapacityRow
from loradeck.schemas.freshness import LoopRow, LoopStep, Remedy
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import AdapterVersion
from loradeck.tui.keys.action import Action
from loradeck.tui.lines.columns import Column
from loradeck.tui.model.registry import DataEntry, Gate
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, count, dated, labelled, line, plural, release, title, width_of

GATE_COLUMNS = (
    Column("TIME", 12),
    Column("TENANT/ROUTE", 20),
    Column("CANDIDATE", 9),
    Column("AGAINST", 8),
    Column("RESULT", 6),
    Column("CHECKS", 0),
    Column("BY", 10, wide=True),
)
ADAPTER_COLUMNS = (
    Column("ADAPTER", 0),
    Column("VERSION", 7),
    Column("LIVE ON", 14),
    Column("BASE", 6),
    Column("RANK", 4, right=True),
    Column("SIZE", 8, right=True),
    Column("DATASETS", 8, right=True, wide=True),
    Column("MADE", 12),
    Column("BY", 10, wide=True),
)
DATA_COLUMNS = (
    Column("NAME", 0),
    Column("KIND", 7),
    Column("ROWS", 7, right=True),
    Column("ORIGIN", 12),
    Column("LICENCE", 14),
    Column("CONSENT", 9),
    Column("KEPT", 9, wide=True),
    Column("PURPOSE", 16, wide=True),
)


# ---- gates -------------------------------------------------------------------------------------------------


def gate_cells(state: ConsoleState, gate: Gate) -> dict[str, Span]:
    """The cells of a gate result's row: failed checks, or all of them."""
    result = gate.result
    failed = [check for check in result.checks if not check.passed]
    shown = ", ".join(f"{clean(check.name)} {check.in_unit(check.value)}" for check in failed or result.checks)
    shown = f"{len(failed)} of {len(result.checks)}: {shown}" if failed else shown
    return {
        "TIME": Span(state.when(gate.at_ms, seconds=True)),
        "TENANT/ROUTE": Span(clean(f"{gate.tenant}/{gate.route}")),
        "CANDIDATE": Span(state.name_of(result.release)),
        "AGAINST": Span(state.name_of(result.against) if result.against else "-"),
        "RESULT": Span("passed" if result.passed else "FAILED", "good" if result.passed else "bad"),
        "CHECKS": Span(shown),
        "BY": Span(clean(gate.by)),
    }


def gate_lines(state: ConsoleState, gate: Gate, width: int) -> list[Line]:
    """A gate result in the pane: the bound of each check, its measured value, its items and 95 % interval."""
    result = gate.result
    against = f" against {state.name_of(result.against)}" if result.against else ", compared with no other"
    lines = [
        title(
            f"{clean(gate.tenant)}/{clean(gate.route)}   {state.name_of(result.release)}{against}   "
            f"{'passed' if result.passed else 'FAILED'}",
            width,
        )
    ]
    for check in result.checks:
        elsewhere = check.suite if check.suite != result.suite else None
        where = "" if elsewhere is None else f" on {clean(state.registry.name_of(elsewhere))}"
        lines += _check_lines(check, where, width, opens=state.keys.shown(Action.OPEN))
        if check.lost is not None:
            lines.append(_pairs_line(check))
    if not result.checks:
        lines.append(line(Span(" the route's gate had no check", "dim")))
    suite = clean(state.registry.name_of(result.suite))
    lines.append(labelled(" SUITE   ", f"{suite} {short(result.suite)}   judged {stamp(gate.at_ms)}"))
    row = state.tenants.get((gate.tenant, gate.route))
    if row is not None:
        live = row.live
        now = "this candidate" if live is not None and live.id == result.release else release(live)
        lines.append(labelled(" LIVE    ", f"{now} is live there now"))
    return lines


def _check_lines(check: CheckResult, where: str, width: int, *, opens: str) -> list[Line]:
    """The measured value and the bound of a check, with its note beside it, or below it if there is no room."""
    words = (Span(f" {clean(check.name):<8}", "label"), _verdict(check))
    if check.unit in ("people", "stage"):
        note = clean(check.note)
        if check.unit == "stage":
            return [line(*words, note)]
        shown = f" {check.in_unit(check.value)} of {check.in_unit(check.threshold)} signed   "
        return [line(*words, shown, Span(f"{opens}: the answers   ", "key"), note)]
    measured = line(*words, f"{check.measured}{where}   {check.asked}")
    if not check.note or width_of(measured) + 3 + cell_len(clean(check.note)) <= width:
        return [line(*measured, f"   {clean(check.note)}")]
    return [measured, line(" " * 9, clean(check.note))]


def _verdict(check: CheckResult) -> Span:
    return Span("passed " if check.passed else "FAILED ", "good" if check.passed else "bad")


def _pairs_line(check: CheckResult) -> Line:
    """The pairs that a drop was counted from, and the smallest drop that so many items can show."""
    seen = "none" if check.visible is None else f"{check.in_unit(check.visible)} or more"
    p = "" if check.p is None else f", p {check.p:.3f}"
    return line(Span(" " * 9, "label"), Span(f"{check.lost} lost, {check.won} won{p}; drop it can see: {seen}", "dim"))


# ---- adapters ----------------------------------------------------------------------------------------------


def live_on(state: ConsoleState, version: AdapterVersion) -> tuple[str, ...]:
    """Routes of its tenant that serve a version now."""
    return state.tenants.counts.live.get(version.release, ())


def base_of(state: ConsoleState, version: AdapterVersion) -> str:
    """The base of a version, as people call it."""
    view = state.view(version.release)
    label = view.base_label if view is not None else state.base_label(version.manifest.base)
    return clean(label) if label is not None else short(version.manifest.base)


def _size(version: AdapterVersion) -> str:
    size = sum(entry.size for entry in version.manifest.files)
    if size < 1e5:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def adapter_cells(state: ConsoleState, version: AdapterVersion) -> dict[str, Span]:
    """The cells of an adapter version's row."""
    manifest = version.manifest
    live = ", ".join(live_on(state, version))
    return {
        "ADAPTER": Span(clean(f"{manifest.tenant}/{manifest.name}"), "bold" if live else ""),
        "VERSION": Span(f"v{version.version}"),
        "LIVE ON": Span(clean(live) or "-", "good" if live else "dim"),
        "BASE": Span(base_of(state, version)),
        "RANK": Span(str(manifest.rank)),
        "SIZE": Span(_size(version)),
        "DATASETS": Span(str(len(manifest.datasets))),
        "MADE": Span(state.when(version.created_ms, seconds=True)),
        "BY": Span(clean(version.created_by)),
    }


def adapter_lines(state: ConsoleState, version: AdapterVersion, width: int) -> list[Line]:
    """An adapter version in the pane: its origin, its scores, and the decision for weights."""
    manifest = version.manifest
    lines = [title(f"{clean(manifest.tenant)}/{clean(manifest.name)} v{version.version}", width)]
    ids = f"release {short(version.release)}   adapter {short(version.digest)}"
    size = f"rank {manifest.rank} alpha {manifest.alpha}   {_size(version)}"
    lines.append(labelled(" IS     ", f"{ids}   on {base_of(state, version)} {short(manifest.base)}   {size}"))
    data = ", ".join(clean(state.registry.name_of(digest)) for digest in manifest.datasets) or "no dataset on record"
    lines.append(labelled(" FROM   ", f"{data}   recipe {short(manifest.config_hash)}   {_parent(state, version)}"))
    last = state.registry.scores.get(version.release, ())[-3:]
    scores = "   ".join(f"{clean(state.registry.name_of(report.suite))} {scored(report)}" for report in last)
    lines.append(labelled(" SCORED ", unscored(state, version) or scores))
    lines.append(labelled(" WHY    ", clean(manifest.decision.why_weights)))
    for name, text in (("ELSE   ", manifest.decision.alternatives), ("COST   ", manifest.decision.cost)):
        if text:
            lines.append(labelled(f" {name}", clean(text)))
    return lines


def scored(report: EvaluationReport) -> str:
    """Says which shares of an evaluation's answers are exact and valid."""
    return f"exact {share(report.exact, report.n, '.0%')}   valid {share(report.valid, report.n, '.0%')}"


def unscored(state: ConsoleState, version: AdapterVersion) -> Span | None:
    """Why no evaluation of a version is shown; None: there is one. An answer that has not come is not shown as none."""
    fetch = state.registry.score_fetches.get(version.release)
    scores = state.registry.scores.get(version.release)
    if fetch is not None and fetch.trouble:
        return Span(f"not known: {clean(fetch.trouble)}", "bad")
    if scores is None:
        return Span("looking up ...", "dim")
    return None if scores else Span("never evaluated", "warn")


def _parent(state: ConsoleState, version: AdapterVersion) -> str:
    parent = version.manifest.parent
    if parent is None:
        return "trained from fresh weights"
    known = state.registry.adapters.get(parent)
    return f"trained on from {f'v{known.version}' if known is not None else short(parent)}"


# ---- data --------------------------------------------------------------------------------------------------


def data_cells(state: ConsoleState, entry: DataEntry) -> dict[str, Span]:
    """The cells of a row of a dataset or suite."""
    manifest, provenance = entry.manifest, entry.manifest.provenance
    kept = f"{provenance.retention_days} d" if provenance.retention_days is not None else "no limit"
    origin = provenance.origin.value + (f" d{provenance.synthetic_depth}" if provenance.synthetic_depth > 1 else "")
    return {
        "NAME": Span(clean(f"{manifest.tenant}/{manifest.name}")),
        "KIND": Span(entry.kind),
        "ROWS": Span(count(entry.rows)),
        "ORIGIN": Span(origin, "warn" if provenance.synthetic_depth > 1 else ""),
        "LICENCE": Span(clean(provenance.licence_class)),
        "CONSENT": Span(clean(provenance.consent)),
        "KEPT": Span(kept),
        "PURPOSE": Span(clean(", ".join(provenance.purpose))),
    }


def data_lines(state: ConsoleState, entry: DataEntry, width: int) -> list[Line]:
    """Provenance of a dataset or suite, and which adapters were trained on it."""
    manifest, provenance = entry.manifest, entry.manifest.provenance
    lines = [title(f"{clean(manifest.tenant)}/{clean(manifest.name)}   {entry.kind} {short(entry.digest)}", width)]
    by = f" by release {state.name_of(provenance.generator_release)}" if provenance.generator_release else ""
    made = f"   {provenance.quality}" if provenance.quality else ""
    size = f"synthetic depth {provenance.synthetic_depth}{made}   {count(entry.rows)} rows"
    lines.append(labelled(" ORIGIN  ", f"{provenance.origin.value}{by}   {size}"))
    days = provenance.retention_days
    kept = f"kept {days} days" if days is not None else "kept until erasure is asked for"
    consent = f"consent {clean(provenance.consent)}   licence {clean(provenance.licence_class)}"
    lines.append(labelled(" MAY     ", f"{clean(', '.join(provenance.purpose))}   {consent}   {kept}"))
    raters = plural(len(provenance.rater_ids), "rater") if provenance.rater_ids else "no raters"
    lines.append(labelled(" CHECKED ", f"{clean(provenance.verifier or 'by nothing on record')}   {raters}"))
    used = [v for v in state.registry.adapters.values() if entry.digest in v.manifest.datasets]
    shown = ", ".join(clean(f"{v.manifest.tenant}/{v.manifest.name} v{v.version}") for v in used)
    if entry.kind == "dataset":
        lines.append(labelled(" IN      ", shown or Span("no adapter on record", "dim")))
    return lines


# ---- capacity --------------------------------------------------------------------------------------------

CAPACITY_COLUMNS = (
    Column("POOL OR NODE", 0),
    Column("NODES", 5, right=True),
    Column("ROUTES", 6, right=True),
    Column("DEVICE", 7, right=True),
    Column("HOST", 9, right=True),
    Column("DISK", 5, right=True),
    Column("HIT", 6, right=True),
    Column("COLD/MIN", 8, right=True),
    Column("WAITING", 7, right=True),
    Column("TURNED OUT", 10, right=True, wide=True),
    Column("LOAD", 6, right=True, wide=True),
)


def capacity_cells(state: ConsoleState, row: CapacityRow) -> dict[str, Span]:
    """The cells of a pool's or a node's row."""
    heard, nodes = row.nodes
    old = "" if row.pool or heard else "dim"  # what the node said last
    full = row.host is not None and row.host[0] >= row.host[1] > 0
    name = Span(f"pool {clean(row.name)}", "bold") if row.pool else Span(clean(row.name), old)
    return {
        "POOL OR NODE": name,
        "NODES": Span(f"{heard}/{nodes}", "" if heard == nodes else "warn"),
        "ROUTES": Span(str(row.routes), old),
        "DEVICE": Span(capacity_words.of(row.device), old or ("" if row.device else "dim")),
        "HOST": Span(capacity_words.of(row.host), old or ("warn" if full else "" if row.host else "dim")),
        "DISK": Span(capacity_words.count(row.disk), old),
        "HIT": Span(capacity_words.share(row.hit_rate), old),
        "COLD/MIN": Span(capacity_words.count(row.minute), old or ("warn" if row.minute else "")),
        "WAITING": Span(capacity_words.count(row.waiting), old or ("warn" if row.waiting else "")),
        "TURNED OUT": Span(capacity_words.count(row.evictions), old),
        "LOAD": Span(capacity_words.load(row), old),
    }


def capacity_lines(state: ConsoleState, row: CapacityRow, width: int) -> list[Line]:
    """A pool or a node in the pane: its levels, how requests for on-demand routes fared, engines, what to ask next."""
    name, (heard, nodes) = clean(row.name), row.nodes
    up = clean(row.of) or ("up" if heard else "unlinked")
    sku = f"   SKU {clean(row.of)}" if row.of else ""
    where = f"{heard} of {plural(nodes, 'node')} heard{sku}" if row.pool else up
    found = [title(f"{'pool ' if row.pool else ''}{name}   {where}   {plural(row.routes, 'route')}", width)]
    device, host = capacity_words.of(row.device), capacity_words.of(row.host)
    held = f"device {device}   host {host}   disk {capacity_words.count(row.disk)}"
    found.append(labelled(" LEVELS    ", held))
    hit = f"{capacity_words.share(row.hit_rate)} of {row.asked:,} met a loaded release" if row.asked else ""
    met = hit or "nobody asked, or not known"
    found.append(labelled(" ON DEMAND ", met))
    queue = f"{capacity_words.count(row.waiting)} waiting   {capacity_words.count(row.refused)} refused, it was full"
    found.append(
        labelled(" QUEUE     ", f"{queue}   {capacity_words.count(row.minute)} cold starts in the last minute")
    )
    found.append(
        labelled(
            " LOADS     ", f"{capacity_words.count(row.evictions)} turned out   a load takes {capacity_words.load(row)}"
        )
    )
    node = state.nodes.get(row.name) if not row.pool else None
    found += [
        labelled(f" {clean(engine.replica)}  ", f"{engine.state.value}   {node_words.slots(engine)}")
        for engine in (node.replicas if node is not None else ())
    ]
    if row.pool:
        found.append(line(Span(f" loradeck capacity plan --pool {name} --routes N", "dim")))
    return found


# ---- loop ------------------------------------------------------------------------------------------------

LOOP_COLUMNS = (
    Column("TENANT/ROUTE", 0),
    Column("SIGNALS", 18),
    Column("ADVICE", 9),
    Column("WRONG", 5, right=True),
    Column("LABELLED", 8, right=True, wide=True),
    Column("STEP", 20),
    Column("GATE", 6),
    Column("FROZEN", 6, wide=True),
)

_STEP_STYLES = {LoopStep.FAILED: "bad", LoopStep.LIVE: "good", LoopStep.CANDIDATE: "warn"}


def loop_cells(state: ConsoleState, row: LoopRow) -> dict[str, Span]:
    """The cells of a route's row."""
    return {
        "TENANT/ROUTE": Span(clean(f"{row.tenant}/{row.route}")),
        "SIGNALS": Span(loop_words.signals(row), "warn" if row.signals else "dim"),
        "ADVICE": Span(row.remedy.value, "dim" if row.remedy is Remedy.NOTHING else "bold"),
        "WRONG": Span(f"{row.wrong:,}", "" if row.wrong else "dim"),
        "LABELLED": Span(loop_words.labelled(row), "" if row.loop is not None else "dim"),
        "STEP": Span(
            clean(loop_words.step(row)), _STEP_STYLES.get(row.loop.step, "") if row.loop is not None else "dim"
        ),
        "GATE": Span(loop_words.gate(row), {"failed": "bad", "-": "dim"}.get(loop_words.gate(row), "")),
        "FROZEN": Span("yes" if row.frozen else "-", "warn" if row.frozen else "dim"),
    }


def loop_lines(state: ConsoleState, row: LoopRow, width: int) -> list[Line]:
    """A route in the pane: what its meters have found, its backlog, how far the newest labels are, and what is next."""
    loop = row.loop
    built = clean(f"{loop.rows:,} rows in {loop.name} {loop.dataset[:6]}") if loop is not None else "no dataset yet"
    replayed = f" ({row.replayed} days)" if row.replayed else ""
    found = [
        title(clean(f"{row.tenant}/{row.route}   {row.label}   as of {dated(row.at_ms)}"), width),
        labelled(" SIGNALS   ", f"{loop_words.signals(row)}{replayed}   advice: {row.remedy.value}"),
        labelled(" BACKLOG   ", f"{row.wrong:,} answers called wrong since the newest labels"),
        labelled(" LABELLED  ", built),
        labelled(
            " STEP      ",
            clean(f"{loop_words.step(row)}   gate {loop_words.gate(row)}   candidate {loop_words.candidate(row)}"),
        ),
    ]
    if row.frozen:
        found.append(labelled(" FROZEN    ", Span(clean(row.frozen), "warn")))
    next_ = loop_words.next_step(row)
    found.append(line(Span(f" {clean(next_)}" if next_ != "-" else " nothing is to do", "dim")))
    return found


# ---- campaigns -------------------------------------------------------------------------------------------

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
