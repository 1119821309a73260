"""The audit of a whole log in one call."""

from __future__ import annotations

from loradeck.store.interface import Store
from loradeck.store.log_audit import LogAudit, LogReport


def verify_log(store: Store) -> LogReport:
    """Audits the whole log at once. Blocks: a hub that serves goes step by step."""
    audit = LogAudit()
    while (report := audit.step(store)) is None:
        pass
    return report
