"""Whether this hub makes a move now: not while it starts, without the lease, or where its log lacks moves."""

from collections.abc import Iterable
from dataclasses import dataclass

from loradeck.hub.log.disk_reserve import DISK_FULL, DiskReserve
from loradeck.hub.log.log import Log
from loradeck.hub.recovery.recover import BEHIND, Witnesses
from loradeck.hub.recovery.startup import SETTLING, Startup
from loradeck.rules.errors import Refused
from loradeck.rules.moves.witness import ONE_COPY, waits, waits_for_standby
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Draft, EventKind


@dataclass(eq=False)
class MovesAllowed:
    """The one place where it is decided whether moves are made, and why not."""

    _log: Log
    _witnesses: Witnesses
    _startup: Startup
    _reserve: DiskReserve | None = None

    @property
    def refusing(self) -> str | None:
        """The problem code that every move gets now; None: moves are made."""
        if self._log.lease_lost:
            return "not_active"
        if self._reserve is not None and self._reserve.exhausted:
            return DISK_FULL
        if self._witnesses.names and self._log.state.rev == 0:
            return BEHIND
        return None if self._startup.over else SETTLING

    @property
    def waiting(self) -> str | None:
        """The problem code that forward moves get now: with `log_behind`, every move of a pointer that a node or hub
        holds back, too.
        """
        if self._witnesses.names:
            return BEHIND
        if self._log.one_copy:
            return ONE_COPY
        return DISK_FULL if self._reserve is not None and self._reserve.in_use else None

    @property
    def forward(self) -> bool:
        """Whether forward moves are made."""
        return self.refusing is None and self.waiting is None

    def check(self) -> None:
        """Does nothing while moves are made. Raises: Refused `log_behind`, `settling`, `disk_full` or `not_active`."""
        code = self.refusing
        if code == BEHIND:
            raise self._behind("this hub's log lacks moves that have been seen", self._witnesses.names)
        if code == SETTLING:
            raise self._startup.refusal()
        if code == DISK_FULL:
            raise self._full("the hub's disk is full, and its reserve is used up")
        if code is not None:
            raise self._log.not_active()

    def check_pointer(self, key: PointerKey | None) -> None:
        """Does nothing while moves are made, and nobody holds this pointer back.

        Raises: Refused, as `check` does, and `log_behind`.
        """
        holding = self._witnesses.holding(key) if key is not None else []
        if key is not None and holding and not self._log.lease_lost:
            raise self._behind(f"the log lacks moves of {'/'.join(key)} that have been seen", holding)
        self.check()

    def check_event(self, kind: EventKind, key: PointerKey | None) -> None:
        """Does nothing for an event that may be committed now.

        Raises: Refused, as `check` does, and `log_behind`, `one_copy` or `disk_full` for what waits.
        """
        if self._witnesses.waits(kind, key) and not self._log.lease_lost:
            self.check_pointer(key)
            why = "forward moves wait: this hub's log lacks moves that have been seen"
            raise self._behind(why, self._witnesses.names)
        self.check()
        if waits_for_standby(kind, one_copy=self._log.one_copy):
            raise Refused(
                ONE_COPY,
                "forward moves wait: the database has lost its standby, and a commit would be on one server alone",
                detail="ways back are made, and marked `1 copy`",
                fix="bring a standby back; the hub goes on by itself",
            )
        if self.waiting == DISK_FULL and waits(kind, ahead=True, held=False):
            raise self._full("the hub's disk is full: what room is left is for ways back")

    def check_all(self, drafts: Iterable[Draft]) -> None:
        """Does nothing for drafts that may all be committed now. Raises: Refused, as `check_event` does."""
        for draft in drafts:
            self.check_event(draft.kind, (draft.tenant, draft.route) if draft.route is not None else None)

    def check_complete(self) -> None:
        """Does nothing while the log surely holds every move. Raises: Refused, as `check` does, and `log_behind`."""
        self.check()
        if self.waiting == BEHIND:
            raise self._behind("this hub's log lacks moves that have been seen", self._witnesses.names)

    def _full(self, title: str) -> Refused:
        return Refused(DISK_FULL, title, fix="free space on the hub's disk; it goes on by itself")

    def _behind(self, title: str, nodes: Iterable[str]) -> Refused:
        names = sorted(nodes)
        return Refused(
            BEHIND,
            title,
            detail=f"ahead of it: {', '.join(names)}",
            fix="loradeck hub recover, on the hub's host",
            context={"nodes": names},
        )
