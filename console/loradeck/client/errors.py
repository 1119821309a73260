"""Errors between a console and its hub: each says what was wrong, where, and what to do."""

from loradeck.schemas.fault import Fault
from loradeck.schemas.problem import Problem

LEAVES_OPEN = frozenset({"outcome_unknown", "internal", "store_error"})
"""Codes of problems that leave it open whether the change was made."""


class ClientError(Fault):
    """Base of the client's errors."""

    CODE = "usage"

    def __init__(self, title: str, *, detail: str = "", fix: str = "", code: str | None = None) -> None:
        super().__init__(code or self.CODE, title, detail, fix)

    def __str__(self) -> str:
        return "\n".join(part for part in (self.title, self.detail, self.fix) if part)


class ConfigError(ClientError):
    """The settings on this machine cannot be used; nothing was sent."""

    CODE = "settings"


class ApiError(ClientError):
    """The hub refused. Nothing was changed, unless the code is in `LEAVES_OPEN`. `problem` is its problem document."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.title, detail=problem.detail, fix=problem.fix, code=problem.code)
        self.problem = problem

    @property
    def active(self) -> str | None:
        """Where a hub that stands by says that the active one is; None: it says nothing of that."""
        return self.problem.context.get("address") or None


class HubUnreachable(ClientError):
    """The hub could not be reached, so nothing was sent and nothing was changed."""

    CODE = "hub_unreachable"


class NotUnderstood(HubUnreachable):
    """The answer is not one of a hub of this version. A change may or may not have been made."""


def not_understood(what: str, where: str, why: str) -> NotUnderstood:
    """The error about an answer or a message of the hub that is not of this version."""
    fix = "bring this console and its hub to the same version (loradeck --version)"
    return NotUnderstood(f"{what} is not understood", detail=f"{where}: {why}", fix=fix)


class OutcomeUnknown(ClientError):
    """A change was sent and its answer was lost, so it may or may not have been made.

    `key` is a move's idempotency key, by which it can be looked up once the hub answers; None if it was no move.
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
