"""How often, and how soon, a rule moves a release back in each world of pairs, as tables in Markdown.

`--rule module:factory` names what makes the rule, a `PairsRule`; without it only the plain rules beside it are run. All
rules see the same pairs. With `--resume FILE` runs go on where they stopped, unless the code has changed since.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median, quantiles
from typing import TypedDict

from tests.detection.pair_worlds.pair import PairsRule
from tests.detection.pair_worlds.peers import ConversationMinutes, EveryPair, TwoProportions, strict_two_proportions
from tests.detection.pair_worlds.worlds import WORLDS, World, bound_s

ROOT = Path(__file__).parents[3]
RUNS, PART_RUNS = 1000, 10

Factory = Callable[[], PairsRule]
PEERS: dict[str, Factory] = {
    "every pair": EveryPair,
    "a conversation's minute, nobody left out": ConversationMinutes,
    "two proportions each minute, 5 %": TwoProportions,
    "two proportions each minute, 1 in 52,000": strict_two_proportions,
}


class Row(TypedDict):
    """What a rule did in a world: how many runs there were, and seconds and pairs of each that it moved back."""

    runs: int
    delays_s: list[float]
    pairs: list[int]


Rows = dict[str, dict[str, Row]]
"""Rule -> world -> row."""


def main(words: Sequence[str] | None = None) -> None:
    """Runs what is not kept yet, while there is time, and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.detection.pair_worlds", description=__doc__)
    parser.add_argument("--rule", metavar="MODULE:FACTORY", help="the rule that is proved")
    parser.add_argument("--runs", type=int, default=RUNS, help=f"of each world (default {RUNS})")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep results in FILE, and go on from those in it")
    parser.add_argument("--minutes", type=float, default=50, help="begin no part after so many (default 50)")
    parser.add_argument("--no-peers", action="store_true", help="the rule alone")
    parser.add_argument("--world", metavar="WORDS", default="", help="only worlds whose names have these words")
    asked = parser.parse_args(words)
    if asked.no_peers and not asked.rule:
        parser.error("--no-peers needs --rule")
    rules = ({asked.rule: named(asked.rule)} if asked.rule else {}) | ({} if asked.no_peers else PEERS)
    worlds = [world for world in WORLDS if asked.world in world.name]
    state, deadline = state_of_code(), time.monotonic() + 60 * asked.minutes
    rows = kept(asked.resume, state)

    def save() -> None:
        if asked.resume:
            keep(asked.resume, state, rows)

    go_on(rows, worlds, rules, asked.runs, lambda: time.monotonic() < deadline, save)
    for name in rules:
        print(table(name, rows.get(name, {}), worlds))


def named(words: str) -> Factory:
    """The factory that `module:factory` names."""
    module, _, factory = words.partition(":")
    made: Factory = getattr(import_module(module), factory)
    return made


def go_on(
    rows: Rows,
    worlds: Sequence[World],
    rules: Mapping[str, Factory],
    runs: int,
    is_in_time: Callable[[], bool],
    save: Callable[[], None],
) -> None:
    """Adds to the rows the runs that they lack, in parts, all worlds in turn. `save` is called after each part."""
    for end in range(PART_RUNS, runs + PART_RUNS, PART_RUNS):
        for world in worlds:
            of = {rule: _row(rows, rule, world) for rule in rules}
            first, last = min(row["runs"] for row in of.values()), min(end, runs)
            if first >= last:
                continue
            if not is_in_time():
                return
            for seed in range(first, last):
                concerned = {rule: rules[rule] for rule, row in of.items() if row["runs"] <= seed}
                for rule, decision in decisions(world, seed, concerned).items():
                    of[rule]["runs"] += 1
                    if decision is not None:
                        of[rule]["delays_s"].append(round(decision[0], 3))
                        of[rule]["pairs"].append(decision[1])
            save()


def _row(rows: Rows, rule: str, world: World) -> Row:
    return rows.setdefault(rule, {}).setdefault(world.name, Row(runs=0, delays_s=[], pairs=[]))


def decisions(world: World, seed: int, rules: Mapping[str, Factory]) -> dict[str, tuple[float, int] | None]:
    """For each rule the second of a run at which it moved the release back, and how many pairs there were until then.

    None: it did not.
    """
    outcomes: dict[str, tuple[float, int] | None] = dict.fromkeys(rules)
    running = {name: factory() for name, factory in rules.items()}
    for number, pair in enumerate(world.pairs(seed), 1):
        for name, rule in list(running.items()):
            rule.add(pair)
            if rule.decides():
                outcomes[name] = pair.at_s, number
                del running[name]
        if not running:
            break
    return outcomes


def table(name: str, rows: Mapping[str, Row], worlds: Sequence[World]) -> str:
    """What a rule did, as a table under a heading."""
    lines = [
        f"### {name}",
        "",
        "| world | it must be | moved back | median | 95th | pairs until then | bound | bound by conversations |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for world in worlds:
        row = rows.get(world.name, Row(runs=0, delays_s=[], pairs=[]))
        bounds = [f"{bound:.3g} s" for bound in bound_s(world) or ()] or ["", ""]
        # Of few runs moved back, a percentile is the one below which so many of those lie.
        figures = ["", "", ""]
        if delays := row["delays_s"]:
            latest = quantiles(delays, n=20, method="inclusive")[-1] if len(delays) > 1 else delays[0]
            figures = [f"{median(delays):.3g} s", f"{latest:.3g} s", f"{median(row['pairs']):.0f}"]
        cells = [world.name, world.aim.value, f"{len(delays):,} of {row['runs']:,}", *figures, *bounds]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def state_of_code() -> str:
    """A digest of the project's own sources that are loaded: the worlds and the rules with all that they use."""
    names = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    files = {Path(name) for name in names if name}
    state = hashlib.sha256()
    for path in sorted(files | set(Path(__file__).parent.glob("*.py"))):
        if path.suffix == ".py" and path.is_relative_to(ROOT) and ".venv" not in path.parts:
            state.update(path.read_bytes())
    return state.hexdigest()


def kept(path: Path | None, state: str) -> Rows:
    """The rows in a file, none where they are of other code."""
    if path is None or not path.exists():
        return {}
    content = json.loads(path.read_text())
    rows: Rows = content["rows"] if content["state"] == state else {}
    return rows


def keep(path: Path, state: str, rows: Rows) -> None:
    """Writes the rows to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_name(path.name + ".new")
    whole.write_text(json.dumps({"state": state, "rows": rows}))
    whole.replace(path)


if __name__ == "__main__":
    main()
