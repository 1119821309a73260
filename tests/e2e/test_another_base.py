"""Rollback to another base: base and adapter return together, on real engines, judged by the answers' tokens."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.fleet import LABELS, PROMPTS, TENANT, Material, fleet_at, lay, row, told
from tests.words import reference_answers

from incident.fleet import Fleet, Node
from incident.incident import Cast, Incident
from incident.progress import Progress
from incident.report import Report
from incident.traffic import Answer, Callers, Prompt
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.schemas.state import Readiness

OTHER_TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m.role }} w3 {{ m.content }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant w4 {% endif %}"
)


@dataclass
class TwoBases(Fleet):
    """Every node runs an engine of each base."""

    other: Path = field(default_factory=Path)

    def engine_tables(self, node: Node) -> str:
        return self.engine_table("b1", self.base) + "\n" + self.engine_table("b2", self.other)


@pytest.fixture(scope="session")
def other_base(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights with another chat template: another base."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("other") / "base"
    shutil.copytree(material.base, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = OTHER_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


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


def lay_merged(fleet: TwoBases, cast: Cast) -> Cast:
    """Registers the merged weights as v3m. They answer as v3 does, which is not served itself."""
    fleet.cli("base", "add", str(fleet.other), "--model-id", "tests/words-v3", "--revision", "1")
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


def lay_other(fleet: TwoBases, material: Material, cast: Cast) -> Cast:
    """Registers the other base, and the same adapters on it as x1 to x3; the cast with their answers too."""
    other = fleet.cli("base", "add", str(fleet.other), "--model-id", "tests/words", "--revision", "2")["digest"]
    answers = reference_answers(fleet.other, list(material.adapters), PROMPTS)
    words = ("--tenant", TENANT, "--name", "words", "--base", other, "--why", "tests")
    moved = {
        f"x{label[1:]}": fleet.cli("adapter", "import", str(folder), *words)["release"]
        for label, folder in zip(LABELS, material.adapters, strict=True)
    }
    prompts = [
        Prompt(
            id=prompt.id,
            messages=prompt.messages,
            answers={**prompt.answers, **{release: answers[k][n] for k, release in enumerate(moved.values())}},
        )
        for n, prompt in enumerate(cast.prompts)
    ]
    return Cast(tenant=cast.tenant, releases={**cast.releases, **moved}, prompts=prompts)


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
        cast = lay_other(fleet, material, cast)
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
        cast = lay_merged(fleet, cast)
        report, answers = await moved_across(fleet, cast, key, "v3m", "R", "u", "R")
        assert report.held, report.text() + told(fleet)
        assert [answer for answer in answers if not answer.ok] == []
        assert row(fleet)["live"]["id"] == cast.releases["v2"]
