"""How far a move is on the replicas of a row."""

from loradeck.rules.serving import proof
from loradeck.rules.serving.proof import Reached
from loradeck.schemas.state import PreviewAction, TenantRow
from loradeck.tui.keys.action import Action
from loradeck.tui.model.sent_moves import OwnMove


def reached(row: TenantRow) -> Reached:
    """Says how far the row's generation has come on all its placed replicas."""
    return proof.reached(placed=row.placed, flipped=row.flipped, proven=row.proven, listed=row.listed)


def is_done(row: TenantRow) -> bool:
    """Tells whether every placed replica flipped and was checked. `settled` says only that no reachable one owes it."""
    return row.settled and reached(row).covers(Reached.LISTED)


def is_preparing(own: OwnMove | None, row: TenantRow) -> bool:
    """Tells whether a move without an answer is a promote whose prepare is pending, which R cancels."""
    is_promote = own is not None and own.move.kind is Action.PROMOTE
    return is_promote and row.preview.action is PreviewAction.CANCEL_PREPARE


def proof_counts(row: TenantRow) -> str:
    """The counts of the proof in words: `PROVEN 4/4`, `PROVEN 3/4 LISTED 1/4`; where none is proven, `LISTED 4/4`."""
    counts = [f"PROVEN {row.proven}/{row.placed}"] if row.proven or not row.listed else []
    return " ".join([*counts, *([f"LISTED {row.listed}/{row.placed}"] if row.listed else [])])
