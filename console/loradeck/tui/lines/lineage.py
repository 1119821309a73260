"""Pages on what releases are made of: the ancestors of an adapter version, and two releases beside each other."""

import textwrap
from collections.abc import Mapping

from loradeck.client.lineage import ancestors, children
from loradeck.client.release_difference import parts
from loradeck.client.terminal_text import clean
from loradeck.client.times import stamp
from loradeck.schemas.ids import short
from loradeck.schemas.manifest import AdapterVersion
from loradeck.schemas.responses import ReleaseDetail
from loradeck.tui.lines.registry import base_of, live_on, scored, unscored
from loradeck.tui.model.feed_state import Link
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import BLANK, Line, Span, age, labelled, line, title


def lineage_lines(state: ConsoleState, version: AdapterVersion, width: int) -> list[Line]:
    """From the version back to fresh weights, or to where the record ends."""
    manifest = version.manifest
    name = f"{clean(manifest.tenant)}/{clean(manifest.name)}"
    lines = [title(f"{name} v{version.version}   lineage", width)]
    if state.link is not Link.LIVE:
        lines.append(line(Span(f" AS OF {age(state.silent_s)} AGO: {state.link.value}", "bad")))
    chain = [version, *ancestors(version, state.registry.adapters)]
    for step, one in enumerate(chain):
        lines += _version(state, one, width, first=step == 0)
        lines.append(BLANK)
    root = chain[-1].manifest
    if root.parent is None:
        lines.append(labelled("   from fresh weights ", f"on base {base_of(state, chain[-1])} {short(root.base)}"))
    else:
        lines.append(line(Span(f"   its parent {short(root.parent)} is not on record here", "warn")))
    into = children(version, state.registry.adapters)
    listed = ", ".join(f"v{one.version}" for one in into) or "no other version"
    lines += [BLANK, labelled(" WENT INTO ", listed), BLANK, labelled(" WHY")]
    decision = manifest.decision
    for label, text in (("weights", decision.why_weights), ("else", decision.alternatives), ("cost", decision.cost)):
        for part in textwrap.wrap(clean(text), max(20, width - 14)) if text else []:
            lines.append(line(Span(f"   {label:<8} ", "dim"), part))
            label = ""
    return lines


def _version(state: ConsoleState, version: AdapterVersion, width: int, *, first: bool) -> list[Line]:
    manifest = version.manifest
    live = ", ".join(live_on(state, version))
    served = Span(f"   live on {clean(live)}", "good") if live else Span("")
    lead = "   " if first else " ^ "
    made = f"made {stamp(version.created_ms)} by {clean(version.created_by)}"
    lines = [line(Span(f"{lead}v{version.version} ", "bold"), f"{short(version.digest)}   {made}", served)]
    data = ", ".join(clean(state.registry.name_of(digest)) for digest in manifest.datasets) or "no dataset on record"
    recipe = f"recipe {short(manifest.config_hash)}   rank {manifest.rank} alpha {manifest.alpha}"
    lines.append(labelled("     data   ", data))
    lines.append(labelled("     config ", f"{recipe}   base {base_of(state, version)} {short(manifest.base)}"))
    lines += [labelled("     scored ", part) for part in _scores(state, version)]
    for gate in state.registry.gates.values():
        result = gate.result
        if result.release != version.release:
            continue
        failed = [check for check in result.checks if not check.passed]
        against = f" against {state.name_of(result.against)}" if result.against else ""
        verdict = Span("passed", "good") if result.passed else Span("FAILED", "bad")
        lines.append(labelled("     gate   ", f"{clean(gate.route)}{against}: ", verdict))
        lines += [labelled(" " * 12, f"{clean(one.name)} {one.measured}, {one.asked}") for one in failed]
    return lines


def _scores(state: ConsoleState, version: AdapterVersion) -> list[str | Span]:
    """Writes a line for each evaluation."""
    if (why := unscored(state, version)) is not None:
        return [why]
    return [
        f"{clean(state.registry.name_of(report.suite))}   {scored(report)}"
        for report in state.registry.scores[version.release]
    ]


_LABEL = 10


def difference_lines(
    name: str,
    left: ReleaseDetail,
    right: ReleaseDetail,
    datasets: Mapping[str, str],
    width: int,
    *,
    sides: tuple[str, str] = ("live", "R goes to"),
) -> list[Line]:
    """Two releases beside each other: differences first and marked `!`, then the parts that are alike, once.

    `sides`: the roles of the two, shown before their labels.
    """
    found = parts(left, right, datasets=datasets)
    column = max(16, (width - _LABEL - 8) // 2)
    labels = [clean(one.release.label) or one.release.id[:6] for one in (left, right)]
    head = f"   {'':<{_LABEL}} {f'{sides[0]} {labels[0]}':<{column}}  {sides[1]} {labels[1]}"
    lines = [title(f"{clean(name)}   {labels[0]} against {labels[1]}", width), line(Span(head, "head"))]
    for part in found:
        if part.differs:
            lines += _beside(part.name, clean(part.left), clean(part.right), column)
    if not any(part.differs for part in found):
        lines.append(line(Span(" nothing differs in what is on record of them", "dim")))
    lines += [BLANK, line(Span(" alike in both", "head"))]
    for part in found:
        if not part.differs:
            lines.append(labelled(f"   {part.name:<{_LABEL}} ", clean(part.left)))
    return lines


def _beside(name: str, left: str, right: str, column: int) -> list[Line]:
    sides = [textwrap.wrap(side, column) or ["-"] for side in (left, right)]
    made = []
    for row in range(max(len(side) for side in sides)):
        one, other = (side[row] if row < len(side) else "" for side in sides)
        lead = Span(f" ! {name:<{_LABEL}} " if row == 0 else " " * (_LABEL + 4), "warn")
        made.append(line(lead, f"{one:<{column}}  {other}"))
    return made
