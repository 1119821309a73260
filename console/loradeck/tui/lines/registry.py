"""Gate results, adapter versions, datasets and suites as cells of a row and lines of the pane."""

from rich.cells import cell_len

from loradeck.client.terminal_text import clean
from loradeck.client.times import stamp
from loradeck.rules.quality.figures import share
from loradeck.schemas.attestation import CheckResult, EvaluationReport
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import AdapterVersion
from loradeck.tui.keys.action import Action
from loradeck.tui.lines.columns import Column
from loradeck.tui.model.registry import DataEntry, Gate
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, count, labelled, line, plural, release, title, width_of

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
    tries = f"; {check.tries}" if check.tries else ""
    said = f"{check.lost} lost, {check.won} won{p}; drop it can see: {seen}{tries}"
    return line(Span(" " * 9, "label"), Span(said, "dim"))


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
