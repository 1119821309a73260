"""Separation of duties: whoever made a release, whoever reviewed it and whoever moves it forward are different people.

Nothing of it concerns moves that go back.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from loradeck.rules.errors import Refused
from loradeck.schemas.route import RouteConfig

ASKS_PEOPLE = "its route asks for stakeholders, that author and promoter differ, or for tickets without a standing one"


def asks_people(config: RouteConfig) -> bool:
    """Tells whether a route wants its releases let out by people, so that the hub lets out none by itself."""
    controls = config.controls
    return controls.duties or bool(controls.stakeholders) or (controls.tickets and controls.standing_ticket is None)


@dataclass(frozen=True, kw_only=True)
class Involved:
    """Who had a release made, and who has reviewed it and found it good: name -> who that is where people sign in."""

    authors: Collection[str]
    validators: Mapping[str, str]


def refusal(called: str, involved: Involved, name: str, person: str) -> Refused | None:
    """The refusal of a move forward by somebody who made or reviewed the release, or where nobody else has reviewed it.

    None: all three are different people. A review by somebody who had the release made counts for nothing here.

    Args:
        called: the release's name.
        name, person: of whoever moves it.
    """
    reviewed = any(name == by or person == who for by, who in involved.validators.items())
    others = sorted(involved.validators.keys() - set(involved.authors))
    if name in involved.authors:
        why, fix = f"{name} had {called} made", "somebody who neither made nor reviewed it moves it"
    elif reviewed:
        why, fix = f"{name} has reviewed {called}", "somebody who neither made nor reviewed it moves it"
    elif not others:
        why = f"nobody who had no part in making {called} has reviewed it and found it good"
        fix = "somebody else reviews it: loradeck gate review, where the route's gate has [review]"
    else:
        return None
    return Refused(
        "duties_not_separate",
        "this route asks that author, validator and promoter are different people",
        detail=why,
        fix=f"{fix}; or, on the hub's host, --break-glass REASON",
        context={"authors": sorted(involved.authors), "validators": others},
    )
