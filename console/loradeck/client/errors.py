"""What can go wrong between a console and its hub, each with what was wrong, where, and what to do."""

from __future__ import annotations

from loradeck.schemas.fault import Fault
from loradeck.schemas.problem import Problem

LEAVES_OPEN = frozenset({"outcome_unknown", "internal", "store_error"})
"""Codes of problems that do not say whether the change was made."""


class ClientError(Fault):
    """Base of this package's errors."""

    CODE = "usage"

    def __init__(self, title: str, *, detail: str = "", fix: str = "", code: str | None = None) -> None:
        super().__init__(code or self.CODE, title, detail, fix)

    def __str__(self) -> str:
        return "\n".join(part for part in (self.title, self.detail, self.fix) if part)


class ConfigError(ClientError):
    """The settings on this machine cannot be used; nothing was sent."""

    CODE = "settings"


class ApiError(ClientError):
    """The hub refused. Nothing was changed, unless the code is in `LEAVES_OPEN`. `problem`: its document as it came."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.title, detail=problem.detail, fix=problem.fix, code=problem.code)
        self.problem = problem


class HubUnreachable(ClientError):
    """The hub could not be reached, so nothing was sent and nothing was changed."""

    CODE = "hub_unreachable"


class NotUnderstood(HubUnreachable):
    """Something answered, but not as a hub of this version does. A change may or may not have been made."""


class OutcomeUnknown(ClientError):
    """A change was sent and its answer was lost: it may or may not have been made.

    `key` is a move's idempotency key, which settles it once the hub answers; None for what is no move.
    """

    CODE = "outcome_unknown"

    def __init__(self, key: str | None, *, detail: str) -> None:
        if key is not None:
            fix = f"assume neither; once the hub answers: loradeck move {key}"
        else:
            fix = "assume neither; list what the hub has before you repeat it"
        super().__init__(
            "OUTCOME UNKNOWN: it was sent and the answer was lost; it may or may not have been done",
            detail=detail,
            fix=fix,
        )
        self.key = key


class BlobDamaged(ClientError):
    """Bytes do not have the digest that was asked for; they were discarded."""

    CODE = "blob_damaged"
