"""Errors of the agent: a stable code, what was wrong, where, and what to do."""

from __future__ import annotations


class AgentError(Exception):
    """Something the agent refuses or could not do. Nothing has changed when it is raised.

    `code` is stable and travels in acknowledgements and job events; `title` says what was wrong, `detail`
    where, `fix` what to do about it.
    """

    def __init__(self, code: str, title: str, detail: str = "", fix: str = "") -> None:
        super().__init__(code, title, detail, fix)
        self.code = code
        self.title = title
        self.detail = detail
        self.fix = fix

    def __str__(self) -> str:
        return ": ".join(part for part in (self.code, self.title, self.detail) if part)


class Unreachable(AgentError):
    """The other side did not answer: nothing is known about whether it acted.

    `silent`: it took the connection, or may have, and said nothing in time.
    """

    def __init__(self, where: str, why: str, *, silent: bool = False) -> None:
        super().__init__("unreachable", f"no answer from {where}", why)
        self.silent = silent


class ConfigError(AgentError):
    """The configuration cannot be used; nothing was started."""
