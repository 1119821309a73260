"""Merged weights stand in for base + adapter only while they answer as those do."""

from __future__ import annotations

import pytest

from loradeck.rules.serving.merge import NOISE, SHARE, fault
from loradeck.schemas.attestation import MergeProbe


def probe(kl: float, kl_base: float) -> MergeProbe:
    return MergeProbe(prompts=4, positions=64, kl=kl, kl_worst=kl, kl_base=kl_base, agree=64)


@pytest.mark.parametrize(
    ("kl", "kl_base", "fits"),
    [
        (0.0, 0.0, True),
        (NOISE, 0.0, True),
        (NOISE * 1.01, 0.0, False),
        (SHARE * 0.4, 0.4, True),
        (SHARE * 0.4 + 1e-9, 0.4, False),
        (NOISE, NOISE, True),
        (0.4, 0.4, False),
    ],
)
def test_merged_weights_may_lose_a_quarter_of_the_adapters_effect_or_the_noise(
    kl: float, kl_base: float, fits: bool
) -> None:
    assert (fault(probe(kl, kl_base)) is None) is fits


def test_weights_that_do_not_fit_are_refused_with_the_figures() -> None:
    assert fault(probe(0.3, 0.4)) == (
        "the merged weights differ from base + adapter by 0.3 nats a token over 64 tokens, "
        "at most 0.1 is allowed; the base alone differs by 0.4"
    )
