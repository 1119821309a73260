"""Canaries: which records of a release's answers count, and which prompts tell a release from others, and how surely.

Several nodes record one release's answers, and one of them may be wrong or lie. Each node has one voice for each
prompt. More than half of the voices decide; where no answer has so many, none counts. A person's word, which has a
reason, counts above all nodes, and may withdraw what nodes recorded.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from loradeck.rules.serving.proof import clearly_apart, counted
from loradeck.schemas.attestation import CanaryItem, CanaryRecord
from loradeck.schemas.ids import Digest

VOICES = 3
"""Voices that agree from which on further nodes need not record what they answer alike."""

JOB = "job "
"""Who recorded something begins with this where an evaluate job did. It has a voice only where no node has one."""


class Stated(NamedTuple):
    """A canary record as the hub keeps it, and who recorded it: a node, 'job <id>', or with a reason a person."""

    seq: int
    by: str
    record: CanaryRecord


@dataclass(frozen=True)
class Agreed:
    """What counts, by prompt, and where voices contradict each other: prompt -> all who have one, in order."""

    items: Mapping[str, CanaryItem] = field(default_factory=dict)
    disputed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def alike(item: CanaryItem, other: CanaryItem) -> bool:
    """Tells whether two answers to one prompt may be one release's: no position that counts in both differs."""
    n = min(counted(item), counted(other))
    return item.tokens[:n] == other.tokens[:n]


def voices(statements: Iterable[Stated], prompt: str) -> dict[str, CanaryItem]:
    """Lists who says what about a prompt, first voice first; of each its newest word. A person's is the only one."""
    known = list(statements)
    gone = {seq for one in known if one.record.reason for seq in one.record.withdraws}
    said: dict[str, CanaryItem] = {}
    person: dict[str, CanaryItem] = {}
    for one in known:
        item = next((item for item in one.record.items if item.prompt == prompt), None)
        if item is None or one.seq in gone:
            continue
        if one.record.reason:
            person = {one.by: item}
        else:
            said[one.by] = item
    nodes = {by: item for by, item in said.items() if not by.startswith(JOB)}
    return person or nodes or said


def agreed(statements: Iterable[Stated]) -> Agreed:
    """Sums up the records of one release on one engine build. `statements`: in the order in which the hub got them."""
    known = list(statements)
    items: dict[str, CanaryItem] = {}
    disputed: dict[str, tuple[str, ...]] = {}
    for prompt in dict.fromkeys(item.prompt for one in known for item in one.record.items):
        said = voices(known, prompt)
        support = {by: sum(alike(item, other) for other in said.values()) for by, item in said.items()}
        best = max(support, key=lambda by: support[by], default=None)
        if best is None:
            continue  # all of it was withdrawn
        if 2 * support[best] > len(said):
            items[prompt] = said[best]
        else:
            disputed[prompt] = tuple(said)
    return Agreed(items, disputed)


def is_wanted(item: CanaryItem, node: str, statements: Iterable[Stated]) -> bool:
    """Tells whether a node is to record an answer: it has not said so yet, and few others have."""
    said = voices(statements, item.prompt)
    if node in said and alike(item, said[node]):
        return False
    return sum(alike(item, other) for other in said.values()) < VOICES


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
