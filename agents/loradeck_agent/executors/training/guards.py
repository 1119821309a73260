"""When a run is given up: values that are not finite, losses that jump and stay up, preferences that unlearn."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from loradeck.schemas.training import Guards
from loradeck_agent.executors.protocol import Diverged

WINDOW = 20
SETTLED = 8
"""Losses that must have been seen before a jump is told from a beginning."""
FLOOR = 0.1
"""Nats. Below it a loss several times the median is no harm."""


class Watch:
    """Looks at each step before it is taken. Its memory travels in checkpoints."""

    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._chosen: deque[float] = deque(maxlen=SETTLED)
        self._spikes = 0

    def look(self, step: int, loss: float, norm: float) -> None:
        """Raises Diverged: `diverged`, a value is not finite; `loss_spike`, so many losses in a row are too high."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"step {step}: loss {loss}, gradient norm {norm}; lower the learning rate")
        usual = max(FLOOR, statistics.median(self._losses)) if len(self._losses) >= SETTLED else math.inf
        if loss <= self._guards.spike * usual:
            self._spikes = 0
            self._losses.append(loss)
            return
        self._spikes += 1
        if self._spikes >= self._guards.spikes:
            raise Diverged(
                f"step {step}: loss {loss:.3g} for {self._spikes} steps, {loss / usual:.1f} times the {usual:.3g} of "
                "the steps before; lower the learning rate, or look at the rows drawn last",
                "loss_spike",
            )

    def chosen(self, step: int, logps: float, reference: float) -> None:
        """Mean log-probability (nats) of the chosen answers, by the model and by the reference, of one step.

        Raises:
            Diverged: `chosen_fell`, over the last steps the chosen answers became much less likely: the loss falls
                because the rejected ones fall faster, and the model unlearns both.
        """
        self._chosen.append((logps - reference) / max(1.0, abs(reference)))
        fall = -statistics.fmean(self._chosen)
        if len(self._chosen) == SETTLED and fall > self._guards.chosen_drop:
            raise Diverged(
                f"step {step}: log p(chosen) fell to {logps:.1f} from the reference's {reference:.1f}, {fall:.0%} over "
                f"{SETTLED} steps, at most {self._guards.chosen_drop:.0%} may; raise beta or lower the learning rate",
                "chosen_fell",
            )

    def state(self) -> dict[str, Any]:
        return {"losses": list(self._losses), "chosen": list(self._chosen), "spikes": self._spikes}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._losses.extend(state["losses"])
        self._chosen.extend(state["chosen"])
        self._spikes = state["spikes"]
