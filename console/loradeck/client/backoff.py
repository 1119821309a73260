"""Back-off between attempts with full jitter, so that a returning hub is not met by all clients at once.

Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Full jitter: each pause is uniform between 0 and a bound that doubles with every failure, in seconds.

    `first` is the bound before the second attempt, `cap` the highest one. `draw` picks between two bounds.
    """

    first: float = 0.5
    cap: float = 15.0
    draw: Callable[[float, float], float] = random.uniform

    def pause(self, failures: int) -> float:
        """Draws the seconds to wait after so many failures in a row; 0 draws below `first`."""
        return self.draw(0.0, min(self.cap, self.first * 2 ** min(failures, 16)))

    def pauses(self) -> Iterator[float]:
        """Yields the seconds to wait before attempt 2, 3, ..., for ever."""
        return map(self.pause, itertools.count())
