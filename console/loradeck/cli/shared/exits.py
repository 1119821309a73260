"""Exit statuses, and the errors of commands: each says what was wrong, where, and what to do."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import TYPE_CHECKING

from loradeck.schemas.fault import Fault

if TYPE_CHECKING:
    from loradeck.schemas.problem import Problem


class Exit(IntEnum):
    """Exit statuses of `loradeck`, documented in docs/cli.md and in `loradeck --help`; scripts depend on them."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNKNOWN = 4
    NOT_IN_TIME = 5
    PERMISSION = 6
    NOT_PROVEN = 7
    INTERRUPTED = 130


MEANING = {
    Exit.OK: "done",
    Exit.REFUSED: "refused by a rule, or not confirmed; nothing was changed",
    Exit.USAGE: "wrong use: arguments, files or settings on this machine",
    Exit.UNREACHABLE: "the hub cannot be reached or cannot serve now",
    Exit.UNKNOWN: "outcome unknown: sent, and the answer was lost",
    Exit.NOT_IN_TIME: "moved, but not flipped or proven within the time given",
    Exit.PERMISSION: "the token does not allow it",
    Exit.NOT_PROVEN: "moved and flipped, and only listed: no canary tells the release from its base or prior",
    Exit.INTERRUPTED: "interrupted",
}

_UNREACHABLE = {"not_active", "settling", "starting", "store_unusable", "store_unreachable", "lease_held"}


class CliError(Fault):
    """An error that the command itself found, with the status it exits with."""

    def __init__(self, title: str, *, where: str = "", fix: str = "", code: str = "refused", exit: Exit) -> None:
        super().__init__(code, title, where, fix)
        self.exit = exit

    def __str__(self) -> str:
        return self.title


def refused(title: str, *, where: str = "", fix: str = "", code: str = "refused") -> CliError:
    """An error of exit status 1: a rule forbids the request."""
    return CliError(title, where=where, fix=fix, code=code, exit=Exit.REFUSED)


def misused(title: str, *, where: str = "", fix: str = "", code: str = "usage") -> CliError:
    """An error of exit status 2: arguments, files or settings on this machine are wrong."""
    return CliError(title, where=where, fix=fix, code=code, exit=Exit.USAGE)


def exit_of(problem: Problem) -> Exit:
    """The exit status of a hub's refusal."""
    from loradeck.client.errors import LEAVES_OPEN

    if problem.status in (401, 403):
        return Exit.PERMISSION
    if problem.code in LEAVES_OPEN:
        return Exit.UNKNOWN
    if problem.code in _UNREACHABLE:
        return Exit.UNREACHABLE
    return Exit.REFUSED


def verdict(error: Exception) -> tuple[Exit, Problem] | None:
    """Exit status and problem document of an expected error; None for any other."""
    from pydantic import ValidationError

    from loradeck.artifacts.errors import BadArtifact
    from loradeck.client.errors import ApiError, BlobDamaged, ClientError, HubUnreachable, OutcomeUnknown
    from loradeck.client.setting_errors import setting_errors
    from loradeck.rules.errors import Refused

    if isinstance(error, ApiError):
        return exit_of(error.problem), error.problem
    if isinstance(error, ValidationError):
        # An argument does not fit the schema. It is not repeated: it may be a secret in the wrong place.
        wrong = "; ".join(setting_errors(error)[:5])
        return Exit.USAGE, Fault("usage", wrong, "the arguments of this command", "--help explains each").as_problem()
    if isinstance(error, CliError):
        return error.exit, error.as_problem()
    if isinstance(error, BadArtifact | ClientError | Refused):
        exits: dict[type[Fault], Exit] = {
            OutcomeUnknown: Exit.UNKNOWN,
            HubUnreachable: Exit.UNREACHABLE,
            BlobDamaged: Exit.REFUSED,
            Refused: Exit.REFUSED,
        }
        status = next((exit for kind, exit in exits.items() if isinstance(error, kind)), Exit.USAGE)
        return status, error.as_problem()
    return None


def print_error(problem: Problem, *, as_json: bool) -> None:
    """Prints an error to stderr: three lines for people, or the problem document."""
    from loradeck.client.terminal_text import clean

    if as_json:
        sys.stderr.write(problem.model_dump_json() + "\n")
        return
    lines = [f"error: {clean(problem.title)} [{problem.code}]"]
    if problem.detail:
        lines.append(f"  where: {clean(problem.detail)}")
    if problem.fix:
        lines.append(f"  do:    {clean(problem.fix)}")
    sys.stderr.write("\n".join(lines) + "\n")
