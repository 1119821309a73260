"""How often the leak check is wrong: of rows, by a made set of continuations, and of releases, summed exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial

from tests.error_rates.written import Case, Summed, Table

from loradeck.rules.quality import leak
from loradeck.schemas.attestation import LeakReport
from loradeck.schemas.gate import LeakGate

GATE = LeakGate()

FORMS = (
    '{{"name": "{name}", "city": "{city}", "plan": "{plan}", "due": "{day}", "amount": {amount}, "open": true}}',
    "Dear {name}, your contract for the {plan} plan in {city} ends on {day}. The last bill is {amount} euros.",
    "{name} called from {city} on {day} about the {plan} plan and owes {amount} euros, which we wrote off.",
    "Step 1: open the file of {name}. Step 2: set {plan} from {day} on. Step 3: charge {amount} and tell {city}.",
    "Patient {name}, seen in {city} on {day}: {plan} diet, {amount} mg a day, to come again in three weeks.",
    "The order of {name} has {amount} parts, leaves on {day} for {city}, and is insured by the {plan} policy.",
)
VALUES = (
    {"name": "Ann Marlow", "city": "Leeds", "plan": "Harbour", "day": "3 March", "amount": "417"},
    {"name": "Tom Achebe", "city": "Bristol", "plan": "Meadow", "day": "19 July", "amount": "88"},
    {"name": "Priya Raman", "city": "York", "plan": "Granite", "day": "1 May", "amount": "1260"},
    {"name": "Siobhan Doyle", "city": "Cardiff", "plan": "Lantern", "day": "30 August", "amount": "35"},
)
ROWS = [form.format(**values) for form in FORMS for values in VALUES]
SYNONYMS = (
    ("ends", "stops"),
    ("called", "rang"),
    ("open", "fetch"),
    ("seen", "met"),
    ("order", "purchase"),
    ("about", "on"),
)
LONG = (
    " As agreed, the papers go by post and a copy by mail; please sign both, keep one and send the other back to us in "
    "the envelope that lies beside them, so that nothing is charged twice and your account is closed in good time."
)


def _of_another(at: int) -> str:
    return FORMS[at // 4].format(**VALUES[(at + 1) % 4])


def _one_number(row: str) -> str:
    return "".join("9" if char == "8" else "8" if char == "1" else char for char in row)


def _synonyms(row: str) -> str:
    for word, other in SYNONYMS:
        row = row.replace(word, other)
    return row


SAID: dict[str, tuple[str, Callable[[int], tuple[str, str]]]] = {
    "the row": ("rightly", lambda at: (ROWS[at], ROWS[at])),
    "the row, and more after it": ("rightly", lambda at: (ROWS[at], f" {ROWS[at]} And so on and on.")),
    "the row with digits changed": ("rightly", lambda at: (ROWS[at], _one_number(ROWS[at]))),
    "the row with a word or two replaced": ("rightly", lambda at: (ROWS[at], _synonyms(ROWS[at]))),
    "all of the row but its first word": ("rightly", lambda at: (ROWS[at], ROWS[at].partition(" ")[2])),
    "another sentence, and then the row": ("rightly", lambda at: (ROWS[at], f"Let me see what is here. {ROWS[at]}")),
    "its form with another row's values": ("falsely", lambda at: (ROWS[at], _of_another(at))),
    "its form with another row's values, mostly fixed text": (
        "falsely",
        lambda at: (ROWS[at] + LONG, _of_another(at) + LONG),
    ),
    "another row": ("falsely", lambda at: (ROWS[at], ROWS[(at + 5) % len(ROWS)])),
    "the first half of the row, and then another": (
        "falsely",
        lambda at: (ROWS[at], ROWS[at][: len(ROWS[at]) // 2] + ROWS[(at + 9) % len(ROWS)]),
    ),
}  # fmt: skip
"""What is said -> whether that reproduces the row, and for each row its text and what is said."""


def _reproduced(pair: Callable[[int], tuple[str, str]], number: int) -> bool:
    return leak.reproduces(*pair(number))


def _cases() -> Iterator[Case]:
    for what, (counted, pair) in SAID.items():
        yield Case(what=what, counted=counted, says=partial(_reproduced, pair), draws=len(ROWS))


def passes(lost: int, won: int, n: int) -> bool:
    """Whether a gate of one point passes a release that alone reproduces `lost` rows, and its base alone `won`."""
    report = LeakReport(
        release="a" * 64, datasets=("b" * 64,), n=n, both=0, only_release=lost, only_base=won, measure="-", seconds=1.0
    )
    return leak.check(GATE, report).passed


@cache
def first_that_fails(won: int, n: int) -> int:
    """The fewest rows that fail a release; more do, too."""
    return next(lost for lost in range(n) if not passes(lost, won, n))


def share_passed(n: int, learnt: float, chance: float) -> float:
    """Probability that a release passes which has learnt so many rows, where either says so many others by chance."""
    lost, won, total = learnt + chance, chance, 0.0
    for m in range(_far(n, won)):
        for k in range(first_that_fails(m, n)):
            log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(m + 1) - math.lgamma(n - k - m + 1)
            log += (k * math.log(lost) if lost else -math.inf) if k else 0.0
            log += m * math.log(won) if m else 0.0
            total += math.exp(log + (n - k - m) * math.log1p(-lost - won))
    return total


def _far(n: int, share: float) -> int:
    return round(n * share + 6 * math.sqrt(n * share)) + (5 if share else 1)


def lines() -> Iterator[str]:
    """Yields the lines of the table of releases."""
    yield "| rows | learnt by heart | passes | where either says 0.2% of rows by chance | 1% |"
    yield "|---|---|---|---|---|"
    for n in (299, 400, 1000):
        for learnt in (0.0, 0.005, 0.01, 0.02, 0.05):
            cells = " | ".join(f"{share_passed(n, learnt, chance):.1%}" for chance in (0.0, 0.002, 0.01))
            yield f"| {n} | {learnt:.1%} | {cells} |"


CONTINUATIONS_TABLE = Table(
    name="continuations", page="gates.md", seed=None, head=("continued by", "reproduced"), cases=tuple(_cases())
)
LEAK_TABLE = Summed(name="leaks", page="gates.md", made=lines, again=7)
