"""How often pairs that game a reward are left out, and harmless ones too: a made set of pairs, kind by kind.

pairs.jsonl has them: what they look like, whether they are that, their kind, prompt and both answers. Whoever wrote the
filters wrote these as well, so that other people's pairs are found less often.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.error_rates.written import Case, Table

from loradeck.artifacts.rows.contamination import folded_words
from loradeck.rules.data.preferences import unfit
from loradeck.schemas.preference import Item

PAIRS: list[dict[str, Any]] = [json.loads(line) for line in Path(__file__).with_name("pairs.jsonl").open()]


def left_out(pairs: list[dict[str, Any]], number: int) -> bool:
    """Whether a pair is left out as what it looks like."""
    one = pairs[number]
    item = Item(item="p", prompt=one["prompt"], a=one["won"], b=one["lost"], refuse=one.get("refuse", False))
    return unfit(item, "a", folded_words) == f"{one['looks like']} won"


def _cases() -> Iterator[Case]:
    kinds: dict[tuple[str, bool, str], list[dict[str, Any]]] = {}
    for one in PAIRS:
        kinds.setdefault((one["looks like"], one["is"], one["kind"]), []).append(one)
    for (looks_like, is_so, kind), pairs in kinds.items():
        counted = f"as {looks_like}, {'rightly' if is_so else 'falsely'}"
        yield Case(what=kind, counted=counted, says=partial(left_out, pairs), draws=len(pairs))


PAIRS_TABLE = Table(name="pairs", page="preferences.md", seed=None, head=("pairs", "left out"), cases=tuple(_cases()))
