"""Arms: which of a pointer's two releases answers a request while a candidate is out.

The decision rests on the salt, the key and the share alone, so every router makes the same one, also after a restart.
A key has one place among a thousand for as long as the candidate is out; a wider share adds places and takes none away.
"""

import hashlib
from dataclasses import dataclass

from loradeck.schemas.counts import BINS
from loradeck.schemas.table import Split

PLACES = 1000


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The arm of one request. `exposed`: it counts in a comparison of the two arms; one that could not have been given
    either of them does not.
    """

    candidate: bool
    exposed: bool


LIVE_UNEXPOSED = Arm(candidate=False, exposed=False)
"""The live release answers, and the request says nothing about the candidate."""


def place(salt: str, key: str) -> int:
    """The place of a key, from 0 to 999; spread evenly over the keys, and otherwise by another salt."""
    return seat(salt, key)[0]


def seat(salt: str, key: str) -> tuple[int, int]:
    """The place of a key, which decides its arm, and its bin, in which its outcomes are counted, whatever its arm."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") % PLACES, digest[8] % BINS


def lease_is_over(split: Split, hub_lost_s: float | None) -> bool:
    """Tells whether nobody gets the candidate any more: no hub was heard for too long. `hub_lost_s` None: one is."""
    return hub_lost_s is not None and hub_lost_s >= split.lease_s


def arm(split: Split | None, key: str | None, *, ready: bool, hub_lost_s: float | None) -> Arm:
    """Decides which arm answers a request.

    Args:
        key: the value of the split's unit in this request; None: the request has none.
        ready: an engine here can answer with the candidate.
        hub_lost_s: seconds without a hub; None while there is one.
    """
    if split is None or split.shadow or key is None or not ready or lease_is_over(split, hub_lost_s):
        return LIVE_UNEXPOSED
    return Arm(candidate=key in split.named or place(split.salt, key) < split.permille, exposed=True)
