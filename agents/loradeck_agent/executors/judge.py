"""Judge executor: a release answers a suite, and a judge looks at its answers, alone and beside another release's.

The judge is asked of what people have judged, too, so that the report says how far it agrees with them. Everything is
greedy. Leaves `report.json` (a JudgeReport).
"""

import hashlib
import heapq
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from loradeck.artifacts.rows.judgements import campaign_in
from loradeck.rules.quality.agreement import counted
from loradeck.rules.quality.gate_judge import chosen_by_people, correlation, held, settled
from loradeck.rules.quality.judge import Side, side_of, verdict_of
from loradeck.schemas.ids import LINE
from loradeck.schemas.jobs import JudgeSpec
from loradeck.schemas.judge import REPLY_TOKENS, asked_of_answer, asked_of_pair
from loradeck.schemas.judge_report import JudgedItem, JudgeReport
from loradeck.schemas.preference import Item
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.executors.protocol import BadSpec, ExecutorFailure, Run
from loradeck_agent.executors.rows import as_bad_data, jsonl_in, read_suite
from loradeck_agent.serving.engine_questions import EngineQuestion

MOST_OF_PEOPLE = 400
"""Items of people's of one kind that a judge is asked of: the first by the digests of their rows."""

Chat = list[dict[str, str]]
Sides = tuple[Side | None, Side | None]
"""Which answer a judge chose with the first of two shown first, and with it shown second."""


class _Pair(NamedTuple):
    question: str
    a: str
    b: str


def judge(current: Run) -> Mapping[str, Any]:
    """Runs one judge job; the report is in the spec's `out` folder when it returns.

    Returns the data of the FINISHED event: `n`, and the answers that the judge passed.

    Raises:
        BadSpec: the spec, the suite or a dataset of judgements is wrong.
        ExecutorFailure: `engine_failed`; `bad_answer`: what answered is no chat completion.
        Preempted: SIGTERM was received; nothing is published.
    """
    spec, began = current.spec.spec, time.monotonic()
    assert isinstance(spec, JudgeSpec)
    items = read_suite(current.input(spec.judge.suite), spec.judge.suite).items
    if not items:
        raise BadSpec("bad_data", "the items of this suite are a harness's, which scores them itself")
    if tools := [item.id for item in items if item.tools]:
        raise BadSpec("bad_data", f"item {tools[0]!r} has tools: score calls by the kind tool_call, without a judge")
    chats = [[dict(message) for message in item.prompt] for item in items]
    questions = ["\n".join(f"{said['role']}: {said['content']}" for said in chat) for chat in chats]
    answers, pairs_of_people = (_people(current, spec, questions, kind) for kind in ("answer", "pair"))
    own = _Asked(current, spec, spec.release, spec.judge.max_new_tokens).replies(chats)
    other = (
        _Asked(current, spec, spec.against, spec.judge.max_new_tokens).replies(chats)
        if spec.against is not None
        else []
    )
    by = _Asked(current, spec, spec.judge.release or spec.judge.digest, REPLY_TOKENS)
    passed = by.passes(list(zip(questions, own, strict=True)))
    beside = [_Pair(*one) for one in zip(questions, own, other, strict=True)] if other else []
    sides = by.sides(beside)
    pairs = [settled(*both) for both in sides]
    people = []
    if answers:
        said = by.passes([(one.question, one.a) for _, one in answers])
        people.append(held("answer", [choice for choice, _ in answers], said, spec.judge.suite))
    if pairs_of_people:
        chosen = [settled(*both) for both in by.sides([one for _, one in pairs_of_people])]
        people.append(held("pair", [choice for choice, _ in pairs_of_people], chosen, spec.judge.suite))
    given = [(one, len(text.split())) for one, text in zip(passed, own, strict=True) if one is not None]
    firsts = [side == "first" for both in sides for side in both if side in ("first", "second")]
    apart = [len(one.a.split()) - len(one.b.split()) for one in beside]
    decided = [(pair == "won", more) for pair, more in zip(pairs, apart, strict=True) if pair in ("won", "lost")]
    longer = [won is (more > 0) for won, more in decided if more]
    flipped = [pair == "flipped" for pair in pairs if pair in ("won", "lost", "flipped")]
    report = JudgeReport(
        release=spec.release,
        against=spec.against,
        suite=spec.judge.suite,
        judge=spec.judge.digest,
        rubric=hashlib.sha256(spec.judge.rubric.encode()).hexdigest(),
        model=f"{by.model} ({by.door.build.key})"[:LINE],
        items=tuple(
            JudgedItem(
                id=item.id, passed=passed[n], pair=pairs[n] if pairs else None, words=apart[n] if apart else None
            )
            for n, item in enumerate(items)
        ),
        passed=counted(sum(one for one, _ in given), len(given)),
        unclear=passed.count(None) + pairs.count("unclear"),
        flipped=counted(sum(flipped), len(flipped)),
        first=counted(sum(firsts), len(firsts)),
        longer=counted(sum(longer), len(longer)),
        length=correlation(given),
        people=tuple(people),
        engine=current.spec.doors[spec.release].build,
        seconds=round(time.monotonic() - began, 3),
    )
    current.publish({"report.json": report})
    return {"n": report.passed.n, "passed": report.passed.k}


def _people(
    current: Run, spec: JudgeSpec, questions: Sequence[str], kind: Literal["answer", "pair"]
) -> list[tuple[str, _Pair]]:
    """Reads what people chose of items of a kind that ask what the suite does, and these items.

    An answer stands in a pair with an empty one.
    """
    found, asked = list[tuple[str, str, _Pair]](), {_folded(question) for question in questions}
    for digest in spec.judge.people:
        path = current.input(digest)
        with as_bad_data(path):
            campaign = campaign_in(jsonl_in(path))
        chosen = chosen_by_people(campaign, spec.judge.rubric)
        if not chosen:
            why = "nobody has judged an item of it by a rubric with the judge's text"
            raise BadSpec("bad_data", f"dataset {digest[:12]}: {why}; give the judge the text that people had")
        shown = {name: _question(campaign.items[name]) for name in chosen}
        of_suite = [name for name, question in shown.items() if _folded(question) in asked]
        if not of_suite:
            why = "nobody has judged answers to the questions of the judge's suite"
            raise BadSpec("bad_data", f"dataset {digest[:12]}: {why}; give the judge judgements of answers to these")
        for name in of_suite:
            if (item := campaign.items[name]).kind == kind:
                pair = _Pair(shown[name], item.a or item.answer, item.b)
                found.append((campaign.digests[name], chosen[name], pair))
    return [(choice, shown) for _, choice, shown in heapq.nsmallest(MOST_OF_PEOPLE, found)]


def _question(item: Item) -> str:
    return "\n".join([*([f"system: {item.system}"] if item.system else []), f"user: {item.prompt}"])


def _folded(question: str) -> str:
    return " ".join(question.split())


class _Asked:
    """A model that is asked behind a door, greedily. `model`: how it calls itself."""

    def __init__(self, current: Run, spec: JudgeSpec, name: str, longest: int) -> None:
        if name not in current.spec.doors:
            raise BadSpec("bad_spec", f"the spec names no engine for {name}")
        self.current, self.longest, self.door = current, longest, current.spec.doors[name]
        self._rubric, self._batch = spec.judge.rubric, spec.batch
        self.model = self.door.replica

    def replies(self, chats: Sequence[Chat]) -> list[str]:
        """Asks all conversations and returns the replies, in their order."""
        replies = [""] * len(chats)
        bodies = [{"messages": chat, "temperature": 0, "max_tokens": self.longest} for chat in chats]
        asked = Served(self.door, self._batch).each([EngineQuestion(body=body) for body in bodies], self.current.check)
        self.current.phase(f"asking {self.model} {len(chats)} questions")
        for done, (number, answer) in enumerate(asked, start=1):
            try:
                said = answer.body or {}
                replies[number] = str(said["choices"][0]["message"]["content"] or "")
                self.model = str(said.get("model") or self.model)
            except (LookupError, TypeError) as error:
                raise ExecutorFailure("bad_answer", f"{self.model} answers no chat completion: {error!r}") from error
            self.current.progress(done, len(chats))
        return replies

    def passes(self, shown: Sequence[tuple[str, str]]) -> list[bool | None]:
        """Lists the verdicts on questions with their answers; None: there is none."""
        return [verdict_of(one) for one in self.replies([asked_of_answer(self._rubric, *one) for one in shown])]

    def sides(self, shown: Sequence[_Pair]) -> list[Sides]:
        """Lists the better answers, each pair in both orders. It is not asked of equal ones: neither is better."""
        apart = [one for one in shown if one.a != one.b]
        orders = [order for one in apart for order in ((one.a, one.b), (one.b, one.a))]
        questions = [one.question for one in apart for _ in range(2)]
        asked = zip(questions, orders, strict=True)
        chats = [asked_of_pair(self._rubric, question, *order) for question, order in asked]
        said = iter([side_of(one) for one in self.replies(chats)])
        return [(next(said), next(said)) if one.a != one.b else ("tie", "tie") for one in shown]
