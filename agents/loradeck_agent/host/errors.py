"""Errors of the agent."""

from loradeck.schemas.fault import Fault


class AgentError(Fault):
    """Something the agent refuses or could not do. Nothing has changed when it is raised."""


class Unreachable(AgentError):
    """The other side did not answer: nothing is known about whether it acted.

    `silent`: it accepted the connection, or may have, and sent nothing in time.
    """

    def __init__(self, where: str, why: str, *, silent: bool = False) -> None:
        super().__init__("unreachable", f"no answer from {where}", why)
        self.silent = silent


class ConfigError(AgentError):
    """The configuration cannot be used; nothing was started."""
