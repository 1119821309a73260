"""What can go wrong between a console and its hub, each with what was wrong, where, and what to do."""

from __future__ import annotations

from loradeck.schemas.problem import Problem

LEAVES_OPEN = frozenset({"outcome_unknown", "internal", "store_error"})
"""Codes of problems that do not say whether the change was made."""


class ClientError(Exception):
    """Base of this package's errors. `title` says what was wrong, `where` where, `fix` what to do."""

    def __init__(self, title: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(title)
        self.title = title
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        return "\n".join(part for part in (self.title, self.where, self.fix) if part)


class ConfigError(ClientError):
    """The settings on this machine cannot be used; nothing was sent."""


class ApiError(ClientError):
    """The hub refused. `problem` is its document; nothing was changed, unless its code is in `LEAVES_OPEN`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.title, where=problem.detail, fix=problem.fix)
        self.problem = problem

    @property
    def code(self) -> str:
        """The stable code of the problem."""
        return self.problem.code


class HubUnreachable(ClientError):
    """The hub could not be reached, so nothing was sent and nothing was changed."""


class NotUnderstood(HubUnreachable):
    """Something answered, but not as a hub of this version does. A change may or may not have been made."""


class OutcomeUnknown(ClientError):
    """A change was sent and its answer was lost: it may or may not have been made.

    `key` is a move's idempotency key, which settles it once the hub answers; None for what is no move.
    """

    def __init__(self, key: str | None, *, where: str) -> None:
        if key is not None:
            fix = f"assume neither; once the hub answers: loradeck move {key}"
        else:
            fix = "assume neither; list what the hub has before you repeat it"
        super().__init__(
            "OUTCOME UNKNOWN: it was sent and the answer was lost; it may or may not have been done",
            where=where,
            fix=fix,
        )
        self.key = key


class BlobDamaged(ClientError):
    """Bytes do not have the digest that was asked for; they were discarded."""
