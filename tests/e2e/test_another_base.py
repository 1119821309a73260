"""Rollback to another base: base and adapter return together, on real engines, judged by the answers' tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.fleets.processes.fleet import TENANT, Material, fleet_at, lay, row, told
from tests.fleets.processes.two_bases import TwoBases, lay_other, write_other_base
from tests.fleets.waiting import PATIENCE_S

from incident.fleet import CommandFailed, Fleet, wait_for
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
    labels = {release: label for label, release in cast.releases.items()}
    # How many requests fit into 200 ms is the machine's affair.
    report = Report(labels=labels, replicas=len(fleet.nodes), needed=0)
    routers = {node.name: node.url for node in fleet.nodes}
    async with (
        HubApi.to(Context(name="tests", socket=fleet.socket)) as api,
        Callers(routers, {TENANT: key}, max_tokens=12) as callers,
    ):
        incident = Incident(fleet, api, callers, cast, report, Progress())
        callers.start({TENANT: cast.prompts}, every_s=0.1)
        for move in moves:
            if move == "R":
                await incident.rollback()
            elif move == "u":
                await incident.undo()
            else:
                await incident.promote(move)
        await callers.stop()
        report.judge_moves(len(moves))
        return report, list(callers.answers)


async def test_base_and_adapter_return_together_when_a_move_to_another_base_is_rolled_back(
    material: Material, other_base: Path
) -> None:
    with fleet_at(material.base, TwoBases, other=other_base) as fleet:
        cast, key = lay(fleet, material)
        cast = lay_other(fleet, other_base, material, cast)
        report, answers = await moved_across(fleet, cast, key, "x1", "R", "u", "x2", "R", "R")
        assert report.held, report.text() + told(fleet)
        assert len(answers) > 200
        assert [answer for answer in answers if not answer.ok] == []
        assert {cast.releases[label] for label in ("v2", "x1", "x2")} <= {answer.by for answer in answers}
        after = row(fleet)
        assert after["live"]["id"] == cast.releases["v2"]
        assert [replica["replica"] for replica in after["replicas"]] == ["gpu-01.b1", "gpu-02.b1"]
        assert after["preview"]["readiness"] == Readiness.RESIDENT


async def test_merged_weights_are_promoted_and_rolled_back_like_any_other_release(
    material: Material, merged_base: Path
) -> None:
    with fleet_at(material.base, TwoBases, names=("gpu-01",), other=merged_base) as fleet:
        cast, key = lay(fleet, material)
        cast = lay_merged(fleet, merged_base, cast)
        report, answers = await moved_across(fleet, cast, key, "v3m", "R", "u", "R")
        assert report.held, report.text() + told(fleet)
        assert [answer for answer in answers if not answer.ok] == []
        assert {cast.releases[label] for label in ("v2", "v3m")} <= {answer.by for answer in answers}
        assert row(fleet)["live"]["id"] == cast.releases["v2"]


async def test_a_node_without_an_engine_of_the_new_base_is_seen_and_refuses_what_its_policy_refuses(
    material: Material, other_base: Path
) -> None:
    """gpu-02 has no engine of the other base: its callers tell who answers there, by tokens."""
    with fleet_at(material.base, TwoBases, other=other_base, without=("gpu-02",)) as fleet:
        cast, key = lay(fleet, material)
        cast = lay_other(fleet, other_base, material, cast)
        words = ("promote", TENANT, cast.releases["x1"], "--yes", "--wait", "committed")
        with pytest.raises(CommandFailed) as refused:
            fleet.cli(*words)
        assert "left_behind" in refused.value.error
        assert "gpu-02" in refused.value.error
        assert row(fleet)["live"]["id"] == cast.releases["v2"]

        fleet.cli(*words, "--override", "--reason", "gpu-02 gets its engine tomorrow")
        behind = wait_for("gpu-02 is behind", lambda: _replica(fleet, "gpu-02"), 30)
        assert (behind["state"], behind["code"]) == ("waiting", "no_engine")
        assert behind["detail"] == "gap policy left: v2 answers"
        seen = row(fleet)
        assert (seen["flipped"], seen["placed"]) == (1, 2)
        assert seen["preview"]["target"]["id"] == cast.releases["v2"]
        assert await _who(fleet, cast, key) == {"gpu-01": {cast.releases["x1"]}, "gpu-02": {cast.releases["v2"]}}

        # The same under the policy that refuses: the left release answers nobody any more.
        fleet.cli("route", "set", TENANT, "--gap", "refuse", "--yes")
        wait_for("the policy holds", lambda: "nothing answers" in _replica(fleet, "gpu-02")["detail"], 30)
        assert await _who(fleet, cast, key) == {"gpu-01": {cast.releases["x1"]}, "gpu-02": {503}}

        # F goes to the base alone of the base that is live; and R brings both nodes back to the other one.
        fleet.cli("fallback", TENANT, "--yes", "--wait", "committed", "--reason", "x1 is bad")
        wait_for("the base alone is proven", lambda: row(fleet)["proven"] == 1, 30)
        live = row(fleet)["live"]
        assert (live["form"], live["base_label"]) == ("base", "B2")
        fleet.cli("rollback", TENANT, "--yes", "--wait", "proven", "--timeout", "30", "--reason", "back")
        after = row(fleet)
        assert (after["live"]["id"], after["proven"], after["placed"]) == (cast.releases["v2"], 2, 2)
        assert await _who(fleet, cast, key) == {node: {cast.releases["v2"]} for node in ("gpu-01", "gpu-02")}


async def test_where_memory_holds_one_engine_a_promote_across_bases_is_overridden_and_the_way_back_is_cold(
    material: Material, other_base: Path
) -> None:
    with fleet_at(material.base, TwoBases, names=("gpu-01",), other=other_base, one_at_a_time=True) as fleet:
        cast, key = lay(fleet, material)
        cast = lay_other(fleet, other_base, material, cast)
        _until_reported(fleet, {"gpu-01.b1": "up", "gpu-01.b2": "stopped"})
        words = ("promote", TENANT, cast.releases["x1"], "--yes", "--wait", "proven", "--timeout", "90")
        with pytest.raises(CommandFailed) as refused:
            fleet.cli(*words)
        assert "no_memory" in refused.value.error
        assert "120 of 80 GB" in refused.value.error
        assert await _who(fleet, cast, key) == {"gpu-01": {cast.releases["v2"]}}

        fleet.cli(*words, "--override", "--reason", "the maintenance window is open")
        _until_reported(fleet, {"gpu-01.b1": "stopped", "gpu-01.b2": "up"})
        assert await _who(fleet, cast, key) == {"gpu-01": {cast.releases["x1"]}}
        seen = row(fleet)
        assert seen["last_event"]["override"]
        assert seen["last_event"]["payload"] == {"overridden": ["no_memory"]}
        preview = seen["preview"]
        assert (preview["readiness"], preview["ready"], preview["placed"]) == ("cached", 0, 1)
        (behind,) = preview["behind"]
        assert behind["replica"] == "gpu-01.b1"
        assert preview["wait_s"] == behind["seconds"] > 1  # measured when b1 was started for v1: mostly imports

        fleet.cli("rollback", TENANT, "--yes", "--wait", "proven", "--timeout", "90", "--reason", "x1 is bad")
        _until_reported(fleet, {"gpu-01.b1": "up", "gpu-01.b2": "stopped"})
        assert await _who(fleet, cast, key) == {"gpu-01": {cast.releases["v2"]}}


def _until_reported(fleet: Fleet, engines: dict[str, str]) -> None:
    """Until the node's report, which comes once a second, says these states of its engines."""

    def said() -> bool:
        nodes = fleet.cli("node", "ls")
        return {replica["replica"]: replica["state"] for node in nodes for replica in node["replicas"]} == engines

    wait_for(f"engines are {engines}", said, PATIENCE_S)


def _replica(fleet: Fleet, node: str) -> Any:
    return next((replica for replica in row(fleet)["replicas"] if replica["node"] == node), None)


async def _who(fleet: Fleet, cast: Cast, key: str) -> dict[str, set[str | int | None]]:
    """Node -> who answers there, by tokens; a status other than 200 instead of a release."""
    routers = {node.name: node.url for node in fleet.nodes}
    async with Callers(routers, {TENANT: key}, max_tokens=12) as callers:
        found: dict[str, set[str | int | None]] = {}
        for node in routers:
            answers = [await callers.ask(node, TENANT, prompt) for prompt in cast.prompts[:6]]
            found[node] = {answer.by if answer.ok else answer.status for answer in answers}
        return found
