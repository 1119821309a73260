"""Counts that a node makes of a day's requests on a route, without any text of them: buckets of words and lengths."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from loradeck.schemas.ids import Name, Strict

WORDS, LENGTHS, CLASSES = 1024, 16, 64
"""Buckets of words by their CRC-32, of lengths by their power of two, and of short answers by their CRC-32."""

MOST = 10**9
"""Requests that a day of a route counts at most."""

MOST_AT_ONCE = 2_000
"""Requests that a node brings in at once at most: its router counts some 450 of a route in a quarter of an hour."""

_Count = Annotated[int, Field(ge=0, le=MOST)]


class InputCounts(Strict):
    """Counts over some requests of one day. Adding those of the same day and route sums them, up to MOST requests.

    A bucket of words holds about a thousandth of all words there are, so that it names none. Whoever guesses a word can
    see whether its bucket was common, and no more.
    """

    route: Name
    day: int = Field(ge=0, le=10**6, description="days since 1970 UTC")
    requests: _Count = Field(description="that were looked at: a sample")
    words: tuple[_Count, ...] = Field(
        min_length=WORDS, max_length=WORDS, description="requests with a word of the bucket in them"
    )
    lengths: tuple[_Count, ...] = Field(
        min_length=LENGTHS, max_length=LENGTHS, description="requests by the power of two of their characters"
    )
    classes: tuple[_Count, ...] = Field(
        min_length=CLASSES, max_length=CLASSES, description="answers of one short line, by the bucket of the whole"
    )

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if max(*self.words, sum(self.lengths), sum(self.classes)) > self.requests:
            raise ValueError("more was counted than there were requests")
        return self

    def __add__(self, other: Self) -> Self:
        if self.requests + other.requests > MOST:
            return self  # cut to MOST one by one, buckets would no longer add up to the requests

        def sums(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(a + b for a, b in zip(one, two, strict=True))

        summed = {name: sums(getattr(self, name), getattr(other, name)) for name in ("words", "lengths", "classes")}
        return self.model_copy(update={"requests": self.requests + other.requests, **summed})
