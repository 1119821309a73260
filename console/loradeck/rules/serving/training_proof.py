"""Decides whether training on a node is proven: what a trial has to show, and for how long that counts."""

from collections.abc import Collection, Mapping

from loradeck.rules.clocks import DAY_MS
from loradeck.schemas.training import CPU, TrainingProof

STALE_DAYS = 30
"""After so many days a proof is stale: drivers are updated and cards age."""

APART = 0.05
"""Most by which loss and gradient of a trial's first step may differ from fp32's. bf16 has eight bits: rounding to
them makes 0.4 % once. Later steps say little: a small adapter's effect is rounded away, and bf16 learns more slowly.
"""

UNPROVEN = "UNPROVEN HERE"
STALE = "STALE"


def faults(proof: TrainingProof) -> tuple[str, ...]:
    """Lists what a trial shows to be wrong with training on its node; empty: nothing."""
    apart = proof.apart or 0.0
    found = {
        "two runs of one recipe gave other bytes": not proof.straight,
        "a resumed run gave other bytes than an undisturbed one": not proof.resumed,
        f"the first steps in bf16 and fp32 are {apart:.1%} apart, {APART:.0%} are allowed": apart > APART,
        "a step took less memory than it needs by the plan": proof.peak_bytes < proof.planned_bytes,
    }
    return tuple(says for says, wrong in found.items() if wrong)


def standing(proof: TrainingProof | None, versions: Mapping[str, str], gpus: Collection[str], now_ms: int) -> str:
    """Says in a line whether training on a node is proven; '' for a node that cannot train.

    Args:
        proof: the node's newest.
        versions: of libraries and driver there now, by name; without torch it cannot train.
        gpus: the names of its GPUs.
    """
    if "torch" not in versions:
        return ""
    if proof is None:
        return UNPROVEN
    if wrong := faults(proof):
        return f"{UNPROVEN}: {wrong[0]}"
    names = sorted(versions.keys() | proof.versions.keys())
    changed = [
        f"{name} was {proof.versions.get(name, 'not there')} and is {versions.get(name, 'not there')}"
        for name in names
        if proof.versions.get(name) != versions.get(name)
    ]
    if gpus and proof.device not in gpus:
        changed.append(f"its trial ran on {proof.device}, and it has {', '.join(sorted(set(gpus)))}")
    if changed:
        return f"{UNPROVEN}: {'; '.join(changed)}"
    days = max(0, now_ms - proof.at_ms) // DAY_MS
    age = "today" if not days else f"{days} day{'s' * (days > 1)} ago"
    on = "on its CPU, which says nothing of a GPU" if proof.device == CPU else f"on {proof.device}"
    return f"{STALE}: proven {age} {on}" if days > STALE_DAYS else f"proven {age} {on}"
