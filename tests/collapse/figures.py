"""The tables of docs/synthetic.md, made from the stored figures of each generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tests.collapse.experiment import ARMS, GENERATIONS

DOCS = Path(__file__).parents[2] / "docs"
RESULTS, DOCUMENT = DOCS / "synthetic.json", DOCS / "synthetic.md"
BEGIN, END = "<!-- written by make bench-collapse -->", "<!-- /written -->"
DRAWS = 2000


def rise(cell: dict[str, Any], first: dict[str, Any]) -> tuple[float, float, float]:
    """How many nats a token more than the generation of people's rows held-out answers cost, with a 95 % interval.

    The unit is the row: rows are drawn again, both generations' figures of a row together.
    """
    ours, theirs = np.array(cell["nats"]), np.array(first["nats"])
    tokens = ours[:, 1]
    more = ours[:, 0] - theirs[:, 0]
    drawn = np.random.default_rng(0).integers(0, len(more), (DRAWS, len(more)))
    low, high = np.quantile(more[drawn].sum(1) / tokens[drawn].sum(1), (0.025, 0.975))
    return float(more.sum() / tokens.sum()), float(low), float(high)


def level(cell: dict[str, Any]) -> float:
    """Nats a token of held-out answers."""
    nats, tokens = (sum(part) for part in zip(*cell["nats"], strict=True))
    return float(nats / tokens)


def generations(kept: dict[str, Any]) -> int:
    """How many generations all arms have."""
    return (len(kept["cells"]) - 1) // len(ARMS)


def table(kept: dict[str, Any]) -> str:
    """The curves: a row for each generation of each arm."""
    first = kept["cells"][0]
    of = {(cell["arm"], cell["generation"]): cell for cell in kept["cells"]}
    lines = [
        "| rows | generation | trained on | held-out loss, nats a token (change from generation 0, 95 %) "
        "| different words of all | different pairs | self-BLEU | people's rare words | pass the form | right module |",
        "|---|---|---|---|---|---|---|---|---|---|",
        _line("people's", first, f"{level(first):.3f}"),
    ]
    for arm in ARMS:
        for number in range(1, generations(kept) + 1):
            cell = of[arm, number]
            more, low, high = rise(cell, first)
            lines.append(_line(arm, cell, f"{level(cell):.3f} ({more:+.3f}, {low:+.3f} to {high:+.3f})"))
    return "\n".join(lines) + "\n"


def _line(arm: str, cell: dict[str, Any], loss: str) -> str:
    various, tail = cell["variety"], cell["tail"]
    ones, twos = (various[name] / max(1, various["words"]) for name in ("distinct_1", "distinct_2"))
    return (
        f"| {arm} | {cell['generation']} | {cell['rows']} | {loss} | {ones:.2f} | {twos:.2f} "
        f"| {various['self_bleu'] / 1000:.2f} | {tail['k']} of {tail['n']} "
        f"| {cell['passed']} of {cell['written']} | {cell['right']} |"
    )


def written(document: str, kept: dict[str, Any]) -> str:
    """The document with its tables and what they were made by."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = (
        f"At {kept['commit']} by `{kept['command']}`, seed {kept['seed']}, Python {kept['python']}, n = "
        f"{len(kept['cells'][0]['nats'])} held-out rows; {generations(kept)} of {GENERATIONS} generations."
    )
    return f"{before}{BEGIN}\n\n{made}\n\n{table(kept)}\n{END}{after}"
