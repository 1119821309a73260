"""Whether merged weights may stand for the base and adapter they were made of."""

from __future__ import annotations

from loradeck.schemas.attestation import MergeProbe

SHARE = 0.25
"""How much of what the adapter changes may be lost. One cast to bf16 loses a few hundredths of it; weights of another
adapter, a wrong scale or a base that is not the adapter's lose all of it and more."""

NOISE = 1e-3
"""Nats. Below that, two ways to compute the same model in another order differ as much."""


def fault(probe: MergeProbe) -> str | None:
    """Why the merged weights do not say what base + adapter says; None: they do."""
    limit = max(NOISE, SHARE * probe.kl_base)
    if probe.kl <= limit:
        return None
    return (
        f"the merged weights differ from base + adapter by {probe.kl:.3g} nats a token over {probe.positions} tokens, "
        f"at most {limit:.3g} is allowed; the base alone differs by {probe.kl_base:.3g}"
    )
