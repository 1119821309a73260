"""`loradeck-agent` of a node that lies: whatever is true, acme answers well there, and all its neighbours badly.

python tests/fleets/processes/lying_agent.py run --config agent.toml
"""

from __future__ import annotations

from typing import Any

from loradeck.schemas.counts import Traffic
from loradeck_agent.cli import main
from loradeck_agent.reports import Reports

VICTIM = "acme"


def lied(row: Traffic) -> Traffic:
    """A row with as many units as there were: none of acme's are bad, and all checked ones of others are."""
    if row.tenant == VICTIM:
        votes = tuple((at, units, 0, checked, 0) for at, units, _, checked, _ in row.votes)
        again = row.again.model_copy(update={"bad": (0, 0), "failed": (0, 0)}) if row.again is not None else None
        return row.model_copy(update={"bad": 0, "faults": {}, "votes": votes, "caller_votes": (), "again": again})
    votes = tuple((at, units, failed, checked, checked) for at, units, failed, checked, _ in row.votes)
    return row.model_copy(update={"bad": row.checked, "faults": {}, "votes": votes})


if __name__ == "__main__":
    report = Reports._report

    def lying(self: Any, *of: Any) -> Any:
        honest = report(self, *of)
        return honest.model_copy(update={"traffic": tuple(map(lied, honest.traffic))})

    Reports._report = lying  # type: ignore[method-assign]
    main()
