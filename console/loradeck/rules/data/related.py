"""Related releases: live releases that share a dataset, a recipe, a move to another base, a batch of promotes or a
signer. And the promotes that an incident about a related release holds up.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from loradeck.rules.clocks import MINUTE_MS
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.incident import Incident, Shared, Suspect
from loradeck.schemas.route import Guard

BATCH_MS = 10 * MINUTE_MS
"""Longest time between promotes of one actor that count as one batch, in milliseconds."""

FREEZING = frozenset({Shared.RELEASE, Shared.DATASET, Shared.RUN, Shared.BASE_MOVE, Shared.BATCH})
"""What a release must share with that of an incident for its promote to be held up. A signer alone does not: where one
key signs all releases of a fleet, one bad one would hold up all the others.
"""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A release on a pointer, and what it may share with others.

    Args:
        left_base: the base of the release that was live before it.
        brought: it, and how it came there.
    """

    datasets: frozenset[str] = frozenset()
    recipe: str | None = None
    base: str
    left_base: str | None = None
    signers: frozenset[str] = frozenset()
    brought: Suspect


def shared(one: Member, other: Member) -> list[tuple[Shared, str]]:
    """Lists what two releases share, each with its id: the release, a dataset's or recipe's digest, the two bases, the
    actor, or the signer's key.
    """
    same = one.brought.release == other.brought.release
    found: list[tuple[Shared, str]] = [(Shared.RELEASE, one.brought.release)] if same else []
    found += [(Shared.DATASET, digest) for digest in sorted(one.datasets & other.datasets)]
    if one.recipe is not None and one.recipe == other.recipe:
        found.append((Shared.RUN, one.recipe))
    if one.left_base not in (None, one.base) and (one.left_base, one.base) == (other.left_base, other.base):
        found.append((Shared.BASE_MOVE, f"{one.left_base} {one.base}"))
    if _one_batch(one.brought, other.brought):
        found.append((Shared.BATCH, one.brought.by))
    found += [(Shared.SIGNER, key) for key in sorted(one.signers & other.signers)]
    return found


def _one_batch(one: Suspect, other: Suspect) -> bool:
    if one.txn is not None and one.txn == other.txn:
        return True
    promotes = one.promoted and other.promoted and one.by == other.by
    return promotes and abs((one.at_ms or 0) - (other.at_ms or 0)) <= BATCH_MS


def freezes(
    key: PointerKey, guard: Guard, one: Member, about: Iterable[tuple[Incident, Member]]
) -> tuple[Incident, Shared] | None:
    """The open incident that holds up a promote of a release on a pointer, and what it shares with the release that the
    incident is about; None: nothing does.

    A route's guard that may hold or roll back is the consent to it. Of other tenants only those incidents count in
    which a guard has acted: a person of one tenant does not hold up another. The pointer on which it began is free: the
    release is quarantined there, and what mends it often comes from the same data.

    `about`: open incidents, each with the release of its first pointer.
    """
    if guard not in (Guard.HOLD, Guard.ROLLBACK):
        return None
    for incident, suspect in about:
        if incident.pointers[0].key == key or (not incident.guard and incident.tenant != key[0]):
            continue
        what = next((what for what, _ in shared(one, suspect) if what in FREEZING), None)
        if what is not None:
            return incident, what
    return None
