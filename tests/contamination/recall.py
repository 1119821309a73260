"""Recall of the search for suite items among training rows, attack by attack, over the items of the examples.

Each item is put into one row of its own by the attack, and is looked for among those rows. Attacks draw by a fixed
seed.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from loradeck.artifacts.rows.contamination import contaminated

EXAMPLES = Path(__file__).parents[2] / "examples"
SEED = 16
CYRILLIC = str.maketrans("aeopcyx", "аеорсух")
LONG = "We moved into the new office in spring and the lifts were still being fitted when the first desks came. " * 5
OTHERS = ["amber", "kettle", "violin", "ladder", "orchard", "pepper", "saddle", "tunnel", "walnut", "zipper"]


def _words_changed(text: str, draw: random.Random, every: int) -> str:
    words = text.split()
    for start in range(0, len(words), every):
        words[draw.randrange(start, min(start + every, len(words)))] = draw.choice(OTHERS)
    return " ".join(words)


def _one_changed(text: str, draw: random.Random) -> str:
    words = text.split()
    words[draw.randrange(len(words))] = draw.choice(OTHERS)
    return " ".join(words)


def _one_left_out(text: str, draw: random.Random) -> str:
    words = text.split()
    del words[draw.randrange(len(words))]
    return " ".join(words)


def _halves(text: str, draw: random.Random) -> list[str]:
    words = text.split()
    return [" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])]


ATTACKS: dict[str, Callable[[str, random.Random], str | list[str]]] = {
    "word for word": lambda text, draw: text,
    "upper case, other punctuation and space": lambda text, draw: "  ".join(text.upper().split()) + " !!",
    "“Please help me with this: …”": lambda text, draw: f"Please help me with this: {text}",
    "“… Answer in one line.”": lambda text, draw: f"{text} Answer in one line.",
    "in the middle of 200 other words": lambda text, draw: f"{LONG} {text} {LONG}",
    "full-width characters": lambda text, draw: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "Cyrillic letters that look the same": lambda text, draw: text.translate(CYRILLIC),
    "a character that nobody sees after each letter": lambda text, draw: "\u200b".join(text),
    "accents on every vowel": lambda text, draw: "".join(c + "\u0301" if c in "aeiou" else c for c in text),
    "one word left out": _one_left_out,
    "one word replaced": _one_changed,
    "every tenth word replaced": lambda text, draw: _words_changed(text, draw, 10),
    "every fifth word replaced": lambda text, draw: _words_changed(text, draw, 5),
    "cut in two rows": _halves,
    "words backwards": lambda text, draw: " ".join(reversed(text.split())),
}


def questions(*paths: Path) -> dict[str, str]:
    """The questions of items or rows, by file and line."""
    found = {}
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines()):
            row = json.loads(line)
            messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
            found[f"{path} {number}"] = "\n".join(m["content"] for m in messages if m["role"] == "user")
    return found


def items() -> dict[str, str]:
    """The items of the examples' suites."""
    return questions(*sorted(EXAMPLES.glob("tickets/*/held-out.jsonl")), *sorted(EXAMPLES.glob("suites/*.jsonl")))


def table() -> Iterator[str]:
    """The lines of the table of docs/data.md."""
    known = items()
    yield "| what was done to the item | found, of items under 8 words | of 8 to 15 words | of 16 words and more |"
    yield "|---|---|---|---|"
    for name, attack in ATTACKS.items():
        draw, shares = random.Random(SEED), []
        for low, high in ((1, 7), (8, 15), (16, 1000)):
            some = {item: text for item, text in known.items() if low <= len(text.split()) <= high}
            rows = [attack(text, draw) for text in some.values()]
            flat = [row for made in rows for row in (made if isinstance(made, list) else [made])]
            shares.append(f"{len(contaminated(flat, some))} of {len(some)}")
        yield f"| {name} | {' | '.join(shares)} |"


def false_alarms() -> str:
    """What is found where nothing was copied: the examples' own rows beside the items of their tenants' suites."""
    found, rows, compared = 0, 0, 0
    for tenant in ("acme", "bolt", "cedar"):
        folder = EXAMPLES / "tickets" / tenant
        texts = questions(*sorted(folder.glob("tickets-*.jsonl")))
        own = questions(folder / "held-out.jsonl", *sorted(EXAMPLES.glob("suites/*.jsonl")))
        found, rows, compared = (
            found + len(contaminated(list(texts.values()), own)),
            rows + len(texts),
            compared + len(own),
        )
    return f"{found} of {compared} items among {rows} rows"
