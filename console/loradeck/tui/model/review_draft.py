"""A person's verdicts on a candidate's sampled answers, until they are signed.

If the hub samples other answers meanwhile, the verdicts are dropped.
"""

from dataclasses import dataclass, field

from loradeck.schemas.review import Review, ReviewedItem, ReviewSheet, SampledItem

Candidate = tuple[str, str, str]
"""Tenant, route, release."""


@dataclass
class Reviewing:
    """One candidate's answers and the verdicts on them. `at`: the one that is looked at."""

    candidate: Candidate
    sheet: ReviewSheet | None = None
    verdicts: dict[str, bool] = field(default_factory=dict)
    """Item id -> whether its answer is good."""

    notes: dict[str, str] = field(default_factory=dict)
    """Item id -> what is wrong with a bad answer."""

    at: int = 0
    trouble: str = ""
    """Why the hub has no answers to look at."""

    def update(self, sheet: ReviewSheet) -> None:
        """Replace the sheet by the hub's newest; verdicts on other answers are dropped."""
        if self.sheet is None or self.sheet.answers != sheet.answers:
            self.verdicts, self.notes, self.at = {}, {}, 0
        self.sheet, self.trouble = sheet, ""

    @property
    def items(self) -> tuple[SampledItem, ...]:
        """The sampled answers; none before the sheet has come."""
        return self.sheet.items if self.sheet is not None else ()

    @property
    def review(self) -> Review:
        """The review to be signed, once every answer has a verdict."""
        assert self.sheet is not None
        return Review(
            release=self.sheet.release,
            suite=self.sheet.suite,
            answers=self.sheet.answers,
            items=tuple(
                ReviewedItem(id=item.id, good=self.verdicts[item.id], note=self.notes.get(item.id, ""))
                for item in self.items
            ),
        )

    @property
    def left(self) -> int:
        """Answers without a verdict."""
        return len(self.items) - len(self.verdicts)

    @property
    def bad(self) -> int:
        """Answers found bad."""
        return sum(not good for good in self.verdicts.values())

    def step(self, by: int) -> None:
        """Go to another answer, stopping at the ends."""
        self.at = max(0, min(len(self.items) - 1, self.at + by))

    def judge(self, good: bool, note: str = "") -> None:
        """Give a verdict on the current answer, and go on to the next one without a verdict.

        `note`: the fault of a bad answer; it replaces the note of an earlier verdict.
        """
        if not self.items:
            return
        item = self.items[self.at]
        self.verdicts[item.id] = good
        self.notes.pop(item.id, None)
        if note:
            self.notes[item.id] = note
        after = [n for n, item in enumerate(self.items) if item.id not in self.verdicts]
        self.at = next((n for n in after if n > self.at), after[0] if after else self.at)
