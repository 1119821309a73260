"""The names of the console's lists."""

from __future__ import annotations

from enum import StrEnum


class Screen(StrEnum):
    """A list of the console, in the order of its keys."""

    TENANTS = "tenants"
    NODES = "nodes"
    JOBS = "jobs"
    GATES = "gates"
    ADAPTERS = "adapters"
    EVENTS = "events"
    DATA = "data"
