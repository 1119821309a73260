"""Which pointers need a person, and which of them first."""

import math
from collections.abc import Collection

from loradeck.schemas.state import TenantRow

NEEDS_YOU = ("BAD", "UNPRVN", "FAILED", "SLOW", "GLASS")
"""Flags that need a person, the worst first. No way back is none of them: each tenant's first release has none."""


ALERTING = ("BAD", "UNPRVN", "FAILED", "SLOW", "GLASS", "NOPRIOR", "DRIFT")
"""Flags that docs/alerts.yml alerts on."""

WORST = ("BAD", "AHEAD", "UNPRVN", "FAILED", "SLOW", "GLASS", "NOPRIOR", "DRIFT")
"""Flags that the others give way to where there is room for one, the worst first."""


def urgency(flags: Collection[str]) -> int:
    """The rank of a pointer by its flags: 0 for the worst of NEEDS_YOU, and their number where none is set."""
    return next((rank for rank, flag in enumerate(NEEDS_YOU) if flag in flags), len(NEEDS_YOU))


def alerting(row: TenantRow) -> tuple[str, ...]:
    """The flags of a pointer that monitoring is told of: no way back only where releases lie beneath the live one.

    A tenant's first release has none beneath it, and it has none again after R from the second; nobody can mend that.
    """
    beneath = any(release != row.pointer.release for release in row.pointer.beneath)
    return tuple(flag for flag in ALERTING if flag in row.flags and (flag != "NOPRIOR" or beneath))


def harm(row: TenantRow) -> int:
    """Sums what goes wrong on a pointer that needs a person: it grows by 2 where that doubles. 0 on all others.

    Requests a minute: bad answers at the rate of the checked ones, failed ones and refused ones. It grows in steps, so
    that figures that merely tick change no order.
    """
    if urgency(row.flags) == len(NEEDS_YOU):
        return 0
    a_minute = 60 * row.requests_per_s * ((row.bad_now or 0.0) + (row.error_share or 0.0)) + row.minute.refused
    return round(2 * math.log2(1 + a_minute))
