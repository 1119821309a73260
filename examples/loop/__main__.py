"""`make loop`: from what callers say of live answers to new weights, and back, on a real model.

A hub, and a node with its router, agent and embedded engine, run as separate processes on loopback. Every step is a
`loradeck` command, which is printed before it runs, with what it said and the number of its event.

exit status: 0 the whole loop was gone through; 1 a step did not do what it is for; 3 a command failed
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from base_model import FOLDER, MODEL_ID, default_cache
from example_files import jsonl
from incident.fleet import CommandFailed, Fleet, NotReady, wait_for
from loradeck.client import loop_words
from loradeck.schemas.backlog import LABEL
from loradeck.schemas.freshness import LoopRow
from loradeck.schemas.jobs import OVER
from tickets.generate import tickets
from tickets.tenants import ACME, Topic

SEED = 17
DAYS, QUIET = 28, 14
"""Days that are replayed, and how many of them are from before callers ask about fraud."""

SAID = 60
"""Callers who say something on each of them."""

KNOWN, LATE = 5, 30
"""Tickets that are asked of each topic that the first version was trained on, and of the one that it was not."""

LATE_ITEMS = 24
"""Held-out items about fraud."""

USERS = 12
"""Users who ask while a candidate is out."""

CONSENT = "improve"
PROVEN = ("--yes", "--wait", "proven", "--timeout", "90")
TICKETS = Path(__file__).resolve().parent.parent / "tickets" / "acme"
FIRST_RECIPE = f"""tenant = "acme"
name = "tickets"
base = "{MODEL_ID}"
datasets = ["tickets-v1"]
steps = 20
batch = 3
learning_rate = 2e-3
rank = 8
alpha = 16
seed = 1
max_tokens = 96

[decision]
why_weights = "Answers must be exactly this JSON, from a prompt that a model of 135M follows."
alternatives = "A prompt that describes the format: the base follows it in none of the suite's items."
cost = "20 steps, a minute of one core."
"""

NEXT_RECIPE = f"""tenant = "acme"
name = "tickets"
base = "{MODEL_ID}"
datasets = ["tickets-v1", "labelled"]
parent = "PARENT"
steps = 24
batch = 3
learning_rate = 1e-3
rank = 8
alpha = 16
seed = 1
max_tokens = 96

[mixing]
dataset = "tickets-v1"
share = 0.6

[decision]
why_weights = "Callers correct what v1 says of tickets about fraud, which its rows do not have."
alternatives = "None was measured in this example; `loradeck decide` measures them."
cost = "24 steps, a minute of one core."
"""
"""Half as fast and with the rows of v1 mixed in, or what v1 knew of cards would be taken for fraud."""

GATE = """suite = "known"
min_exact = 0.75
bound = true
max_drop = 0.2
bound_drop = true
"""
"""What v1 has to reach, on the 40 held-out tickets about the topics that it is for: 35 right, since the exact lower
bound of 35 of 40 is the first above 0.75. 29 items suffice to bound a drop of a fifth.
"""

LATER_GATE = f"""{GATE}
[[also]]
suite = "fraud"
min_exact = 0.5
bound = true
max_drop = 1.0
"""
"""What v2 has to reach: not to lose what v1 knows, and fraud, on which v1 is no measure."""


class Missed(Exception):
    """A step did not do what it is for; the message says what was seen."""


@dataclass(frozen=True)
class Answered:
    """A ticket that was asked of the live route, what is right, and what came."""

    request: str
    asked: str
    right: str
    said: str
    topic: str
    release: str

    @property
    def wrong(self) -> bool:
        return self.said != self.right


class Loop:
    """Goes through the steps on a fleet, and says of each command what it saw and which events it made."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder
        self._began, self._rev, self._line = time.monotonic(), 0, 0
        self._steps = 0

    def step(self, title: str) -> None:
        self._steps += 1
        print(f"\n[{time.monotonic() - self._began:3.0f} s] {self._steps}. {title}")

    def do(self, *words: str, saw: Callable[[Any], object] = lambda _: "done", seconds: float = 300) -> Any:
        """Runs a command, as a person would type it, and prints what it saw and its events."""
        print(f"  $ loradeck {shlex.join(words).replace(f'{self.folder}/', '')}")
        answer = self.fleet.cli(*words, seconds=seconds)
        print(f"    {saw(answer)}{self._events()}")
        return answer

    def jobs(self, *commands: Sequence[str]) -> None:
        """Runs commands that each queue a job, waits for their ends, and prints how they ended."""
        queued = [self.do(*words, saw=lambda found: f"{found['id']} is queued")["id"] for words in commands]
        for job in queued:
            ended = wait_for(job, partial(self._ended, job), 600, every=0.5)
            result = {name: of for name, of in (ended["result"] or {}).items() if not isinstance(of, dict | list)}
            print(f"    {job} {ended['state']} {ended['message']} {result}{self._events()}")
            if ended["state"] != "done":
                raise Missed(f"{job} {ended['state']}: {ended['message']}")

    def _ended(self, job: str) -> Any:
        found = self.fleet.ask(f"jobs/{job}")
        return found if found["state"] in OVER else None

    def refused(self, *words: str) -> None:
        """Runs a command that has to be refused, and prints with which words."""
        print(f"  $ loradeck {shlex.join(words)}")
        try:
            self.fleet.cli(*words)
        except CommandFailed as failed:
            error = json.loads(failed.error)
            print(f"    refused: {error['code']}: {error['title']}{self._events()}")
        else:
            raise Missed("it was not refused")

    def _events(self) -> str:
        """What stands in the log and in the audit trail since the last command, each with its number."""
        # What `loradeck event ls` and `loradeck audit ls` show, without a process for each.
        log = [one for one in self.fleet.ask("events?limit=50") if one["rev"] > self._rev]
        trail = self.fleet.ask(f"audit?after={self._line}")
        self._rev = max([self._rev, *(one["rev"] for one in log)])
        self._line = max([self._line, *(one["seq"] for one in trail)])
        found = [f"event {one['rev']} {one['kind']} by {one['actor']}" for one in reversed(log)]
        # What machines said meanwhile is beside the step.
        mine = [one for one in trail if one["call"].startswith(("GET ", "POST ", "PUT ", "DELETE ", "attest"))]
        named = [f"line {one['seq']} {' '.join(filter(None, (one['call'], one['detail'][:12])))}" for one in mine]
        more = [f"and {len(named) - 4} lines more"] if len(named) > 4 else []
        return "".join(f"\n    -> {text}" for text in (*found, *named[-4:], *more))

    # ---- callers ---------------------------------------------------------------------------------------------

    def ask(self, asked: Sequence[tuple[str, str, str]], key: str, users: Sequence[str] = ()) -> list[Answered]:
        """Asks tickets of the live route, as callers do: topic, ticket and right answer of each."""

        def one(number: int) -> Answered:
            topic, text, right = asked[number]
            body = {"model": "acme", "messages": [{"role": "user", "content": text}], "temperature": 0}
            user = {"user": users[number % len(users)]} if users else {}
            answer = callers.post("/v1/chat/completions", json=body | {"max_tokens": 16} | user).raise_for_status()
            said = answer.json()["choices"][0]["message"]["content"].strip()
            headers = answer.headers
            return Answered(headers["x-request-id"], text, right, said, topic, headers["x-loradeck-release"])

        node, headers = self.fleet.nodes[0], {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=node.url, headers=headers, timeout=120) as callers, ThreadPoolExecutor(4) as pool:
            return list(pool.map(one, range(len(asked))))

    def say(self, answers: Sequence[Answered], key: str) -> None:
        """Gives feedback on answers, as callers do: a correction of a wrong one, a thumb for a right one."""
        with httpx.Client(base_url=self.fleet.nodes[0].url, headers={"authorization": f"Bearer {key}"}) as callers:
            for one in answers:
                said = {"kind": "correction", "text": one.right} if one.wrong else {"kind": "thumb", "value": "up"}
                body = {"model": "acme", "request": one.request, "consent": CONSENT} | said
                callers.post("/v1/feedback", json=body).raise_for_status()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make loop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="leave the folder of the fleet, with all files, for a look")
    keep = parser.parse_args().keep
    root = Path(tempfile.mkdtemp(prefix="ld"))
    base = default_cache() / FOLDER
    fleet = Fleet(root=root, base=base, names=("gpu-01",), jobs_at_once=2, temporary=not keep)
    began = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # either ends the fleet in order
    try:
        fleet.provide_base()
        with fleet.running():
            go(Loop(fleet, root), root)
    except (Missed, CommandFailed, NotReady) as error:
        print(f"loop: {error}", file=sys.stderr)
        return 1 if isinstance(error, Missed) else 3
    finally:
        print(f"{time.monotonic() - began:.0f} s" + (f"; all of it is in {root}" if keep else ""))
        if not keep:
            shutil.rmtree(root, ignore_errors=True)
    return 0


def go(loop: Loop, folder: Path) -> None:
    """Goes through all steps. Raises: Missed: one did not do what it is for."""
    key = ground(loop, folder)
    first = promoted(loop, folder)
    answers = spoken_of(loop, key)
    drift(loop, folder, answers)
    erased = labels(loop, folder, answers)
    second = trained(loop, folder, first)
    canary(loop, key, first, second)
    undone(loop, erased, first, second)
    loop.step("What all of it left behind")
    if not loop.do("audit", "verify", saw=whole)["ok"]:
        raise Missed("the log or the audit trail is not whole")


def whole(found: Any) -> str:
    return f"ok: {found['ok']}; the log up to event {found['rev']}, the audit trail up to line {found['trail']['size']}"


def ground(loop: Loop, folder: Path) -> str:
    """Registers base, tenant, rows, suite and route. Returns the callers' key."""
    loop.step("Ground: rows about five topics, a held-out suite of the same, and the base alone live")
    base = str(loop.fleet.base)
    loop.do("base", "add", base, "--model-id", MODEL_ID, "--revision", "1", saw=lambda found: found["digest"][:6])
    loop.do("tenant", "create", "acme")
    use = ("--use", "labelling=better answers to tickets")
    days = ("--feedback-days", "90", "--ledger-days", "0")
    loop.do("tenant", "data", "acme", *days, *use, "--reason", "callers agreed to it")
    loop.do("dataset", "add", str(TICKETS / "tickets-v1.jsonl"), "--tenant", "acme", "--name", "tickets-v1")
    add_suite(loop, folder, "known", held_out())
    soak = ("--min-replicas", "1", "--soak-seconds", "0", "--soak-requests", "0")
    loop.do("route", "set", "acme", "--file", str(TICKETS / "route.toml"), *soak, "--yes")
    loop.do("tenant", "key", "create", "acme", "--out", str(folder / "acme.key"))
    loop.do("promote", "acme", "base", "--reason", "nothing is trained yet", *PROVEN)
    return (folder / "acme.key").read_text().strip()


def held_out() -> list[dict[str, str]]:
    """Items on the topics that v1 is for."""
    lines = (TICKETS / "held-out.jsonl").read_text().splitlines()
    return [item for item in map(json.loads, lines) if item["id"].rpartition("-")[0] not in ACME.late]


def held_out_late() -> list[dict[str, str]]:
    """Items on fraud, from sentences that no caller and no row has."""
    chance = random.Random(f"{SEED} held out")
    pairs = [pair for topic in late() for pair in tickets(ACME, topic, LATE_ITEMS, chance, held_out=True)]
    return [{"id": f"fraud-{number}", "prompt": asked, "answer": right} for number, (asked, right) in enumerate(pairs)]


def add_suite(loop: Loop, folder: Path, name: str, items: Sequence[dict[str, str]]) -> None:
    """Registers held-out items, with where they come from beside them."""
    (folder / f"{name}.jsonl").write_text(jsonl(items))
    shutil.copy(TICKETS / "held-out.toml", folder / f"{name}.toml")
    schema = ("--answer-schema", str(TICKETS / "answer.schema.json"))
    loop.do("suite", "add", str(folder / f"{name}.jsonl"), "--tenant", "acme", "--name", name, *schema)


def set_gate(loop: Loop, folder: Path, gate: str) -> None:
    """Sets the route's gate, from a file as a person writes it."""
    (folder / "gate.toml").write_text(gate)
    loop.do("gate", "set", "acme", "--file", str(folder / "gate.toml"), "--yes")


def training(folder: Path, version: str, recipe: str) -> tuple[str, ...]:
    """The command that trains a version, by a recipe in a file as a person writes it."""
    path = folder / f"train-{version}.toml"
    path.write_text(recipe)
    return ("job", "train", str(path))


def promoted(loop: Loop, folder: Path) -> str:
    """Trains v1 and promotes it past a gate against the base alone, the anchor from then on. Returns its release."""
    loop.step("v1 is trained, and passes a gate against the base alone, which is the anchor from now on")
    set_gate(loop, folder, GATE)
    base = loop.fleet.ask("tenants/acme/routes/production")["pointer"]["release"]
    # The engine answers for the base while another process trains.
    loop.jobs(scoring(base, "known"), training(folder, "v1", FIRST_RECIPE))
    versions = loop.do("adapter", "ls", "acme", saw=lambda found: f"{len(found)} version")
    release = str(versions[-1]["release"])
    loop.jobs(scoring(release, "known"))
    loop.do("promote", "acme", release, *PROVEN, saw=lambda _: "v1 is live")
    return release


def scoring(release: str, suite: str) -> tuple[str, ...]:
    """The command that has a release answer a suite."""
    return ("job", "evaluate", "acme", release, "--suite", suite, "--max-new-tokens", "16")


def spoken_of(loop: Loop, key: str) -> list[Answered]:
    """Has callers ask, now also about fraud, and say what they think of the answers."""
    loop.step("Live answers and feedback: callers ask through the router, and correct what is wrong")
    chance, asked = random.Random(SEED), list[tuple[str, str, str]]()
    for topic in ACME.topics:
        many = LATE if topic.label in ACME.late else KNOWN
        asked += [(topic.label, *pair) for pair in tickets(ACME, topic, many, chance, held_out=False)]
    chance.shuffle(asked)
    answers = loop.ask(asked, key)
    for late in (False, True):
        part = [one for one in answers if (one.topic in ACME.late) is late]
        print(f"    {sum(one.wrong for one in part)} of {len(part)} wrong: {'fraud' if late else 'what v1 knows'}")
    loop.say(answers, key)

    def counted() -> Any:
        found = loop.fleet.cli("feedback", "ls", "acme")
        return found if len(found) == len(answers) else None

    wait_for("feedback at the hub", counted, 60, every=1)
    loop.do("feedback", "ls", "acme", saw=lambda found: f"{len(found)} rows, all tied to v1's answers")
    return answers


def drift(loop: Loop, folder: Path, answers: Sequence[Answered]) -> None:
    """Replays 28 days of those answers, and has the meters judge them."""
    loop.step(f"Drift: {DAYS} dated days are REPLAYED. No caller asked on them; each draws {SAID} of the answers above")
    chance, today = random.Random(SEED), datetime.now(UTC).date()
    known = [one for one in answers if one.topic not in ACME.late]
    late = [one for one in answers if one.topic in ACME.late]
    days = []
    for number in range(DAYS):
        drawn = chance.choices(known, k=SAID if number < QUIET else SAID // 2)
        drawn += chance.choices(late, k=SAID - len(drawn))
        day = {"replayed": True, "day": str(today - timedelta(days=DAYS - number)), "attempted": SAID, "said": SAID}
        days.append(day | {"corrected": sum(one.wrong for one in drawn)})
    (folder / "days.jsonl").write_text(jsonl(days))
    why = f"rehearsal: drawn from {len(answers)} answers of today, seed {SEED}"
    loop.do("route", "replay", "acme", "--file", str(folder / "days.jsonl"), "--reason", why)
    found = loop.do("freshness", "acme", saw=lambda found: told(found["routes"][0]))["routes"][0]
    if found["recommendation"]["remedy"] != "train" or found["replayed"]["days"] != DAYS:
        raise Missed(f"training again is not recommended: {found['recommendation']}")
    where(loop)


def told(route: Any) -> str:
    """What the meters say, the size of the effort, and what is recommended."""
    says = [f"{meter['kind']}: {meter['says']}" for meter in route["meters"] if meter["signal"]]
    size = route["sizing"] or {}
    sized = {
        name: _figure(size[name]) for name in ("rows", "gpu_hours", "gain", "items", "corrections") if name in size
    }
    advice = route["recommendation"]
    return "\n    ".join((*says, f"effort: {sized}", f"recommended: {advice['remedy']}", *advice["reasons"]))


def _figure(of: Any) -> object:
    return f"{of['mean']:.3g} ({of['low']:.3g} to {of['high']:.3g}, n = {of['n']})" if isinstance(of, dict) else of


def where(loop: Loop) -> Any:
    """Where the tenant stands now."""

    def seen(rows: Any) -> str:
        row = LoopRow.model_validate(rows[0])
        days = f" ({row.replayed} days)" if row.replayed else ""
        signals = f"{row.label} live; {loop_words.signals(row)}{days}; advice {row.remedy.value}"
        backlog = f"{row.wrong} answers called wrong; labelled {loop_words.labelled(row)}"
        come = f"step {loop_words.step(row)}, gate {loop_words.gate(row)}, candidate {loop_words.candidate(row)}"
        return f"{signals}\n    {backlog}; {come}\n    next: {loop_words.next_step(row)}"

    return loop.do("loop", "acme", saw=seen)[0]


def labels(loop: Loop, folder: Path, answers: Sequence[Answered]) -> Answered:
    """Has the backlog labelled and built into a dataset. Returns a row that somebody will want erased."""
    loop.step("Backlog and labels: wrong answers are chosen, labelled, and built into a version of a dataset")
    asked = [{"request": one.request, "question": one.asked, "answered": one.said} for one in answers]
    (folder / "asked.jsonl").write_text(jsonl(asked))
    tasks, which = folder / "tasks.json", ("--consent", CONSENT, "--questions", str(folder / "asked.jsonl"))
    loop.do("backlog", "ls", "acme", *which, saw=lambda found: f"{len(found['rows'])} rows, {left_out(found)} left out")
    loop.do("backlog", "export", "acme", str(tasks), *which, saw=lambda found: f"{len(found['rows'])} tasks")
    right = {one.request: one for one in answers}
    made = json.loads(tasks.read_text())
    for number, task in enumerate(made, start=1):
        # Here a program plays the person in Label Studio: what is right was known before the ticket was written.
        value = {"text": [right[task["data"]["request"]].right]}
        result = [{"from_name": LABEL, "type": "textarea", "value": value}]
        task |= {"id": number, "annotations": [{"id": number, "completed_by": 1, "result": result}]}
    (folder / "labelled.json").write_text(json.dumps(made))
    print(f"    a program labels {len(made)} tasks, in the place of a person in Label Studio")
    provenance = ("--name", "labelled", "--licence", "Apache-2.0", "--tier", "public", "--purpose", "train")
    loop.do("backlog", "build", "acme", str(folder / "labelled.json"), *provenance, *which, "--leave-out")
    where(loop)
    return next(right[task["data"]["request"]] for task in made if right[task["data"]["request"]].topic in ACME.late)


def left_out(found: Any) -> int:
    return sum(one["rows"] for one in found["left_out"])


def trained(loop: Loop, folder: Path, first: str) -> str:
    """Trains on from v1 with the labels, and judges the result. Returns its release."""
    loop.step("Training, and the gate: what v1 knows is not lost, and fraud, which gets a suite before it is trained")
    add_suite(loop, folder, "fraud", held_out_late())
    set_gate(loop, folder, LATER_GATE)
    versions = loop.fleet.cli("adapter", "ls", "acme")
    parent = next(one["digest"] for one in versions if one["release"] == first)
    loop.jobs(training(folder, "v2", NEXT_RECIPE.replace("PARENT", parent)))
    where(loop)
    versions = loop.fleet.cli("adapter", "ls", "acme")
    second = str(next(one["release"] for one in versions if one["release"] != first))
    loop.jobs(scoring(second, "known"), scoring(second, "fraud"))
    loop.do("gate", "show", "acme", saw=judged)
    if where(loop)["loop"]["gate"] is not True:
        raise Missed("v2 did not pass the gate")
    return second


def judged(found: Any) -> str:
    """The checks of the newest result, each with its n and interval."""
    lines = []
    for one in found["result"]["body"]["checks"]:
        figures = f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f}, n = {one['n']})"
        word = "passed" if one["passed"] else "FAILED"
        lines.append(f"{word} {one['name']}: {figures}, asked for {one['threshold']:g} {one['note']}")
    return "\n    ".join(lines)


def canary(loop: Loop, key: str, first: str, second: str) -> None:
    """Gives v2 to one user, then to all."""
    loop.step("Canary, and promote")
    users = [f"user-{number}" for number in range(USERS)]
    loop.do("candidate", "start", "acme", second, "--unit", "user", "--named", users[0], "--yes")
    chance = random.Random(SEED + 1)
    asked = [("fraud", *pair) for topic in late() for pair in tickets(ACME, topic, USERS, chance, held_out=False)]
    answers = loop.ask(asked, key, users)
    for who, part, by in (("the named user", answers[:1], second), ("the others", answers[1:], first)):
        right = f"{sum(not one.wrong for one in part)} of {len(part)} answers about fraud are right"
        print(f"    {who}, answered by {'v2' if by == second else 'v1'}: {right}")
        if {one.release for one in part} != {by}:
            raise Missed(f"{who} should have been answered by {by}")
    loop.do("candidate", "show", "acme", saw=lambda found: f"out: {found['candidate']['named']}")
    loop.do("candidate", "finish", "acme", *PROVEN, saw=lambda _: "v2 is live")
    if where(loop)["loop"]["step"] != "live":
        raise Missed("v2 is not live")


def late() -> list[Topic]:
    return [topic for topic in ACME.topics if topic.label in ACME.late]


def planned(found: Any) -> str:
    """What descends from the rows that are to be erased."""
    named = ("rows", "datasets", "runs", "adapters", "releases", "pointers")
    return ", ".join(f"{len(found[name])} {name}" for name in named) + " descend from it"


def undone(loop: Loop, erased: Answered, first: str, second: str) -> None:
    """Erases one caller's row, which retires v2, and goes back to v1."""
    loop.step("An erasure request: one caller wants their ticket gone, and with it what was trained on it")
    loop.do(
        "feedback", "erase", "acme", "--request", erased.request, "--yes", saw=lambda found: f"{found['removed']} row"
    )
    text = ("--containing", erased.asked, "--tenant", "acme")
    loop.do("dataset", "erase", *text, "--dry-run", saw=planned)
    loop.do("dataset", "erase", *text, "--retire", "--reason", "request 4711", "--yes", saw=lambda _: "v2 is retired")
    loop.do("rollback", "acme", "--reason", "request 4711", *PROVEN)
    loop.refused("promote", "acme", second, "--override", "--reason", "try", "--yes")
    live = loop.fleet.ask("tenants/acme/routes/production")["pointer"]["release"]
    if live != first:
        raise Missed(f"{live} is live, and not v1")
    where(loop)


if __name__ == "__main__":
    sys.exit(main())
