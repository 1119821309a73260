"""The hub's status for consoles: its name, its epoch and rev, and whether it makes moves."""

from collections.abc import Sequence
from dataclasses import dataclass

from loradeck.hub.log.changes import Changes
from loradeck.hub.log.clock import Clock
from loradeck.hub.recovery.backups import Backups
from loradeck.hub.recovery.lost_tails import LostTails
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.lost_tail import LostRevs
from loradeck.schemas.state import HubStatus, LeaseStatus
from loradeck.store.interface import Head

VERSION = "0.1.0"


@dataclass(eq=False, kw_only=True)
class Status:
    """Builds the status. `production` shows the hub's name in the consoles' header in reverse video."""

    state: FoldedLog
    moves_allowed: MovesAllowed
    lost: LostTails
    changes: Changes
    clock: Clock
    name: str
    production: bool
    sqlite: str
    started_ms: int
    backups: Backups | None = None
    """Those that this hub makes by the clock; None: it makes none."""

    def now(self) -> HubStatus:
        """The status at this moment."""
        state = self.state
        return HubStatus(
            hub=self.name,
            production=self.production,
            version=VERSION,
            epoch=state.epoch,
            rev=state.rev,
            hash=state.hash,
            at_ms=self.clock.now_ms(),
            started_ms=self.started_ms,
            refusing=self.moves_allowed.refusing,
            waiting=self.moves_allowed.waiting,
            sqlite=self.sqlite,
            last_backup_ms=self.backups.last_ms if self.backups else None,
            backup_late=self.backups is not None and self.backups.late,
            lost=self.lost.revs,
            seq=self.changes.seq,
        )


def lease_status(
    head: Head,
    *,
    hub: str,
    active: bool,
    folded: int,
    read_s: float,
    left_s: float | None,
    unrenewed_s: float = 0.0,
    lost: Sequence[LostRevs] = (),
) -> LeaseStatus:
    """Returns what a hub says of the lease.

    Args:
        folded: the rev up to which it has folded the log.
        read_s: seconds since it read the head.
        left_s: seconds until the lease was over then; None: it does not end by time.
        unrenewed_s: seconds since a hub that stands by read the newest renewal.
        lost: what was folded and the database does not hold.
    """
    return LeaseStatus(
        hub=hub,
        active=active,
        holder=head.lease.name,
        address=head.lease.address,
        left_s=left_s,
        epoch=head.lease.epoch,
        rev=folded,
        lag=max(0, head.rev - folded),
        read_s=round(read_s, 3),
        unrenewed_s=round(unrenewed_s, 3),
        lost=tuple(lost),
    )
