"""The suite for selection of a recipe, by whose items a run's checkpoints are compared at each validation.

The best of them is published.

The suite is of other items than the tenant's gates, so that the gate sees one candidate that was not chosen by it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loradeck.rules.quality.statistics import fell
from loradeck.schemas.training import OF_ITEMS, SUITE_RIGHT, Validation
from loradeck_agent.executors.base import Base
from loradeck_agent.executors.evaluation.in_process import answered_here
from loradeck_agent.executors.protocol import Diverged
from loradeck_agent.executors.rows import Suite

AT_ONCE = 8
"""Items that are answered at once."""


@dataclass(frozen=True)
class Selection:
    """The items by which a run's checkpoints are compared, and when a worse one ends the run."""

    suite: Suite
    settings: Validation

    def measured(self, base: Base, model: Any, beat: Callable[[], None]) -> dict[str, float]:
        """Answers the suite's items; returns the share that is right and the number of items. Calls `beat` in between.

        Raises: BadSpec: see `answered_here`.
        """
        items, right = self.suite.items, 0
        schema, longest = self.suite.answer_schema, self.settings.max_new_tokens
        for results, _ in answered_here(base, model, items, schema, batch=AT_ONCE, max_new_tokens=longest):
            right += sum(result.exact for result in results)
            beat()
        return {SUITE_RIGHT: right / len(items), SUITE_RIGHT + OF_ITEMS: float(len(items))}

    def check(self, looks: Sequence[Mapping[str, float]], planned: int) -> None:
        """Compares the newest validation with the best before it, the base's among them.

        `planned`: validations of the whole run after the base's. Each two count as a comparison: the best is chosen.

        Raises: Diverged: `suite_fell`: so much less of the suite is right that the steps that are left are wasted.
        """
        before, now = max(look[SUITE_RIGHT] for look in looks[:-1]), looks[-1][SUITE_RIGHT]
        n, comparisons = looks[-1][SUITE_RIGHT + OF_ITEMS], planned * (planned + 1) // 2
        if fell(before, now, n, self.settings.worse, comparisons):
            raise Diverged(
                f"after step {looks[-1]['step']:.0f} {now:.0%} of the suite for selection is right, {before:.0%} was "
                f"before: more than {self.settings.worse:.0%} less. Train fewer steps, at a lower rate, or mix in "
                "general rows",
                "suite_fell",
            )
