"""The audit of a whole log in one call."""

from __future__ import annotations

from loradeck.store.log_audit import LogAudit, LogReport
from loradeck.store.sql_log import Store


def verify_log(store: Store) -> LogReport:
    """Audits the whole log at once. Blocks: a hub that serves goes step by step."""
    audit = LogAudit()
    while (report := audit.step(store)) is None:
        pass
    return report
