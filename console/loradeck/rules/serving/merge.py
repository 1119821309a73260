"""Acceptance of merged weights: whether they may stand in for the base and adapter they were made of."""

from loradeck.schemas.attestation import MergeProbe

SHARE = 0.25
"""Largest divergence of the merged weights, as a share of the adapter's own effect on the base.

One cast to bf16 loses a few hundredths of it; weights of another adapter, a wrong scale or another base lose all of it
and more.
"""

NOISE = 1e-3
"""Divergence in nats that is always accepted: computing one model in another order differs as much."""


def fault(probe: MergeProbe) -> str | None:
    """Why the merged weights diverge too far from base + adapter; None if they do not."""
    limit = max(NOISE, SHARE * probe.kl_base)
    if probe.kl <= limit:
        return None
    return (
        f"the merged weights differ from base + adapter by {probe.kl:.3g} nats a token over {probe.positions} tokens, "
        f"at most {limit:.3g} is allowed; the base alone differs by {probe.kl_base:.3g}"
    )
