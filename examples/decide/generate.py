"""Writes the example's files: opening hours of forty places, half of which have changed on 2026-05-01.

    cd examples && python -m decide.generate

Rows for training have the hours of before that day; items of the suite have those of after it, with the texts that a
retriever would find.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from example_files import jsonl, write

CHANGED = "2026-05-01"
STREETS = ("Elm", "Oak", "Mill", "King", "Lake", "Rose", "Park", "Hill", "Station", "Harbour")
KINDS = ("library", "pool", "museum", "bakery")
HOURS = tuple(f"{hour}:{minute}" for hour in range(7, 12) for minute in ("00", "15", "30", "45"))
ASKED = ("When does the {} open?", "Opening time of the {}?", "The {}: from when is it open?")
SHOTS = (
    ("Canal Street garage", "8:20", 1),
    ("Tower Street market", "6:40", 0),
    ("Bridge Street cinema", "12:10", 2),
    ("Abbey Street school", "7:50", 1),
    ("Coal Street clinic", "8:05", 0),
)
"""Examples of a prompt: a place, when it opens, and how many texts stand before the one that says so."""


def told(place: str, hour: str) -> str:
    return f"The {place} opens at {hour}."


def files() -> dict[str, str]:
    """Everything this program writes, by name: rows, items and the examples of a prompt."""
    draw = random.Random(17)
    places = [f"{street} Street {kind}" for kind in KINDS for street in STREETS]
    before = {place: draw.choice(HOURS) for place in places}
    changed = set(draw.sample(places, len(places) // 2))
    now = {p: draw.choice([h for h in HOURS if h != before[p]]) if p in changed else before[p] for p in places}
    rows = [{"prompt": asked.format(place), "answer": before[place]} for place in places for asked in ASKED]
    items = []
    for number, place in enumerate(places):
        others = draw.sample([other for other in places if other != place], 2)
        found = [place, *others]
        draw.shuffle(found)
        contexts = [{"id": f"d{at}", "text": told(one, now[one])} for at, one in enumerate(found, start=1)]
        item: dict[str, object] = {
            "id": f"hours-{number:02}",
            "prompt": f"At what time does the {place} open?",
            "answer": now[place],
        }
        item |= {"contexts": contexts, "cites": f"d{found.index(place) + 1}"}
        items.append(item | ({"changed_on": CHANGED} if place in changed else {}))
    shots = []
    for place, hour, at in SHOTS:
        found = [told(other, draw.choice(HOURS)) for other in ("Fort Street gym", "Well Street bar")]
        found.insert(at, told(place, hour))
        shown = "\n".join(f"[d{number}] {text}" for number, text in enumerate(found, start=1))
        asked = f"{shown}\n\nAt what time does the {place} open?"
        shots.append({"prompt": asked, "answer": f"{hour} [d{at + 1}]"})
    plain = [{"prompt": f"At what time does the {place} open?", "answer": hour} for place, hour, _ in SHOTS]
    sets: dict[str, Sequence[Mapping[str, object]]] = {
        "hours": rows,
        "hours-held-out": items,
        "shots-with-texts": shots,
        "shots": plain,
    }
    return {f"{name}.jsonl": jsonl(lines) for name, lines in sets.items()}


if __name__ == "__main__":
    write(__doc__, files, Path(__file__).parent)
