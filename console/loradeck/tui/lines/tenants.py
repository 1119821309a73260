"""What the list of tenants shows: its columns, and a pointer's cells in them."""

from functools import lru_cache

from loradeck.client.terminal_text import clean
from loradeck.rules.serving.counting import PROVEN_STALE_S
from loradeck.rules.serving.proof import Reached
from loradeck.schemas.state import Preview, PreviewAction, Readiness, ReleaseView, TenantRow
from loradeck.tui.lines.columns import Column
from loradeck.tui.model.sent_moves import reached
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Span, coarse_age, latency, percent, span
from loradeck.tui.text.why import why, worst_first

LONGEST_NAME = 24
"""Cells that names may have on any terminal; on a wide one a quarter of it."""

_AFTER_NAME = (
    Column("BEFORE", 6, right=True, rank=5),
    Column("BAD", 6, right=True),
    Column("ERRORS", 6, right=True, rank=1),
    Column("FIRST TOKEN", 11, right=True, rank=2),
    Column("REQ/S", 6, right=True, rank=3),
    Column("SERVED BY", 9),
    Column("FOR", 8, right=True, rank=4),
    Column("PROVEN", 6, right=True),
    Column("R GOES TO", 11),
    Column("WHY", 0, items=True),
)


@lru_cache(maxsize=32)
def tenant_columns(longest: int, width: int) -> tuple[Column, ...]:
    """The columns of the tenants on a terminal of so many columns, where the longest name has so many cells."""
    name = max(len("TENANT"), min(longest, max(LONGEST_NAME, width // 4)))
    return (Column("TENANT", name), *_AFTER_NAME)


def name_of(tenant: str, route: str) -> str:
    """The name of a pointer in the list: of a tenant's production it is the tenant's."""
    return clean(tenant if route == "production" else f"{tenant}/{route}")


_STYLE = {"BAD": "bad", "GLASS": "bad", **dict.fromkeys(("HELD", "PREP", "CAND"), "")}
"""The style of what is said, by the worst flag; that of all others is 'warn'."""

ERRORS_STAND_OUT = 0.05
"""Share of failed requests from which on it is shown as bad, whether the release is flagged for it or not."""

FIRST_TOKENS = "first tokens"
"""What `slow` of a row says where answers begin later than promised."""

_NEAR = {
    Readiness.RESIDENT: "loaded",
    Readiness.WARM: "loads",
    Readiness.CACHED: "starts",
    Readiness.ABSENT: "fetches",
    Readiness.UNKNOWN: "unknown",
}
"""How near the target of R is to serving: nothing is to be done, or what comes first."""


def tenant_cells(state: ConsoleState, row: TenantRow) -> dict[str, Span]:
    """The cells of a pointer's row. An unknown figure is '-', never a zero."""
    moved = state.age_of(row.pointer.moved_ms)
    fresh = state.is_fresh(row.key)
    # Nobody there to say: what was counted before runs out of the last minute and would pass for silence.
    heard = fresh and (not row.replicas or any(replica.linked for replica in row.replicas))
    said, style = why(row), _STYLE.get(worst_first(row.flags)[0], "warn") if row.flags else ""
    flagged = row.cause.figure if "BAD" in row.flags else ""
    late, many_errors = FIRST_TOKENS in row.slow, flagged == "errors" or (row.error_share or 0) > ERRORS_STAND_OUT
    proof_words = _proof_words(state, row)
    way_back = _way_back(row.preview)
    return {
        "TENANT": Span(name_of(row.tenant, row.route), "bold" if row.flags else ""),
        "BEFORE": Span(_with_unit(percent(row.bad_before if fresh else None)), "dim"),
        "BAD": Span(_with_unit(percent(row.bad_now if fresh else None)), "bad" if flagged == "bad" else ""),
        "ERRORS": Span(_with_unit(percent(row.error_share if heard else None)), "bad" if many_errors else ""),
        "FIRST TOKEN": Span(latency(row.ttft95_ms if heard else None), "warn" if late else ""),
        "REQ/S": Span(f"{row.requests_per_s:.1f}" if heard else "-"),
        "SERVED BY": Span(_label(row.live)),
        "FOR": Span(coarse_age(moved) if moved is not None else "-"),
        "PROVEN": Span(
            f"{row.proven}/{row.placed}", "warn" if proof_words or reached(row) is not Reached.PROVEN else ""
        ),
        "R GOES TO": Span(way_back, "warn" if way_back.startswith("none") else ""),
        "WHY": Span(clean(", ".join((*said, *proof_words))), style or ("warn" if proof_words else "")),
    }


def _with_unit(percentage: str) -> str:
    return percentage if percentage == "-" else f"{percentage} %"


def _label(view: ReleaseView | None) -> str:
    return clean(view.label) if view is not None else "-"


def _proof_words(state: ConsoleState, row: TenantRow) -> tuple[str, ...]:
    """Says what makes the count of proven replicas less than it seems."""
    words: list[str] = []
    if reached(row) is Reached.LISTED:
        words.append(f"{row.listed} listed")
    proof = row.source("proven")
    proof_age = (proof.age_s if proof is not None else 0.0) + state.since_received(row.key)
    if proof is not None and proof_age > PROVEN_STALE_S:
        words.append(f"proof {span(proof_age)} old")
    return tuple(words)


def _way_back(preview: Preview) -> str:
    """`v7 loaded`: the target of R, and how near it is to serving, or that R asks first; `none: base`."""
    if preview.action is PreviewAction.CANCEL_PREPARE:
        return "cancels"
    if preview.action is PreviewAction.FALLBACK:
        return "none: base"
    if preview.action is PreviewAction.NONE or preview.target is None:
        return "none"
    return f"{_label(preview.target)} {'asks' if preview.asks else _NEAR[preview.readiness]}"
