"""The base of every expected error: a stable code, what was wrong, where, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

    from loradeck.schemas.problem import Problem


class Fault(Exception):
    """An expected error that is shown to people and programs, in a log, on a terminal or on the wire.

    Attributes:
        code: stable; programs may depend on it, and it travels in problem documents and acknowledgements.
        title: what was wrong.
        detail: where; empty where the title says it.
        fix: what to do about it.
    """

    def __init__(self, code: str, title: str, detail: str = "", fix: str = "") -> None:
        super().__init__(code, title, detail, fix)
        self.code = code
        self.title = title
        self.detail = detail
        self.fix = fix

    def __str__(self) -> str:
        return ": ".join(part for part in (self.code, self.title, self.detail) if part)

    @property
    def sentence(self) -> str:
        """What was wrong, where and what to do, on one line."""
        return "; ".join(part for part in (self.title, self.detail, self.fix) if part)

    def as_problem(self, status: int = 0) -> Problem:
        """The problem document of this error; `status` is the HTTP status, 0 where nothing answered over HTTP."""
        from loradeck.schemas.problem import Problem  # here, so that `loradeck --help` starts without pydantic

        return Problem(status=status, code=self.code, title=self.title, detail=self.detail, fix=self.fix)


def first_wrong(error: ValidationError, *within: str, root: str = "") -> str:
    """The first field that does not fit and why, without its value.

    `within` is what the model is a part of, `root` what stands for a field where the whole does not fit.
    """
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(map(str, (*within, *first["loc"]))) or root
    return f"{where}: {first['msg']}" if where else first["msg"]
