"""The choice of canaries: which prompts tell a release from the others that could be taken for it, and how surely."""

from collections.abc import Mapping, Sequence

from loradeck.rules.serving.proof import clearly_apart
from loradeck.schemas.attestation import CanaryItem
from loradeck.schemas.ids import Digest

PROPOSED = 3
"""Canaries that are proposed where as many tell the release from every other one: the next release may need another."""

Margins = Mapping[Digest, float | None]
"""The other releases -> the margin in nats with which one prompt tells them apart; None: it does not."""


def margins(own: CanaryItem, others: Mapping[Digest, CanaryItem]) -> dict[Digest, float | None]:
    """Measures how surely one prompt tells a release from each of the others, by their answers to it."""
    return {release: clearly_apart(own, item) for release, item in others.items()}


def smallest(found: Margins) -> float | None:
    """The margin by which a prompt tells a release from all the others; None: it does not tell it from every one."""
    known = [margin for margin in found.values() if margin is not None]
    return min(known) if known and len(known) == len(found) else None


def ranked(prompts: Sequence[Margins]) -> list[int]:
    """Places of the prompts, best first: by how many releases each tells apart, then by its smallest margin."""

    def worth(place: int) -> tuple[int, float]:
        known = [margin for margin in prompts[place].values() if margin is not None]
        return len(known), min(known, default=0.0)

    return sorted(range(len(prompts)), key=worth, reverse=True)


def proposed(prompts: Sequence[Margins]) -> list[int]:
    """Places of the prompts to be canaries, best first: together they tell the release from as many as can be told.

    Empty where none tells it from anything.
    """
    order = ranked(prompts)
    chosen = [place for place in order if smallest(prompts[place]) is not None][:PROPOSED]
    if not chosen:
        told: set[Digest] = set()
        for place in order:
            here = {release for release, margin in prompts[place].items() if margin is not None}
            if here - told:
                chosen.append(place)
                told |= here
    return chosen
