"""Flags that are held against releases, from a hub's attestations."""

from collections.abc import Iterable
from typing import NamedTuple

from loradeck.rules.moves.rollback_target import is_quarantined, lifted_of
from loradeck.schemas.attestation import Attestation
from loradeck.schemas.flag import FlagRecord
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import PointerState


class HeldFlag(NamedTuple):
    """The newest record of a release's flag on a pointer, which is held against it. `seq`: the attestation's."""

    key: PointerKey
    release: str
    seq: int
    record: FlagRecord


def held_flags(attestations: Iterable[Attestation]) -> list[HeldFlag]:
    """Lists the flags that are held against releases, by the newest record of each; the oldest first."""
    newest: dict[tuple[PointerKey, str], HeldFlag] = {}
    for one in attestations:
        key = (one.tenant, one.route or "")
        newest[key, one.subject] = HeldFlag(key, one.subject, one.seq, FlagRecord.model_validate(one.body))
    return [flag for flag in newest.values() if flag.record.counts_against or flag.record.is_doubt]


def is_liftable(flag: HeldFlag, pointer: PointerState) -> bool:
    """Tells whether nobody has lifted a flag yet, and its release is not quarantined, which a lift would end too."""
    lifted = lifted_of(flag.release, pointer)
    return (lifted is None or lifted.breach < flag.seq) and not is_quarantined(flag.release, pointer)
