"""Traces for people: which requests may be missing, and the file of request ids that `x` and the CLI write."""

from datetime import UTC, datetime

from loradeck.schemas.ids import short
from loradeck.schemas.trace import Traced


def missing(traced: Traced) -> list[str]:
    """Why requests are missing or may be, one line a node; empty if none is."""
    if not traced.nodes:
        return ["no node serves it"]
    reasons = [f"{node.node}: {node.why}" for node in traced.nodes if not node.complete]
    if traced.truncated:
        reasons += [
            f"{node.node}: its router knows nothing from before {_at(node.since_ms)}"
            for node in traced.nodes
            if node.complete and node.since_ms is not None
        ]
    return reasons


def export(traced: Traced, label: str) -> str:
    """A file of request ids, tab-separated with time, status and replica; its head says which may be missing."""
    release = f" by {label} {short(traced.release)}" if traced.release else ""
    head = [f"# requests on {traced.tenant}/{traced.route} answered{release}, as of {_at(traced.at_ms)}"]
    counted = f" of {traced.counted:,} that the hub counted" if traced.counted is not None else ""
    head.append(f"# {len(traced.rows):,} ids{counted}")
    reasons = missing(traced)
    head.append("# TRUNCATED: requests are missing or may be" if reasons else "# no router has dropped a request")
    head += [f"#   {line}" for line in reasons]
    rows = ["\t".join(("request", "admitted", "status", "checked", "release", "replica"))]
    rows += [
        "\t".join(
            (
                row.request,
                _at(row.admitted_ms),
                str(row.status),
                "bad" if row.bad else "ok" if row.checked else "-",
                short(row.release),
                row.replica,
            )
        )
        for row in traced.rows
    ]
    return "\n".join([*head, *rows]) + "\n"


def _at(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
