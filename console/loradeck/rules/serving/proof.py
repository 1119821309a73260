"""Proof that a replica really answers with the release that the router names, and how far a move has come.

A release's greedy tokens for fixed prompts are its fingerprint, recorded once per engine build on the first idle load.
Under load the tokens of a near tie may change, so positions count only up to the first one whose top-2 margin is under
0.5 nat.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from loradeck.schemas.attestation import CanaryItem, CanaryRecord
from loradeck.schemas.ids import short

CLEAR_NATS = 0.5
"""Margin between the two likeliest tokens, in nats, from which greedy decoding does not depend on load."""


class Reached(StrEnum):
    """How far a move has come on all its placed replicas, each level above the one before it.

    The one meaning of these words: in the console, in the commands and their exit statuses, in JSON and in alerts.
    """

    COMMITTED = "committed"  # in the log; some replica may still answer with the left release
    FLIPPED = "flipped"  # no router admits to the left release any more
    LISTED = "listed"  # and each replica has been checked, but on some nothing tells the release from its base or prior
    PROVEN = "proven"  # and each replica answered a canary with tokens that only this release gives

    def covers(self, level: str) -> bool:
        """Tells whether who waits for `level` need not wait any more."""
        return ORDER.index(self) >= ORDER.index(Reached(level))


ORDER = tuple(Reached)
"""From the first level to the last."""


def reached(*, placed: int, flipped: int, proven: int, listed: int) -> Reached:
    """Says how far a generation has come, by the number of its placed replicas at each level."""
    if placed == 0 or flipped < placed:
        return Reached.COMMITTED
    if proven + listed < placed:
        return Reached.FLIPPED
    return Reached.PROVEN if proven >= placed else Reached.LISTED


class Level(StrEnum):
    """How certain it is that a replica answers with a release."""

    PROVEN = "proven"  # the fingerprint matches, and no release it could be mistaken for has an equal one
    LISTED = "listed"  # the fingerprint does not decide; only path and digest identify the release
    FAILED = "failed"  # another release answers


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The level that a replica's answers reach, and why it is not `proven`.

    `code`: no_record, no_canaries, not_distinct; canary_missing, canary_mismatch.
    """

    level: Level
    code: str | None = None
    detail: str = ""


def counted(item: CanaryItem) -> int:
    """Number of leading positions of a canary that count."""
    n = min(len(item.tokens), len(item.margins))
    return next((i for i in range(n) if item.margins[i] < CLEAR_NATS), n)


def judge(
    observed: Sequence[CanaryItem],
    record: CanaryRecord | None,
    others: Mapping[str, CanaryRecord | None],
    is_base: bool,
    called: Mapping[str, str] | None = None,
) -> Judgement:
    """Judges a replica's canary answers after a flip.

    Args:
        record: the release's record for this engine build; None if there is none.
        others: records, for the same build, of the releases it could be mistaken for: the base alone and each release
            the pointer may leave. None stands for a missing record: that release cannot be ruled out.
        is_base: the release is the base alone, which only has to match its own record.
        called: what the others are called in words, by release; one that has no name there is called by its digest.
    """
    if record is None:
        # At the load its answers were judged like this: none is recorded that something else may have given.
        why = None if is_base else indistinct(observed, others, called)
        return Judgement(
            level=Level.LISTED, code="no_record", detail=why or "its answers were not recorded when it was loaded"
        )
    counts = {item.prompt: counted(item) for item in record.items}
    if not any(counts.values()):
        return Judgement(level=Level.LISTED, code="no_canaries", detail=UNCLEAR)
    answers = {item.prompt: item for item in observed}
    for item in record.items:
        answer = answers.get(item.prompt)
        if answer is None:
            return Judgement(
                level=Level.FAILED, code="canary_missing", detail=f"canary {short(item.prompt)} was not answered"
            )
        for i in range(counts[item.prompt]):
            if i >= len(answer.tokens) or answer.tokens[i] != item.tokens[i]:
                got = answer.tokens[i] if i < len(answer.tokens) else "the end"
                return Judgement(
                    level=Level.FAILED,
                    code="canary_mismatch",
                    detail=f"canary {short(item.prompt)}, position {i}: token {got}, recorded {item.tokens[i]}",
                )
    if is_base:
        return Judgement(level=Level.PROVEN)
    why = indistinct(record.items, {name: other for name, other in others.items() if name != record.release}, called)
    return Judgement(level=Level.LISTED, code="not_distinct", detail=why) if why else Judgement(level=Level.PROVEN)


UNCLEAR = f"no answer begins clearly: the two likeliest tokens are within {CLEAR_NATS:g} nat"


def indistinct(
    items: Sequence[CanaryItem], others: Mapping[str, CanaryRecord | None], called: Mapping[str, str] | None = None
) -> str | None:
    """Why a release's answers do not tell it from the others: they are like another's, or unclear. None: they do.

    Args:
        others, called: as for `judge`.
    """
    if not any(map(counted, items)):
        return UNCLEAR
    if not others:
        return "there is no record of the base to differ from"
    for name, other in others.items():
        them = (called or {}).get(name, short(name))
        if other is None:
            return f"there is no record of {them} to differ from"
        if not distinct(items, other.items):
            theirs = {item.prompt: item.tokens for item in other.items}
            if all(item.tokens == theirs.get(item.prompt, item.tokens) for item in items):
                return f"{them} answers the canaries alike"
            return f"it differs from {them} only where an answer is unclear (under {CLEAR_NATS:g} nat)"
    return None


def what_to_do(tenant: str, route: str, release: str) -> str:
    """The command that makes a listed release provable: it proposes canaries that tell it from others."""
    return f"loradeck canary suggest {tenant} {route} {release}"


def distinct(items: Sequence[CanaryItem], others: Sequence[CanaryItem]) -> bool:
    """Tells whether some canary distinguishes two releases at a position that counts for both."""
    theirs = {item.prompt: item for item in others}
    return any(clearly_apart(item, theirs[item.prompt]) is not None for item in items if item.prompt in theirs)


def clearly_apart(item: CanaryItem, other: CanaryItem) -> float | None:
    """The margin, in nats, with which two answers to one canary are told apart; None: they are not.

    They are by the first token that differs, if it and all before it count in both: the margin is the smallest on the
    way there.
    """
    for i in range(min(counted(item), counted(other))):
        if item.tokens[i] != other.tokens[i]:
            return min(*item.margins[: i + 1], *other.margins[: i + 1])
    return None


def attested(*, placed: int, reachable: int, checked: int, min_replicas: int) -> tuple[int, int] | None:
    """Returns (checked, placed) if a generation counts as attested, else None.

    It does when at least `min_replicas` placed replicas, and all reachable ones, are proven or listed. Counts are of
    placed replicas; `checked` counts the reachable ones that are proven or listed on this generation.
    """
    if checked >= min_replicas and checked >= reachable and checked > 0:
        return (checked, placed)
    return None
