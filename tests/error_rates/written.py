"""Tables of how often a rule says something: cases, their rows in docs/error_rates.json, and their place in docs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradeck.rules.quality.statistics import upper_bound

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "error_rates.json"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of a table: whether the rule says what is `counted`, in draw after draw of one kind.

    `draws`: how many there are to be; fewer where a set of texts ends.
    """

    what: str
    counted: str
    says: Callable[[int], bool]
    draws: int


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of docs/`page`, where it stands between two marks.

    `head`: its two first columns. `again`: the draws of each case that a test makes again; of texts it makes all.
    """

    name: str
    page: str
    seed: int | None
    head: tuple[str, str]
    cases: Sequence[Case]
    again: int = 4

    @property
    def command(self) -> str:
        """What draws it anew."""
        return f"python -m tests.error_rates {self.name}"

    @property
    def marks(self) -> tuple[str, str]:
        """The lines between which it stands."""
        return f"<!-- written by {self.command} -->", "<!-- /written -->"


@dataclass(frozen=True, kw_only=True)
class Summed:
    """A table of probabilities that are summed exactly. A test makes the first `again` lines anew."""

    name: str
    page: str
    made: Callable[[], Iterator[str]]
    again: int

    command = Table.command
    marks = Table.marks


def measured(table: Table | Summed) -> dict[str, Any]:
    """Draws or sums all cases of a table."""
    commit = subprocess.run(["git", "rev-parse", "--short=8", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    stamp = {"commit": commit.stdout.strip(), "command": table.command}
    if isinstance(table, Summed):
        return stamp | {"lines": list(table.made())}
    rows = []
    for case in table.cases:
        said = [case.says(number) for number in range(case.draws)]
        rows.append({"what": case.what, "counted": case.counted, "k": sum(said), "n": len(said)})
        rows[-1]["first"] = sum(said[: table.again])
        print(rows[-1], flush=True)
    return stamp | {"seed": table.seed, "rows": rows}


def interval(k: int, n: int) -> str:
    """A share with its exact 95 % interval (Clopper and Pearson)."""
    low, high = 1 - upper_bound(n - k, n, 0.025), upper_bound(k, n, 0.025)
    return f"{k / n:.1%} ({low:.1%} to {high:.1%})"


def lines(table: Table | Summed, kept: dict[str, Any]) -> str:
    """The table as it stands on its page."""
    at = f"At {kept['commit']} by `{kept['command']}`"
    if isinstance(table, Summed):
        return "\n".join([*kept["lines"], "", f"{at}; summed exactly."])
    found = [f"| {table.head[0]} | {table.head[1]} | of | share, 95 % |", "|---|---|---|---|"]
    for row in kept["rows"]:
        k, n = row["k"], row["n"]
        found += [f"| {row['what']} | {row['counted']} | {k} of {n} | {interval(k, n)} |"]
    seed = f", seed {kept['seed']}" if kept["seed"] is not None else ""
    return "\n".join([*found, "", f"{at}{seed}; intervals by Clopper and Pearson."])


def write(table: Table | Summed, kept: dict[str, Any]) -> None:
    """Keeps the rows of a table, and writes it into its page."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(known | {table.name: kept}, indent=1, ensure_ascii=False) + "\n")
    page, (begin, end) = ROOT / "docs" / table.page, table.marks
    head, mark, rest = page.read_text().partition(begin)
    if not mark:
        raise ValueError(f"docs/{table.page} has no line {begin}")
    page.write_text(f"{head}{begin}\n\n{lines(table, kept)}\n\n{end}{rest.partition(end)[2]}")
