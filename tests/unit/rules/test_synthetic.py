"""Synthetic rows: what is asked, how deep it is, what it may be used for, and what a report or a row may say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from loradeck.rules.clocks import DAY_MS
from loradeck.rules.data.policy import DatedEntry, check_training
from loradeck.rules.data.synthetic import (
    check_terms,
    claims,
    disagreement,
    prompts,
    provenance,
    share,
    trained_on,
)
from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import BaseLineage
from loradeck.schemas.dataset_ledger import DataPolicy, LedgerEntry
from loradeck.schemas.generation import GenerateSpec, GenerationReport, Source, Variety, filled, named_in
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion, Form, Release, Tier

PEOPLE, MADE, DEEP = "a" * 64, "b" * 64, "c" * 64
BASE, OTHER, ADAPTER, PARENT = "1" * 64, "2" * 64, "3" * 64, "4" * 64
SOURCE = {"release": "e" * 64, "base": BASE, "licence": "MIT", "terms": "ann, 2026"}


def spec(**changes: Any) -> GenerateSpec:
    fields: dict[str, Any] = {
        "tenant": "acme",
        "name": "more",
        "sources": [SOURCE],
        "templates": [{"prompt": "Say {{word}} in {{tongue}}."}, {"prompt": "{{word}}?"}],
        "slots": {"word": ["one", "two", "three"], "tongue": ["French", "Dutch"]},
        "verifier": {"form": "text"},
        "beside": [PEOPLE],
    }
    return GenerateSpec.model_validate(fields | changes)


def entry(digest: str, **changes: Any) -> LedgerEntry:
    fields: dict[str, Any] = {
        "dataset": digest,
        "rows": 10,
        "human": 10,
        "program": 0,
        "model": 0,
        "deepest": 0,
        "sources": ["desk"],
        "distinct_sources": 1,
        "licence_classes": ["MIT"],
        "consents": ["own"],
        "tiers": ["public"],
        "purposes": ["evaluate", "train"],
        "retention_days": None,
        "generators": [],
    }
    return LedgerEntry.model_validate(fields | changes)


def by_model(digest: str, depth: int, **changes: Any) -> LedgerEntry:
    return entry(digest, **{"human": 0, "model": 10, "deepest": depth, **changes})


def ledger(*entries: LedgerEntry, at_ms: int = 0) -> dict[str, DatedEntry]:
    return {one.dataset: DatedEntry(entry=one, at_ms=at_ms) for one in entries}


def said(asked: GenerateSpec) -> list[str]:
    return [one.messages[-1]["content"] for one in prompts(asked)]


# ---- what is asked -----------------------------------------------------------------------------------------


def test_all_templates_are_asked_in_turn_and_no_prompt_twice() -> None:
    asked = said(spec())
    assert len(asked) == len(set(asked)) == 9
    assert [one.startswith("Say") for one in asked[:6]] == [True, False] * 3
    assert said(spec(prompts=4)) == asked[:4], "and fewer prompts are the first of these"


def test_the_seed_decides_which_texts_come_first() -> None:
    assert said(spec()) == said(spec())
    assert said(spec()) != said(spec(seed=1))
    assert sorted(said(spec())) == sorted(said(spec(seed=1)))


def test_a_system_message_comes_before_the_prompt_and_has_slots_as_well() -> None:
    one = spec(templates=[{"prompt": "{{word}}", "system": "In {{tongue}}."}], prompts=1)
    (asked,) = prompts(one)
    assert [message["role"] for message in asked.messages] == ["system", "user"]
    assert asked.slots["tongue"] in asked.messages[0]["content"]


def test_texts_of_slots_stay_inside_of_their_strings_where_the_text_is_json() -> None:
    schema, slots = '{"const": {"said": "{{word}}"}}', {"word": 'a "b" \\ c'}
    assert json.loads(filled(schema, slots, in_json=True)) == {"const": {"said": slots["word"]}}
    assert filled("{{word}} {{other}} {{", slots) == slots["word"] + " {{other}} {{"
    assert named_in("{{word}} {{ no }} {{other") == {"word"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"slots": {"word": ["one"]}}, "slots without texts: tongue"),
        ({"slots": {"word": ["one"], "tongue": ["Dutch"], "x": ["y"]}}, "slots that no template has: x"),
        ({"slots": {"word": [], "tongue": ["Dutch"]}}, "a slot has 1 to"),
        ({"slots": {"word": ["w"] * 1000, "tongue": ["t"] * 1000}}, "makes at most 100,000"),
        ({"slots": {"word": ["w" * 20_001], "tongue": ["t"]}}, "at most 20000 characters"),
        ({"slots": {f"s{n}": ["t"] for n in range(101)}}, "at most 100 items"),
        ({"slots": {"s" * 101: ["t"]}}, "at most 100 characters"),
        ({"prompts": 20_000, "answers": 6}, "times temperatures are at most 200,000"),
        ({"temperatures": [3.0]}, "from 0 to 2"),
        ({"temperatures": [0.0], "answers": 2}, "the same one"),
        ({"sources": [SOURCE, SOURCE]}, "different releases"),
        ({"tools": [{"name": "x"}]}, "tools are for tool_call"),
        ({"verifier": {"form": "text", "answer_schema": "{}"}}, "answer_schema is for json"),
        ({"verifier": {"form": "text", "judge": {**SOURCE, "prompt": "?"}}}, "judge"),
        ({"beside": []}, "beside"),
    ],
)
def test_a_recipe_that_cannot_be_asked_is_refused_with_the_reason(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        spec(**changes)


# ---- depth -------------------------------------------------------------------------------------------------


def version(digest: str, *datasets: str, parent: str | None = None, base: str = BASE) -> AdapterVersion:
    manifest = AdapterManifest.model_validate(
        {
            "tenant": "acme",
            "name": "support",
            "base": base,
            "files": [{"path": "adapter_model.safetensors", "size": 1, "sha256": "0" * 64}],
            "rank": 8,
            "alpha": 16,
            "target_modules": ["q_proj"],
            "config_hash": "0" * 64,
            "datasets": datasets,
            "parent": parent,
            "decision": {"why_weights": "x"},
        }
    )
    return AdapterVersion(manifest=manifest, digest=digest, version=1, release="9" * 64, created_ms=0, created_by="x")


def test_a_release_learnt_from_its_adapter_its_parents_and_what_its_base_was_made_from() -> None:
    adapters = {ADAPTER: version(ADAPTER, PEOPLE, parent=PARENT), PARENT: version(PARENT, MADE, base=OTHER)}
    made = {OTHER: [BaseLineage(tenant="acme", job="j", base=BASE, datasets=(DEEP,))]}
    release = Release(tenant="acme", form=Form.ADAPTER, base=BASE, adapter=ADAPTER)
    assert trained_on(release, adapters=adapters, releases=(), made=made) == {PEOPLE, MADE, DEEP}
    alone = Release(tenant="acme", form=Form.BASE, base=BASE)
    assert trained_on(alone, adapters=adapters, releases=(), made=made) == frozenset()


def test_merged_weights_learnt_what_their_adapter_learnt_also_as_a_base_of_another_name() -> None:
    adapters = {ADAPTER: version(ADAPTER, PEOPLE)}
    merged = Release(tenant="acme", form=Form.MERGED, base=BASE, adapter=ADAPTER, merged=OTHER)
    alone = Release(tenant="acme", form=Form.BASE, base=OTHER)
    for release in (merged, alone):
        assert trained_on(release, adapters=adapters, releases=[merged], made={}) == {PEOPLE}


def test_an_adapter_of_which_nobody_knows_what_it_learnt_writes_no_rows() -> None:
    release = Release(tenant="acme", form=Form.ADAPTER, base=BASE, adapter=ADAPTER)
    for adapters in ({ADAPTER: version(ADAPTER)}, {}):
        with pytest.raises(Refused) as refused:
            trained_on(release, adapters=adapters, releases=(), made={})
        assert refused.value.code == "no_depth"


# ---- provenance --------------------------------------------------------------------------------------------


def of(learnt: set[str], kept: dict[str, DatedEntry], now_ms: int = 0, **changes: Any) -> Any:
    return provenance(spec(**changes), learnt, kept, job="j1", now_ms=now_ms)


def test_rows_are_one_deeper_than_the_deepest_that_a_source_learnt() -> None:
    kept = ledger(entry(PEOPLE), by_model(MADE, 1), by_model(DEEP, 3))
    assert [of(learnt, kept).synthetic_depth for learnt in (set(), {PEOPLE}, {MADE}, {MADE, DEEP})] == [1, 1, 2, 4]


def test_rows_are_as_confidential_and_as_bound_as_all_that_they_come_from() -> None:
    kept = ledger(
        entry(PEOPLE, tiers=["internal"], consents=["contract"]),
        by_model(MADE, 1, tiers=["public", "restricted"], retention_days=30, purposes=["train"]),
    )
    found = of({MADE}, kept, now_ms=10 * DAY_MS)
    assert (found.tier, found.retention_days, found.purpose) == (Tier.RESTRICTED, 20, ("train",))
    assert (found.consent, found.source, found.licence_class) == ("contract, own", "job j1", "MIT")
    assert of({MADE}, kept, now_ms=10 * DAY_MS + 1).retention_days == 19


@pytest.mark.parametrize(
    ("learnt", "kept", "code"),
    [
        ({DEEP}, ledger(entry(PEOPLE)), "no_depth"),
        (set(), {}, "no_depth"),
        (set(), ledger(by_model(PEOPLE, 1)), "no_human_rows"),
        ({MADE}, ledger(entry(PEOPLE), by_model(MADE, 1, purposes=["evaluate"])), "purpose_not_allowed"),
        ({MADE}, ledger(entry(PEOPLE), by_model(MADE, 1, retention_days=1)), "retention_over"),
    ],
)
def test_rows_whose_depth_or_use_is_not_known_are_not_written(
    learnt: set[str], kept: dict[str, DatedEntry], code: str
) -> None:
    with pytest.raises(Refused) as refused:
        of(learnt, kept, now_ms=2 * DAY_MS)
    assert refused.value.code == code


def test_somebody_has_to_have_accepted_a_sources_terms() -> None:
    check_terms(Source.model_validate(SOURCE), "teacher")
    with pytest.raises(Refused) as refused:
        check_terms(Source.model_validate(SOURCE | {"terms": " "}), "teacher")
    assert refused.value.code == "terms_not_accepted"


# ---- what nodes say ----------------------------------------------------------------------------------------


def report(**changes: Any) -> GenerationReport:
    various = Variety(texts=7, words=20, distinct_1=9, distinct_2=12, self_bleu=100)
    fields: dict[str, Any] = {
        "job": "j1",
        "asked": 20,
        "unfinished": 4,
        "sensitive": 1,
        "passed": share(10, 15),
        "sources": [{"release": "e" * 64, "passed": share(10, 15)}],
        "copies": 2,
        "near": 1,
        "contaminated": 0,
        "rows": 7,
        "beside": [PEOPLE],
        "variety": various,
        "people": various,
        "tail": share(3, 9),
        "tail_of_people": share(4, 9),
    }
    return GenerationReport.model_validate(fields | changes)


def test_a_share_has_its_interval() -> None:
    assert (share(10, 15).low, share(10, 15).high) == (417, 848)
    assert (share(0, 0).low, share(0, 0).high) == (0, 1000)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({}, ""),
        ({"job": "j2"}, "job"),
        ({"rows": 8}, "rows"),
        ({"unfinished": 5}, "asked"),
        ({"asked": 20_000, "unfinished": 19_984}, "asked"),
        ({"passed": share(11, 15), "rows": 8}, "passed"),
        ({"tail": {"k": 3, "n": 9, "low": 300, "high": 400}}, "an interval"),
        ({"tail": {"k": 9, "n": 3, "low": 0, "high": 0}}, "an interval"),
        ({"beside": [MADE]}, "beside"),
        ({"near": None, "rows": 8}, ""),
    ],
)
def test_a_report_whose_counts_disagree_is_found(changes: dict[str, Any], what: str) -> None:
    assert disagreement(report(**changes), spec(prompts=10), "j1") == what


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({}, ""),
        ({"human": 1, "model": 9}, "origin"),
        ({"deepest": 1}, "depth"),
        ({"generators": ["f" * 64]}, "generator"),
        ({"licence_classes": ["MIT", "own"]}, "licence"),
        ({"sources": ["desk"]}, "source"),
        ({"tiers": ["internal", "public"]}, "tier"),
        ({"retention_days": 900}, "retention"),
    ],
)
def test_a_row_that_says_of_itself_what_the_hub_does_not_is_found(changes: dict[str, Any], what: str) -> None:
    stated = of({MADE}, ledger(entry(PEOPLE), by_model(MADE, 1)))
    fields: dict[str, Any] = {"sources": ["job j1"], "generators": ["e" * 64], **changes}
    assert claims(by_model(DEEP, 2, **fields), spec(), stated) == what


# ---- caps --------------------------------------------------------------------------------------------------


def trains(policy: DataPolicy, *entries: LedgerEntry) -> str:
    kept = ledger(*entries)
    try:
        check_training(list(kept), kept, policy, now_ms=0, names={})
    except Refused as refused:
        return refused.code
    return ""


def test_deep_rows_have_a_cap_of_their_own_below_that_of_all_rows_by_models() -> None:
    people, policy = entry(PEOPLE, rows=30, human=30), DataPolicy(depth_caps=(0.2, 0.1))
    assert trains(policy, people, by_model(MADE, 1)) == ""
    mixed = by_model(MADE, 2, by_depth=[3, 7])
    assert trains(policy, people, mixed) == "", "7 of 40 are two deep"
    assert trains(policy, people, by_model(MADE, 2)) == "synthetic_share", "an entry that does not say how many"
    assert trains(policy, people, by_model(MADE, 3, by_depth=[5, 0, 5])) == "synthetic_share", "5 of 40 are three deep"
    assert trains(policy, people, by_model(MADE, 3, by_depth=[6, 0, 4])) == "", "4 of 40 are"
    assert trains(DataPolicy(), people, by_model(MADE, 9)) == "", "without caps by depth all models' rows are alike"


def test_synthetic_rows_alone_are_never_enough() -> None:
    assert trains(DataPolicy(), by_model(MADE, 1)) == "synthetic_share"
    assert trains(DataPolicy(synthetic_cap=1), by_model(MADE, 2)) == "synthetic_depth"
