"""The backlog's rules: what may be trained on, what asks the same, and what is labelled first."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.artifacts.rows.contamination import folded_words
from loradeck.rules.clocks import DAY_MS
from loradeck.rules.data import backlog as rules
from loradeck.schemas.backlog import BacklogRow, Chosen, LabelledTask
from loradeck.schemas.dataset_ledger import DataPolicy
from loradeck.schemas.feedback import Feedback
from loradeck.schemas.jobs import JobState
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion, DecisionRecord, FileEntry
from loradeck.schemas.trace import Sample

NOW = 1_000 * DAY_MS
POLICY = DataPolicy(feedback_days=30, sample_hours=48)


def said(**fields: Any) -> Feedback:
    told = {"request": "r-1", "kind": "correction", "text": "five days", "consent": "improve", "route": "production"}
    return Feedback.model_validate(
        told | {"at_ms": NOW - DAY_MS, "tenant": "acme", "by": "n1", "received_ms": NOW, "tied": "ledger"} | fields
    )


def row(request: str, question: str = "how long does it take", **fields: Any) -> BacklogRow:
    told = {"tenant": "acme", "route": "production", "at_ms": 1, "consent": "improve", "alone": False}
    told |= {"sample_ms": None, "kept_until_ms": NOW + DAY_MS, "wrong": 1}
    return BacklogRow.model_validate(told | {"request": request, "question": question} | fields)


def standing(
    *of: Feedback, sampled_ms: int | None = None, policy: DataPolicy = POLICY, **fields: Any
) -> rules.Standing:
    told = {"consents": ("improve",), "sample_basis": "", "now_ms": NOW} | fields
    return rules.standing(of, sampled_ms, policy, **told)


def test_what_a_caller_consented_to_may_be_used_until_the_tenants_retention_ends() -> None:
    found = standing(said(), said(kind="thumb", text="", value="down", consent="", at_ms=NOW))
    assert (found.why_not, found.consent) == ("", "improve")
    assert found.until_ms == NOW + 29 * DAY_MS
    assert [one.kind for one in found.counting] == ["correction"]


def test_a_row_ends_when_the_first_of_what_counts_does_and_what_has_ended_counts_no_more() -> None:
    thumb = said(kind="thumb", text="", value="down", at_ms=NOW - DAY_MS)
    assert standing(said(at_ms=NOW - 20 * DAY_MS), thumb).until_ms == NOW + 10 * DAY_MS
    found = standing(said(at_ms=NOW - 30 * DAY_MS), thumb)
    assert (found.until_ms, found.counting) == (NOW + 29 * DAY_MS, (thumb,))


def test_the_consent_is_that_of_the_correction_where_there_is_one() -> None:
    thumb = said(kind="thumb", text="", value="down", consent="research", at_ms=NOW)
    assert standing(said(), thumb, consents=("improve", "research")).consent == "improve"
    assert standing(thumb, consents=("improve", "research")).consent == "research"


def test_a_sample_that_says_what_was_asked_ends_by_the_tenants_hours() -> None:
    assert standing(said(), sampled_ms=NOW - DAY_MS).until_ms == NOW + DAY_MS
    assert standing(sampled_ms=NOW - DAY_MS, sample_basis="contract").consent == "contract"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (standing(said(consent="")), "no consent"),
        (standing(said(consent="analytics")), "no consent"),
        (standing(sampled_ms=NOW), "no consent"),
        (standing(said(), policy=DataPolicy(sample_hours=48)), "opted out"),
        (standing(said(), sampled_ms=NOW, policy=DataPolicy(feedback_days=30)), "opted out"),
        (standing(sampled_ms=NOW, sample_basis="contract", policy=DataPolicy()), "opted out"),
        (standing(said(at_ms=NOW - 30 * DAY_MS)), "retention over"),
        (standing(said(), sampled_ms=NOW - 2 * DAY_MS), "retention over"),
    ],
)
def test_what_may_not_be_used_is_refused_with_a_word(found: rules.Standing, why: str) -> None:
    assert found.why_not.startswith(why)
    assert (found.consent, found.until_ms, found.counting) == ("", 0, ())


def test_callers_and_the_checks_vote_and_the_newest_correction_is_proposed() -> None:
    votes = [said(bad=False), said(kind="thumb", text="", value="up", caller="a" * 16, bad=False)]
    assert rules.votes(votes, "") == (1, 2)
    assert rules.votes([said()], "schema") == (2, 0)
    label = said(kind="label", text="", value="refund", at_ms=NOW)
    assert rules.proposed([said(text="old"), said(text="new", at_ms=NOW), label]) == "new"
    assert rules.proposed([label]) == "refund"
    assert rules.asks([label], "")
    assert not rules.asks([said(kind="thumb", text="", value="up"), said(kind="outcome", text="", value="paid")], "")


@pytest.mark.parametrize(
    ("text", "is_"),
    [
        ("user: where is it?\nplease", ("", "where is it?\nplease")),
        ("system: be kind\nuser: hi", ("be kind", "hi")),
        ("a prompt", ("", "a prompt")),
    ],
)
def test_a_samples_text_is_read_as_its_messages(text: str, is_: tuple[str, str]) -> None:
    assert rules.conversation(sample(text)) == is_


@pytest.mark.parametrize(
    ("text", "why"), [("[...]end of it", "cut"), ("user: a\nassistant: b\nuser: c", "several turns")]
)
def test_a_sample_that_does_not_say_the_whole_question_is_none(text: str, why: str) -> None:
    found = rules.conversation(sample(text))
    assert isinstance(found, str)
    assert found.startswith(why)


def sample(question: str, at_ms: int = 1) -> Sample:
    told = {"request": "r-1", "tenant": "acme", "route": "production", "release": "0" * 64, "at_ms": at_ms}
    return Sample.model_validate(told | {"fault": "schema", "answer": "no", "question": question})


def test_of_rows_that_ask_the_same_the_newest_that_proposes_an_answer_stays_with_all_votes() -> None:
    rows = [
        row("r-1", "Where is it?", at_ms=1, proposed="here"),
        row("r-2", "where  is it", at_ms=2, proposed="there", right=1),
        row("r-3", "WHERE IS IT", at_ms=3),
        row("r-4", "where is it", system="in French"),
    ]
    first, other = rules.once(rows, folded_words)
    assert (first.request, first.times, first.wrong, first.right) == ("r-2", 3, 3, 1)
    assert other.request == "r-4"


def test_votes_that_differ_are_the_most_uncertain() -> None:
    assert rules.uncertainty(1, 1) == 1.0
    assert rules.uncertainty(1, 1) > rules.uncertainty(1, 0) > rules.uncertainty(2, 0) > rules.uncertainty(5, 0)


def test_words_of_one_question_alone_are_the_rarest() -> None:
    ordinary, odd, empty = rules.rarity([frozenset("ab"), frozenset("xy"), frozenset()])
    assert ordinary == odd == 1.0
    assert empty == 0.0
    assert rules.rarity([frozenset("ab"), frozenset("ab")]) == [0.0, 0.0]


def test_an_uncertain_a_diverse_and_an_edge_row_are_chosen_in_turns_and_in_no_order_of_the_input() -> None:
    rows = [
        row("r-1", "how long does a refund take"),
        row("r-2", "how long does the refund take", right=1),
        row("r-3", "my parcel has not come"),
        row("r-4", "zxq"),
        row("r-5", "how long does a refund take now"),
    ]
    chosen = rules.choose(rows, words(rows), 3)
    assert [(one.request, one.chosen) for one in chosen] == [
        ("r-2", Chosen.UNCERTAIN),
        ("r-3", Chosen.DIVERSE),
        ("r-4", Chosen.EDGE),
    ]
    back = rows[::-1]
    assert rules.choose(back, words(back), 3) == chosen
    assert len(rules.choose(rows, words(rows), 9)) == 5


def words(rows: list[BacklogRow]) -> list[frozenset[str]]:
    return [frozenset(folded_words(one.question)) for one in rows]


def test_a_rare_topic_is_chosen_more_often_than_by_chance() -> None:
    common = [
        row(f"c-{n:03}", f"how long does refund {n % 7} of order {n % 11} take at shop {n % 13}") for n in range(194)
    ]
    rare = [row(f"r-{n:03}", f"the {part} of my lamp is broken") for n, part in enumerate(("foot", "cord", "shade"))]
    odd = [row(f"s-{n:03}", f"which {what} do you sell in Oslo") for n, what in enumerate(("chairs", "beds", "desks"))]
    rows = common + rare + odd
    found = [one for one in rules.choose(rows, words(rows), 20) if one.request[0] in "rs"]
    assert len(found) == 6  # by chance 20 * 6 / 200 = 0.6 are expected


def task(*answers: str, of: BacklogRow | None = None, **fields: Any) -> LabelledTask:
    """A task as Label Studio exports it, with an annotation for each answer; "" skips it."""
    annotations = [
        {
            "id": n,
            "completed_by": {"id": n, "email": "jo@example.org"} if n % 2 else n,
            "was_cancelled": not answer,
            "result": [{"from_name": "label", "to_name": "question", "type": "textarea", "value": {"text": [answer]}}],
        }
        for n, answer in enumerate(answers, start=1)
    ]
    data = (of or row("r-1", answered="six days", **fields)).model_dump(mode="json")
    return LabelledTask.model_validate({"id": 7, "data": data, "annotations": annotations, "predictions": []})


def made(of: LabelledTask, *said_now: Feedback, policy: DataPolicy = POLICY, **fields: Any) -> Any:
    told = {"sample": None, "consents": ("improve",), "sample_basis": "", "recorded": True, "now_ms": NOW} | fields
    return rules.labelled(of, "acme", said_now, told.pop("sample"), policy, **told)


def test_a_labelled_task_is_a_row_with_its_provenance_and_no_name() -> None:
    assert made(task(" five days ", "five days"), said(at_ms=NOW - DAY_MS)) == {
        "id": "r-1",
        "prompt": "how long does it take",
        "answer": "five days",
        "provenance": {
            "origin": "human",
            "source": "backlog acme/production",
            "consent": "improve",
            "retention_days": 1,
            "rater_ids": ["label-studio:1", "label-studio:2"],
        },
    }
    turns = made(task("yes", system="be kind"), said())["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (made(task(), said()), "unlabelled"),
        (made(task(""), said()), "unlabelled"),
        (made(task("five", "six"), said()), "raters differ"),
        (made(task("six days"), said()), "unchanged"),
        (made(task("no"), said(release="0" * 64), sample=sample("a", at_ms=NOW)), "unchanged"),
        (made(task("five")), "withdrawn"),
        (made(task("five"), said(consent="")), "no consent"),
        (made(task("five", consent=""), said(consent="")), "no consent"),
        (made(task("five"), said(), policy=DataPolicy()), "opted out"),
        (made(task("five", kept_until_ms=NOW), said()), "retention over"),
        (made(task("five", kept_until_ms=NOW + DAY_MS - 1), said()), "retention over"),
        (made(task("five"), said(at_ms=NOW - 30 * DAY_MS)), "retention over"),
        (made(task("five", tenant="bolt"), said()), "wrong tenant"),
        (made(task("five"), said(), consents=()), "no consent"),
        (made(task("five", consent="anything"), said(consent="anything")), "no consent"),
        (made(task("five", alone=True, consent="contract"), sample_basis="contract"), "withdrawn"),
        (made(task("five"), sample=sample("a", at_ms=NOW), sample_basis="contract"), "withdrawn"),
        (made(task("five", alone=True, consent="contract"), sample=sample("a", at_ms=NOW)), "no consent"),
        (
            made(task("five", alone=True), sample=sample("a", at_ms=NOW), sample_basis="contract", policy=DataPolicy()),
            "opted out",
        ),
        (made(task("five"), said(at_ms=NOW - 2 * DAY_MS), recorded=False), "retention over"),
        (made(task("five"), said(), recorded=False, policy=DataPolicy(feedback_days=30)), "opted out"),
    ],
)
def test_a_task_that_may_not_be_used_is_refused_with_a_word(found: Any, why: str) -> None:
    assert isinstance(found, str)
    assert found.startswith(why)


def test_a_correction_that_was_erased_is_withdrawn_though_a_thumb_of_its_request_stays() -> None:
    thumb = said(kind="thumb", text="", value="down")
    of = task("five days", proposed="five days")
    assert made(of, thumb).startswith("withdrawn")
    assert made(of, thumb, said(text="four days")).startswith("withdrawn")
    assert made(of, thumb, said(consent="")).startswith("withdrawn")
    assert made(of, thumb, said())["answer"] == "five days"
    assert made(task("refund", proposed="refund"), said(kind="label", text="", value="refund"))["answer"] == "refund"


def test_a_sample_alone_ends_by_the_tenants_hours_and_not_by_what_the_file_says() -> None:
    forged = task("five", alone=True, consent="own", sample_ms=NOW, kept_until_ms=NOW + 900 * DAY_MS)
    of = sample("a", at_ms=NOW - DAY_MS)
    provenance = made(forged, sample=of, sample_basis="contract")["provenance"]
    assert (provenance["retention_days"], provenance["consent"]) == (1, "contract")


def test_a_question_that_no_record_has_ends_as_its_sample_does_whatever_the_file_says() -> None:
    forged = task("six", sample_ms=None, kept_until_ms=NOW + 900 * DAY_MS)
    of = sample("a", at_ms=NOW - 3600 * 1000)
    assert made(forged, said(), sample=of, recorded=False)["provenance"]["retention_days"] == 1
    other = of.model_copy(update={"at_ms": NOW})
    told = said(at_ms=NOW, release="1" * 64)
    assert rules.same_release(other, [told]) is None
    assert made(forged, told, sample=other, recorded=False)["provenance"]["retention_days"] == 2
    assert made(forged, told)["provenance"]["retention_days"] == 30


def test_the_correction_of_a_caller_without_a_consent_is_no_label_though_the_file_does_not_name_it() -> None:
    thumb = said(kind="thumb", text="", value="down")
    of = task("five days", proposed="")
    assert made(of, thumb, said(consent="", caller="b")).startswith("withdrawn")
    assert made(of, thumb, said(consent="", caller="b"), said())["answer"] == "five days"


def version(n: int, *datasets: str, parent: str | None = None) -> AdapterVersion:
    manifest = AdapterManifest(
        tenant="acme",
        name="words",
        base="b" * 64,
        files=(FileEntry(path="a", size=1, sha256="0" * 64),),
        rank=4,
        alpha=8,
        target_modules=("q_proj",),
        config_hash="0" * 64,
        datasets=datasets,
        parent=parent,
        decision=DecisionRecord(why_weights="tests"),
    )
    return AdapterVersion(
        manifest=manifest, digest=f"{n}" * 64, version=n, release="f" * 64, created_ms=n, created_by="jo"
    )


OWN, ELSE = "d" * 64, "e" * 64


@pytest.mark.parametrize(
    ("versions", "jobs", "live", "candidate", "step"),
    [
        ([], [], None, None, ("labelled", "")),
        ([version(1, ELSE)], [], "1" * 64, None, ("labelled", "")),
        ([], [("j-2", JobState.RUNNING), ("j-1", JobState.FAILED)], None, None, ("training", "j-2")),
        ([], [("j-1", JobState.CANCELLED)], None, None, ("failed", "j-1")),
        ([], [("j-1", JobState.DONE)], None, None, ("trained", "j-1")),
        ([version(1, ELSE), version(2, OWN)], [("j-1", JobState.DONE)], "1" * 64, None, ("trained", "words v2")),
        ([version(1, ELSE), version(2, OWN)], [], "1" * 64, "2" * 64, ("candidate", "words v2")),
        ([version(2, OWN), version(3, ELSE, parent="2" * 64)], [], "3" * 64, "2" * 64, ("live", "words v3")),
    ],
)
def test_a_route_says_how_far_the_labelled_rows_have_come(
    versions: list[AdapterVersion],
    jobs: list[tuple[str, JobState]],
    live: str | None,
    candidate: str | None,
    step: tuple[str, str],
) -> None:
    assert rules.step_of(OWN, versions, jobs, live=live, candidate=candidate)[:2] == step
