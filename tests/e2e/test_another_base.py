"""Rollback to another base: base and adapter return together, on real engines, judged by the answers' tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fleet import TENANT, Material, fleet_at, lay, row, told
from tests.two_bases import TwoBases, lay_other, write_other_base

from incident.fleet import Fleet
from incident.incident import Cast, Incident
from incident.progress import Progress
from incident.report import Report
from incident.traffic import Answer, Callers, Prompt
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.schemas.state import Readiness


@pytest.fixture(scope="session")
def other_base(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_other_base(material.base, tmp_path_factory.mktemp("other") / "base")


@pytest.fixture(scope="session")
def merged_base(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v3 merged into the base in fp32, as peft does it: weights of their own."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("merged") / "base"
    model = AutoModelForCausalLM.from_pretrained(material.base)
    PeftModel.from_pretrained(model, material.adapters[2]).merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(material.base).save_pretrained(folder)
    return folder


def lay_merged(fleet: Fleet, merged_base: Path, cast: Cast) -> Cast:
    """Registers the merged weights as v3m. They answer as v3 does, which is not served itself."""
    fleet.cli("base", "add", str(merged_base), "--model-id", "tests/words-v3", "--revision", "1")
    merged = fleet.cli("release", "add", TENANT, "v3", "--merged", "tests/words-v3")
    assert (merged["label"], merged["base_label"], merged["form"]) == ("v3m", "B2", "merged")
    v3 = cast.releases["v3"]
    prompts = [
        Prompt(
            id=prompt.id,
            messages=prompt.messages,
            answers={merged["id"] if release == v3 else release: text for release, text in prompt.answers.items()},
        )
        for prompt in cast.prompts
    ]
    releases = {label: release for label, release in cast.releases.items() if label != "v3"}
    return Cast(tenant=cast.tenant, releases={**releases, "v3m": merged["id"]}, prompts=prompts)


async def moved_across(fleet: Fleet, cast: Cast, key: str, *moves: str) -> tuple[Report, list[Answer]]:
    """Makes the moves (`R`, `u`, or a label to promote) with requests in flight all the time."""
    report = Report(labels={release: label for label, release in cast.releases.items()}, replicas=len(fleet.nodes))
    routers = {node.name: node.url for node in fleet.nodes}
    async with (
        HubApi.to(Context(name="tests", socket=fleet.socket)) as api,
        Callers(routers, {TENANT: key}, max_tokens=12) as callers,
    ):
        incident = Incident(fleet, api, callers, cast, report, Progress())
        callers.start({TENANT: cast.prompts}, every_s=0.05)
        for move in moves:
            if move == "R":
                await incident.rollback()
            elif move == "u":
                await incident.undo()
            else:
                await incident.promote(move)
        await callers.stop()
        await incident.judge()
        report.judge_moves(len(moves), needed=2)
        return report, list(callers.answers)


async def test_base_and_adapter_return_together_when_a_move_to_another_base_is_rolled_back(
    material: Material, other_base: Path
) -> None:
    with fleet_at(material, TwoBases, other=other_base) as fleet:
        cast, key = lay(fleet, material)
        cast = lay_other(fleet, other_base, material, cast)
        report, answers = await moved_across(fleet, cast, key, "x1", "R", "u", "x2", "R", "R")
        assert report.held, report.text() + told(fleet)
        assert len(answers) > 200
        assert [answer for answer in answers if not answer.ok] == []
        after = row(fleet)
        assert after["live"]["id"] == cast.releases["v2"]
        assert [replica["replica"] for replica in after["replicas"]] == ["gpu-01.b1", "gpu-02.b1"]
        assert after["preview"]["readiness"] == Readiness.RESIDENT


async def test_merged_weights_are_promoted_and_rolled_back_like_any_other_release(
    material: Material, merged_base: Path
) -> None:
    with fleet_at(material, TwoBases, names=("gpu-01",), other=merged_base) as fleet:
        cast, key = lay(fleet, material)
        cast = lay_merged(fleet, merged_base, cast)
        report, answers = await moved_across(fleet, cast, key, "v3m", "R", "u", "R")
        assert report.held, report.text() + told(fleet)
        assert [answer for answer in answers if not answer.ok] == []
        assert row(fleet)["live"]["id"] == cast.releases["v2"]
