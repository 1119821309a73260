"""Waiting between attempts: full jitter, so that a hub that comes back is not met by everybody at once."""

from __future__ import annotations

import random
from collections.abc import Iterator


def full_jitter(first_s: float, cap_s: float, *, rng: random.Random | None = None) -> Iterator[float]:
    """Seconds to wait before attempt 2, 3, ...: uniform between 0 and a bound that doubles up to `cap_s`."""
    draw = (rng or random.Random()).uniform
    bound = first_s
    while True:
        yield draw(0.0, bound)
        bound = min(cap_s, bound * 2)
