"""The flags of a pointer's row in words. `--once`, JSON and alerts say the flags; the console says the words."""

from loradeck.client.candidate_words import percent_of
from loradeck.rules.quality.attention import WORST
from loradeck.rules.quality.health import OVERDUE
from loradeck.schemas.state import TenantRow

WORDS = {
    "BAD": "bad",
    "AHEAD": "waits for recover",
    "UNPRVN": "unproven",
    "FAILED": "promote failed",
    "SLOW": "slow",
    "GLASS": "acted alone",
    "NOPRIOR": "no way back",
    "DRIFT": "drift",
    "OVR": "overridden",
    "HELD": "held",
    "PIN": "pinned",
    "PREP": "preparing",
    "CAND": "candidate",
    "SUSP": "suspended",
}
"""The words of each flag where nothing but the flag is known."""

_BAD = {"bad": "bad answers", "errors": "errors", OVERDUE: "overdue answers"}
"""What is bad, by the figure that decided it."""


def word(flag: str) -> str:
    """The words of a flag of which nothing else is known; of one that a newer hub has added its name."""
    return WORDS.get(flag, flag.lower())


def worst_first(flags: tuple[str, ...]) -> tuple[str, ...]:
    """The flags in the order in which they are said."""
    return (*(flag for flag in WORST if flag in flags), *(flag for flag in flags if flag not in WORST))


def why(row: TenantRow) -> tuple[str, ...]:
    """Says what is the matter with a pointer, the worst first: `bad answers`, `2 unproven`, `candidate 5 %`."""
    return tuple(_words(flag, row) for flag in worst_first(row.flags))


def _words(flag: str, row: TenantRow) -> str:
    candidate = row.pointer.candidate
    if flag == "BAD":
        return _BAD.get(row.cause.figure, word(flag))
    if flag == "UNPRVN" and (unproven := row.placed - row.proven - row.listed) > 0:
        return f"{unproven} {word(flag)}"
    if flag == "CAND" and candidate is not None:
        name = "shadow" if candidate.shadow else word(flag)
        return f"{name} {percent_of(candidate.permille)}" if candidate.permille else name
    return word(flag)
