"""What counts: which replicas belong to a pointer's count, what each adds to it, and how its flip reads.

A node that is lost may go on answering with whatever it last held. So its replicas stay in the count of placed ones,
and add to none of the counts of what was reached. Replicas that their own node finds silent are counted likewise.
"""

import math
from collections.abc import Iterable

from loradeck.schemas.replica_state import LINK_TTL_S, AckLevel, AckState
from loradeck.schemas.state import CountSource, ReplicaRow, TenantRow

Share = tuple[int, int, int, int, int, int, int, int]
"""The part of one replica in the counts: reachable, flipped, proven, listed, failed, owing a flip, owing a proof,
resting.
"""


def share(*, silent: bool, state: AckState | None, flipped: bool, pinned: bool, rests: bool = False) -> Share:
    """The part of one placed replica in a pointer's counts.

    Args:
        silent: its node has sent nothing for longer than the TTL, or says that the replica does not answer. Whatever it
            acknowledged, it is neither flipped nor proven until it is heard again.
        state: of its newest acknowledgement of the current generation; None: it sent none.
        flipped: it has acknowledged the flip, and nothing has taken that back.
        pinned: its node is pinned to another release.
        rests: where it has flipped, it has yet to load the release or was proven at the load before (`is_resting`).
    """
    reached = not silent
    if state is None:
        return (reached, False, False, False, False, reached, reached, False)
    failed = state is AckState.FAILED
    flipped = reached and flipped
    proven = reached and state is AckState.PROVEN
    listed = reached and state is AckState.LISTED
    owing = reached and not failed and not pinned  # of the others nothing more is to be expected
    resting = flipped and rests and state is AckState.FLIPPED
    owing_proof = owing and not (proven or listed)
    return (reached, flipped, proven, listed, failed, owing and not flipped, owing_proof, resting)


def is_resting(*, level: AckLevel | None, boot: str, checked_boot: str | None) -> bool:
    """Tells whether a replica that has flipped, and is not proven now, is no cause to worry about what it answers.

    A cold one answers nobody, and lets callers in only once its release has answered its canaries. One that has loaded
    its release again was proven to serve this generation before, in the same lifetime of its engine.

    Args:
        level: how near the release is.
        boot: of the engine now; '': it does not say.
        checked_boot: of the engine whose newest proof of this generation was good; None: there is none.
    """
    return is_cold(level) or (checked_boot is not None and checked_boot == boot != "")


PROVEN_STALE_S = 180.0
"""Seconds after which a count of proofs is shown with its age. Agents prove again each minute, and pause between
pointers: some hundred of them on a node take so long.
"""


def sources(replicas: Iterable[ReplicaRow]) -> tuple[CountSource, ...]:
    """Finds where a row's counts come from. One that counts nothing has no source.

    A flip, and what a router has counted, is as old as the last word of the quietest node that is counted, a proof as
    the oldest that is counted.
    """
    counted = [r for r in replicas if not r.lost]
    flipped = [r for r in counted if r.state in (AckState.FLIPPED, AckState.LISTED, AckState.PROVEN)]
    proven = [(r.proof_age_s, r.node) for r in flipped if r.state is AckState.PROVEN and r.proof_age_s is not None]
    oldest = {
        ("flipped", "acknowledgement"): _heard(flipped),
        ("proven", "probe"): proven,
        ("minute", "report"): _heard(counted),
    }
    return tuple(
        CountSource(count=count, by=by, node=node, age_s=age_s)
        for (count, by), words in oldest.items()
        for age_s, node in sorted(words)[-1:]
    )


def _heard(replicas: Iterable[ReplicaRow]) -> list[tuple[float, str]]:
    return [(r.heard_age_s, r.node) for r in replicas if r.heard_age_s is not None]


def leaves_at(refuse_after_s: float | None, addressed: float) -> float:
    """When a replica whose node stays lost leaves its pointer's count, since it refuses from then on.

    Until then it may answer callers. It leaves earlier only by acknowledging its tombstone, or by being forgotten.

    Args:
        refuse_after_s: of the entry that its node holds; None: it serves on without a hub, or that is not known.
        addressed: when the hub last sent its node anything, in the seconds of the clock that is answered in. Silence of
            the node is not enough: it may hear the hub well, and then its refuse-after does not run. What was sent may
            arrive one TTL later, after which the node itself gives the link up.
    """
    return math.inf if refuse_after_s is None else addressed + refuse_after_s + LINK_TTL_S


def is_cold(level: AckLevel | None) -> bool:
    """Tells whether a replica at this level has to load a release before it can answer with it.

    None, of an agent that sends no levels, is not cold: such a replica flips only once the release is loaded.
    """
    return level in (AckLevel.DISK, AckLevel.ABSENT)


def flip_counts(row: TenantRow) -> str:
    """Writes the flips of a pointer: `FLIPPED 1/2`; `FLIPPED cold 1/2` where nobody is answered by the left release,
    and on some replica the new one is yet to be loaded.
    """
    cold = " cold" if any(replica.cold for replica in row.replicas) else ""
    return f"FLIPPED{cold} {row.flipped}/{row.placed}"
