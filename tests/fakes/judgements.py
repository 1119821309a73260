"""Lines of judgements as files hold them: two raters who agree on all items but those that are disputed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

Line = dict[str, Any]
RUBRIC = "helpful@1"


def truth(n: int) -> str:
    return "ab"[n % 2]


def item(n: int, name: str = "", **more: Any) -> Line:
    """A pair. Its better answer is a where n is even."""
    good, bad = f"Order {n} leaves within five days and comes by post.", f"Ask again about {n} some other time, please."
    a, b = (good, bad) if truth(n) == "a" else (bad, good)
    return {"item": name or f"p{n}", "prompt": f"How long does order {n} take?", "a": a, "b": b, **more}


def judgement(n: int, rater: str, choice: str = "", name: str = "", **more: Any) -> Line:
    """What a rater chose of an item; the better answer, unless said otherwise."""
    at = f"2026-03-{1 + n % 28:02}T10:{n % 60:02}:00Z"
    found = {"item": name or f"p{n}", "rater": rater, "rubric": RUBRIC, "choice": choice or truth(n), "at": at}
    return {**found, "first": "ab"[n // 2 % 2], **more}


def lines(
    pairs: int = 64, gold: int = 24, raters: Sequence[str] = ("r1", "r2"), disputed: Collection[int] = ()
) -> list[Line]:
    """All lines of a campaign; the last rater chooses the other answer of what is disputed. `r1` signs in as ann."""
    found: list[Line] = [{"rubric": RUBRIC, "text": "The answer that helps more is better."}]
    found += [{"rater": one, "qualifications": [], "person": "ann" * (one == "r1")} for one in raters]
    found += [item(n) for n in range(pairs)] + [item(n, f"g{n}", gold=truth(n)) for n in range(gold)]
    for one in raters:
        other = {n: "ba"["ab".index(truth(n))] for n in disputed if one == raters[-1]}
        found += [judgement(n, one, other.get(n, "")) for n in range(pairs)]
        found += [judgement(n, one, name=f"g{n}") for n in range(gold)]
    return found
