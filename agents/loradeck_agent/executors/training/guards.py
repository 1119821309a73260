"""Guards that end a run early: values that are not finite, lasting loss spikes, preference losses that unlearn."""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from loradeck.schemas.training import Guards
from loradeck_agent.executors.protocol import Diverged

WINDOW = 20
"""Losses in the window whose median a new loss is compared with; steps by which the chosen answers are judged."""
BASELINE_STEPS = 8
"""Losses that are needed before a later one can count as a spike."""
FLOOR = 0.1
"""Nats. Losses below it never count as spikes, however small the median is."""


class Watch:
    """Checks each step's loss and gradients before the weights are changed. Its state is saved in checkpoints."""

    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._chosen: deque[float] = deque(maxlen=WINDOW)
        self._spikes = 0

    def look(self, step: int, loss: float, norm: float) -> None:
        """Checks a step's loss (nats) and gradient norm.

        Raises: Diverged: `diverged`: a value is not finite; `loss_spike`: too many losses in a row are far above the
        median.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise Diverged(f"step {step}: loss {loss}, gradient norm {norm}; lower the learning rate")
        usual = max(FLOOR, statistics.median(self._losses)) if len(self._losses) >= BASELINE_STEPS else math.inf
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
        """Checks that training on preferences does not unlearn the chosen answers.

        Args:
            logps: mean log-probability (nats) of the step's chosen answers by the model.
            reference: the mean by the reference model.

        Raises: Diverged: `chosen_fell`: in most of the last steps the chosen answers were much less likely. The loss
        falls because the rejected ones fall faster, and the model unlearns both. A few pairs may fall by themselves.
        """
        self._chosen.append((logps - reference) / max(1.0, abs(reference)))
        fall = -statistics.median(self._chosen)
        if len(self._chosen) == WINDOW and fall > self._guards.chosen_drop:
            raise Diverged(
                f"step {step}: log p(chosen) fell to {logps:.1f} from the reference's {reference:.1f}: {fall:.0%} in "
                f"half of the last {WINDOW} steps, above the limit of {self._guards.chosen_drop:.0%}; raise beta or "
                "lower the learning rate",
                "chosen_fell",
            )

    def state(self) -> dict[str, Any]:
        """The state to save in a checkpoint, as JSON."""
        return {"losses": list(self._losses), "chosen": list(self._chosen), "spikes": self._spikes}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores the state that `state` returned."""
        self._losses.extend(state["losses"])
        self._chosen.extend(state["chosen"])
        self._spikes = state["spikes"]
