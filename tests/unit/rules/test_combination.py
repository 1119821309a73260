"""Combinations of adapter, base, chat template and engine: what fits, what does not, and what is not known."""

from __future__ import annotations

from typing import Any

import pytest

from loradeck.rules.serving.combination import (
    AdapterFacts,
    BaseFacts,
    EngineFacts,
    Fit,
    compared,
    verdict,
)

ADAPTER = AdapterFacts(rank=16, modules=frozenset({"q_proj", "v_proj"}), base="a" * 64, template="c" * 64)
BASE = BaseFacts(digest="a" * 64, name="org/model", revision="r1", template="c" * 64)
FLAGS: dict[str, tuple[str, ...]] = {"enable-lora": (), "max-lora-rank": ("16",)}
ENGINE = EngineFacts(version="0.32.1", flags=FLAGS)


def with_(facts: Any, **changes: Any) -> Any:
    return type(facts)(**{**vars(facts), **changes})


def wrong(adapter: AdapterFacts, base: BaseFacts, engine: EngineFacts | None, fit: Fit = Fit.MISMATCH) -> list[str]:
    return [one.what for one in compared(adapter, base, engine) if one.fit is fit]


def test_parts_that_were_made_for_each_other_match() -> None:
    found = compared(ADAPTER, BASE, ENGINE)
    assert verdict(found) is Fit.MATCH
    assert [one.what for one in found] == ["base", "revision", "template", "engine", "rank", "modules"]
    assert verdict(compared(ADAPTER, BASE, None)) is Fit.MATCH


@pytest.mark.parametrize(
    ("adapter", "base", "flags", "what"),
    [
        ({"base": "b" * 64, "revision": "r1"}, {}, {}, ["base"]),
        ({"base": None, "base_name": "/models/other", "revision": "r1"}, {}, {}, ["base"]),
        ({"base": None, "base_name": "Org/Model", "revision": "r2"}, {}, {}, ["revision"]),
        ({"template": "d" * 64}, {}, {}, ["template"]),
        ({"rank": 17}, {}, {}, ["rank"]),
        ({"rank": 17}, {}, {"max-lora-rank": ("32",)}, []),
        ({"rank": 8}, {}, {"max-lora-rank": ("24",)}, ["rank"]),
        ({}, {}, {"lora-target-modules": ("q_proj",)}, ["modules"]),
        ({}, {}, {"lora-target-modules": ("q_proj", "v_proj", "o_proj")}, []),
        ({}, {}, {"revision": ("r2",)}, ["revision"]),
    ],
)
def test_each_pair_that_does_not_fit_is_named(
    adapter: dict[str, Any], base: dict[str, Any], flags: dict[str, tuple[str, ...]], what: list[str]
) -> None:
    engine = with_(ENGINE, flags=FLAGS | flags)
    found = compared(with_(ADAPTER, **adapter), with_(BASE, **base), engine)
    assert [one.what for one in found if one.fit is Fit.MISMATCH] == what
    assert all(one.fix for one in found if one.fit is not Fit.MATCH)
    assert verdict(found) is (Fit.MISMATCH if what else Fit.MATCH)


def test_an_engine_without_lora_or_with_another_template_does_not_fit() -> None:
    assert wrong(ADAPTER, BASE, EngineFacts(version="0.32.0", flags={})) == ["lora"]
    other = EngineFacts(version="0.32.0", flags=FLAGS | {"chat-template": ("t",)}, template="e" * 64)
    assert wrong(ADAPTER, BASE, other) == ["engine template"]


def test_what_nobody_says_is_not_known_and_is_no_match() -> None:
    bare = AdapterFacts(rank=16, modules=frozenset({"q_proj"}))
    found = compared(bare, BaseFacts(), EngineFacts(version="0.31.0", flags=FLAGS))
    assert [one.what for one in found if one.fit is Fit.UNKNOWN] == ["base", "revision", "template", "engine"]
    assert verdict(found) is Fit.UNKNOWN
