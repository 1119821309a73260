"""Mutation testing with mutmut, on a copy of the sources: which changes of the code does no test notice?

    python scripts/mutation.py GROUP [--seconds N] [--only MODULE]   runs a group, or goes on with it
    python scripts/mutation.py GROUP --sample 400 [--seed N]         runs a random sample of a group's mutants
    python scripts/mutation.py GROUP --survivors                     the mutants that survived, as differences
    python scripts/mutation.py GROUP --no-write                      leaves docs/mutation.json and .md alone

A group is some modules and the tests that hold them. It is copied to `build/mutation/GROUP`, because mutmut wants the
packages below one `src/` and writes beside them. A run that was stopped, by --seconds or by Ctrl-C, goes on where it
was; mutants of functions that changed run again, and when a test changed so do all that survived. The score goes into
docs/mutation.json and the table of docs/mutation.md, whose other words are written by hand.

A whole group takes hours, and mutmut begins with the mutants whose tests are fast, so a part of such a run says little
about the rest. A random sample says how many of all are noticed, with an interval.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loradeck.rules.quality import statistics

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "mutation.json"
DOCUMENT = ROOT / "docs" / "mutation.md"
BEGIN, END = "<!-- begin: scores -->", "<!-- end: scores -->"

COLUMNS = ("mutants", "killed", "timeout", "survived", "no test", "not run")
_STATUS = {None: "not run", 0: "survived", 1: "killed", 3: "killed", 5: "no test", 33: "no test"}
_TIMEOUT = frozenset({24, -24, 36, 152, 255})


@dataclass(frozen=True)
class Group:
    """Modules that are mutated together, and the tests that run against every mutant.

    Attributes:
        modules: paths below console/ or agents/, with wildcards.
        tests: files and folders of tests; they run in mutmut's process, and a child process counts for nothing.
        ignored: tests among them that do not run, because they are too slow or see mutmut itself.
    """

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    ignored: tuple[str, ...] = ()


_WHOLE_PROCESS = ("tests/unit/hub/test_gc_tuning.py", "tests/unit/hub/test_import_weight.py")
"""They measure a process, or start one."""

GROUPS = {
    "rules": Group(
        ("loradeck/rules/moves/*", "loradeck/rules/serving/*"),
        ("tests/unit/rules",),
        ("tests/unit/rules/test_rules_are_pure.py", "tests/unit/rules/test_state_machine.py"),
    ),
    "router": Group(
        ("loradeck_agent/router/switch.py", "loradeck_agent/router/table.py"),
        ("tests/unit/agent/router", "tests/integration/router/test_flip.py"),
    ),
    "slice": Group(("loradeck/rules/serving/retention.py",), ("tests/unit/rules/test_retention_and_placement.py",)),
    "hub-log": Group(("loradeck/hub/log/*",), ("tests/unit/hub",), _WHOLE_PROCESS),
    "hub-fleet": Group(
        ("loradeck/hub/fleet/*", "loradeck/hub/progress/*", "loradeck/hub/links/*"), ("tests/unit/hub",), _WHOLE_PROCESS
    ),
}


class Copy:
    """The folder in which mutmut runs one group.

    Attributes:
        commit: what was copied.
    """

    def __init__(self, group: Group, folder: Path, only: str = "") -> None:
        self.group = group
        self.folder = folder
        self.commit = ""
        self._only = only

    def prepare(self) -> None:
        """Copies sources, tests and configuration; forgets verdicts that no longer hold."""
        self.folder.mkdir(parents=True, exist_ok=True)
        changes = _git("status", "--porcelain", "console", "agents", "tests")
        self.commit = (_git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changes else "")
        for source, target in (
            ("console/loradeck", "src/loradeck"),
            ("agents/loradeck_agent", "src/loradeck_agent"),
            *((name, name) for name in ("tests", "examples", "scripts", "docs")),
        ):
            for stale in (self.folder / target, self.folder / "mutants" / target):
                if stale.exists() and not (target.startswith("src") and "mutants" in stale.parts):
                    shutil.rmtree(stale)
            shutil.copytree(ROOT / source, self.folder / target, ignore=shutil.ignore_patterns("__pycache__"))
        mutated = self.folder / "mutants"
        for left in [file for file in (mutated / "src").rglob("*.*") if file.is_file()]:
            source = self.folder / left.relative_to(mutated)
            if not source.with_name(source.name.removesuffix(".meta").removesuffix(".spans")).exists():
                left.unlink()  # its module was moved or deleted
        (self.folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + self._configuration())
        tests = _digest(self.folder / "tests")
        stamp = self.folder / "tests.sha256"
        changed = stamp.exists() and stamp.read_text() != tests
        for meta, document in self._metas():
            verdicts = document["exit_code_by_key"]
            for mutant, code in verdicts.items():
                if _status(code) not in ("killed", "timeout", "not run") and (changed or _status(code) == "other"):
                    verdicts[mutant] = None
            meta.write_text(json.dumps(document))
        if changed:
            (self.folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
        stamp.write_text(tests)

    def _configuration(self) -> str:
        arguments = ["-n0", "-q", "-x", "--timeout=120", *(f"--ignore={name}" for name in self.group.ignored)]
        modules = [f"src/{name}" for name in self.group.modules]
        if self._only:
            modules = [f"src/{self._only}"]
        return "\n".join(
            (
                "",
                "[tool.mutmut]",
                'source_paths = ["src"]',
                f"only_mutate = {json.dumps(modules)}",
                'also_copy = ["tests", "examples", "scripts", "docs"]',
                f"pytest_add_cli_args = {json.dumps(arguments)}",
                f"pytest_add_cli_args_test_selection = {json.dumps(self.group.tests)}",
                "timeout_multiplier = 3.0",  # a mutant that runs for ever is one that was noticed
                "use_git_change_detection = false",
                'on_dependency_change = "ignore"',
                "",
            )
        )

    def draw(self, size: int, seed: int) -> list[str]:
        """Draws a random sample of all mutants, which are made first; all of them where there are fewer."""
        self._mutmut(600, "loradeck.none.of.them")  # it makes the mutants, and then finds none of that name
        names = sorted(name for _, document in self._metas() for name in document["exit_code_by_key"])
        return random.Random(seed).sample(names, min(size, len(names)))

    def run(self, seconds: float, sample: Collection[str] | None = None) -> None:
        """Runs what has no verdict yet, one mutant at a time, for so long at most.

        Args:
            sample: the mutants that run; None: all.

        Raises:
            SystemExit: mutmut could not begin: the tests fail without a mutant.
        """
        left: list[str] = []
        if sample is not None:
            verdicts = {
                name: code for _, document in self._metas() for name, code in document["exit_code_by_key"].items()
            }
            left = [name for name in sample if _status(verdicts[name]) in ("not run", "other")]
            if not left:
                return
        if status := self._mutmut(seconds, *left):
            raise SystemExit(f"mutmut ended with {status}; see {self.folder / 'mutmut.log'}")

    def _mutmut(self, seconds: float, *names: str) -> int:
        """Runs mutmut for so long at most. Returns its exit status, 0 also when it was stopped."""
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with (self.folder / "mutmut.log").open("wb") as log:
            child = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
            try:
                return child.wait(seconds)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                child.send_signal(signal.SIGINT)
                child.wait()
        return 0

    def scores(self, sample: Collection[str] | None = None) -> dict[str, dict[str, int]]:
        """Counts how the mutants of each module fared, by COLUMNS. Mutants outside the sample count as not run."""
        found: dict[str, dict[str, int]] = {}
        for meta, document in self._metas():
            counts = Counter(
                _status(code if sample is None or name in sample else None)
                for name, code in document["exit_code_by_key"].items()
            )
            if counts:
                module = str(meta.relative_to(self.folder / "mutants" / "src")).removesuffix(".meta")
                counts["not run"] += counts["other"]  # interrupted, or killed from outside: it runs again
                found[module] = {"mutants": len(document["exit_code_by_key"]), **{n: counts[n] for n in COLUMNS[1:]}}
        return dict(sorted(found.items()))

    def survivors(self) -> Iterator[str]:
        """The differences of the mutants that no test noticed."""
        for _, document in self._metas():
            for mutant, code in document["exit_code_by_key"].items():
                if _status(code) in ("survived", "no test"):
                    command = [sys.executable, "-m", "mutmut", "show", mutant]
                    yield subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def _metas(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        for meta in sorted((self.folder / "mutants" / "src").rglob("*.meta")):
            name = str(meta.relative_to(self.folder / "mutants" / "src")).removesuffix(".meta")
            if any(Path(name).match(pattern) for pattern in self.group.modules):
                yield meta, json.loads(meta.read_text())


def _status(code: int | None) -> str:
    return "timeout" if code in _TIMEOUT else _STATUS.get(code, "other")


def _digest(folder: Path) -> str:
    """One digest of all the Python files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def share(counts: Iterable[dict[str, int]], *, interval: bool = False) -> str:
    """The killed share of the mutants that ran, in percent; timeouts are killed.

    Args:
        interval: of a random sample: with Wilson's 95 % interval.
    """
    total = Counter[str]()
    for row in counts:
        total.update(row)
    ran, killed = total["mutants"] - total["not run"], total["killed"] + total["timeout"]
    if not ran:
        return "-"
    low, high = statistics.wilson(killed, ran)
    return f"{100 * killed / ran:.1f} %" + (f" ({100 * low:.1f} to {100 * high:.1f} %)" if interval else "")


def figures() -> dict[str, Any]:
    """What docs/mutation.json holds, by group."""
    held: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    return held


def table(held: dict[str, Any]) -> str:
    """The scores of docs/mutation.json in Markdown."""
    lines: list[str] = []
    for name, group in held.items():
        modules = group["modules"]
        lines += [
            f"### {name}: {share(modules.values(), interval='sample' in group)}",
            "",
            f"`{group['command']}`, commit {group['commit']}, {group['date']}."
            + (" A random sample: what was not drawn counts as not run." if "sample" in group else ""),
            "",
            "| module | score | " + " | ".join(COLUMNS) + " |",
            "|---|---:|" + "---:|" * len(COLUMNS),
        ]
        for module, counts in modules.items():
            cells = " | ".join(str(counts[column]) for column in COLUMNS)
            lines.append(f"| {module} | {share([counts])} | {cells} |")
        totals = " | ".join(str(sum(counts[column] for counts in modules.values())) for column in COLUMNS)
        lines += [f"| all | {share(modules.values())} | {totals} |", ""]
    return "\n".join(lines)


def _write(
    name: str, scores: dict[str, dict[str, int]], commit: str, *, whole: bool, sample: tuple[int, int] | None
) -> None:
    held = figures()
    if not whole and name in held:
        scores = {**held[name]["modules"], **scores}
    arguments = name if sample is None else f"'{name} --sample {sample[0]} --seed {sample[1]}'"
    held[name] = {
        "command": f"make mutation ARGS={arguments}",
        **({} if sample is None else {"sample": sample[0], "seed": sample[1]}),
        "commit": commit,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "modules": dict(sorted(scores.items())),
    }
    held = {group: held[group] for group in GROUPS if group in held}
    FIGURES.write_text(json.dumps(held, indent=1) + "\n")
    head, _, rest = DOCUMENT.read_text().partition(BEGIN)
    DOCUMENT.write_text(f"{head}{BEGIN}\n{table(held)}{END}{rest.partition(END)[2]}")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--folder", type=Path, help="where the copy is (build/mutation/GROUP)")
    parser.add_argument("--seconds", type=float, default=3600, help="stop after so long; the next run goes on (3600)")
    parser.add_argument("--only", default="", help="one module of the group, like loradeck/rules/serving/flip.py")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="run only so many, drawn at random")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the sample (1)")
    parser.add_argument("--survivors", action="store_true", help="show what survived the last run; runs nothing")
    parser.add_argument("--no-write", action="store_true", help="print the scores and leave the docs alone")
    options = parser.parse_args()
    folder = (options.folder or ROOT / "build" / "mutation" / options.group).resolve()
    copy = Copy(GROUPS[options.group], folder, options.only)
    if options.survivors:
        for difference in copy.survivors():
            sys.stdout.write(difference + "\n")
        return
    copy.prepare()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it would be ignored
    sample: Collection[str] | None = None
    with contextlib.suppress(KeyboardInterrupt):
        if options.sample:
            sample = copy.draw(options.sample, options.seed)
        copy.run(options.seconds, sample)
    scores = copy.scores(sample)
    ran = sum(row["mutants"] - row["not run"] for row in scores.values())
    if options.sample and (sample is None or ran < len(sample)):
        # mutmut takes the fast ones first, so what ran so far is no random sample.
        raise SystemExit(f"{options.group}: {ran} mutants of the sample ran; the same command goes on, and then writes")
    if options.no_write:
        sys.stdout.write(json.dumps(scores, indent=1) + "\n")
    else:
        drawn = (options.sample, options.seed) if options.sample else None
        _write(options.group, scores, copy.commit, whole=not options.only, sample=drawn)
    mutants = sum(row["mutants"] for row in scores.values())
    killed = share(scores.values(), interval=bool(options.sample))
    sys.stdout.write(f"{options.group}: {killed} of {mutants} mutants killed\n")


if __name__ == "__main__":
    main()
