"""How far a move is on the replicas of a row."""

from __future__ import annotations

from loradeck.schemas.state import TenantRow


def proven(row: TenantRow) -> int:
    """Replicas whose proof holds at either level."""
    return row.proven + row.listed


def is_done(row: TenantRow) -> bool:
    """Whether every placed replica flipped and proved. `settled` alone says only that no reachable one owes it."""
    return row.settled and row.flipped >= row.placed and proven(row) >= row.placed
