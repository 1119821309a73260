"""Proposals: what one person has asked for on a route and a second one has to ask for too. Kept in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loradeck.hub.log.clock import Clock
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.errors import Refused
from loradeck.rules.sign_in import person
from loradeck.schemas.ids import PointerKey, digest_of

OPEN_MS = DAY_MS
"""How long a proposal waits."""


@dataclass(eq=False)
class Proposals:
    """The newest proposal of each route. `people_sign_in`: then only they count, and no machine's token."""

    _clock: Clock
    people_sign_in: bool
    _open: dict[PointerKey, tuple[str, str, str, int]] = field(default_factory=dict, init=False)

    def person(self, name: str, token: str | None) -> str:
        """Says who a caller is where two people are asked for, by its name and the id of its token.

        Raises: Refused `person_required`.
        """
        found = person(token, name, people_sign_in=self.people_sign_in)
        if found is None:
            raise Refused(
                "person_required",
                "people are asked for here, and neither a machine's token nor the hub's host is one",
                detail=name,
                fix="sign in: loradeck login",
            )
        return found

    def agreed(self, key: PointerKey, what: Mapping[str, Any], name: str, token: str | None) -> str | None:
        """The name of somebody else who has asked for the same; None: nobody has, and it is proposed now.

        Raises: Refused `person_required`.
        """
        asked, who, now = digest_of(what), self.person(name, token), self._clock.now_ms()
        proposed, by, called, at_ms = self._open.get(key, ("", "", "", 0))
        if proposed == asked and by != who and now - at_ms < OPEN_MS:
            return called
        self._open[key] = (asked, who, name, now)
        return None
