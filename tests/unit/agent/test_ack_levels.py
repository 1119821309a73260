"""What an agent adds to acknowledgements of the engine that they speak of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loradeck.schemas.attestation import EngineBuild
from loradeck.schemas.link import Ack
from loradeck.schemas.replica_state import AckLevel, AckState
from loradeck_agent.host.engine_config import EmbeddedEngine, VllmEngine
from loradeck_agent.serving.engine_api import EngineVersion
from loradeck_agent.serving.replica import EngineReplica, Measured
from loradeck_agent.uplink.desired_table import AckBoard

RELEASE = "a" * 64
EMBEDDED = EmbeddedEngine.model_construct(name="e0")
VLLM = VllmEngine.model_construct(name="e0")
nothing: Any = None


def engine(config: Any) -> EngineReplica:
    api: Any = SimpleNamespace(close=lambda: None)
    replica = EngineReplica("gpu-01", config, api, nothing, nothing)
    build = EngineBuild(engine="fake", device="cpu", dtype="float32")
    replica.came_up(EngineVersion(boot="b7", build=build, base="b" * 64, base_name="base", slots=4))
    replica.loaded[RELEASE], replica.loads[RELEASE] = "v1", 2
    return replica


def ack(state: AckState, release: str | None = RELEASE) -> Ack:
    fields = {"tenant": "acme", "route": "production", "epoch": 1, "generation": 1, "replica": "gpu-01", "at_ms": 0}
    return Ack.model_validate({**fields, "state": state, "release": release})


@pytest.mark.parametrize(("config", "level"), [(EMBEDDED, AckLevel.DEVICE), (VLLM, AckLevel.HOST)])
@pytest.mark.parametrize("state", [AckState.FLIPPED, AckState.PROVEN, AckState.LISTED])
def test_a_flip_says_where_the_release_is_and_which_load_it_rests_on(
    config: Any, level: AckLevel, state: AckState
) -> None:
    said = engine(config).acknowledging(ack(state), True)
    assert (said.level, said.boot, said.load) == (level, "b7", 2)


@pytest.mark.parametrize("level", [AckLevel.DEVICE, AckLevel.HOST])
def test_an_engine_that_says_how_near_a_release_is_is_believed(level: AckLevel) -> None:
    replica = engine(VLLM)
    replica.levels = {"v1": level}
    assert replica.acknowledging(ack(AckState.FLIPPED), True).level is level


@pytest.mark.parametrize(
    ("config", "levels", "known"), [(EMBEDDED, None, True), (VLLM, None, False), (VLLM, {"v1": AckLevel.HOST}, True)]
)
def test_a_vllm_that_does_not_say_what_it_holds_is_reported_so(
    config: Any, levels: dict[str, AckLevel] | None, known: bool, tmp_path: Path
) -> None:
    replica = engine(config)
    replica.measured = Measured(tmp_path / "durations.json")
    replica.levels = levels
    assert replica.report().levels_known is known


def test_merged_weights_and_a_base_are_the_engines_own() -> None:
    said = engine(VLLM).acknowledging(ack(AckState.FLIPPED, "c" * 64), True)
    assert (said.level, said.boot, said.load) == (AckLevel.DEVICE, "b7", None)


@pytest.mark.parametrize(("stored", "level"), [(True, AckLevel.DISK), (False, AckLevel.ABSENT)])
def test_a_cold_flip_says_whether_the_files_are_here(stored: bool, level: AckLevel) -> None:
    cold = ack(AckState.FLIPPED, "d" * 64).model_copy(update={"code": "not_ready"})
    assert engine(VLLM).acknowledging(cold, stored).level is level


@pytest.mark.parametrize("release", [RELEASE, None])
def test_what_waits_or_is_withdrawn_has_no_level(release: str | None) -> None:
    said = engine(VLLM).acknowledging(ack(AckState.WAITING if release else AckState.FLIPPED, release), True)
    assert (said.level, said.boot, said.load) == (None, "b7", None)


def test_an_engine_that_is_down_is_not_spoken_of() -> None:
    replica = engine(VLLM)
    replica.went_down()
    assert replica.acknowledging(ack(AckState.FLIPPED), True) == ack(AckState.FLIPPED)
    assert replica.loads == {}


async def test_the_board_adds_it_to_what_it_sends_and_to_what_it_sends_again() -> None:
    sent: list[Ack] = []

    async def send(message: Ack) -> bool:
        sent.append(message)
        return True

    board = AckBoard(send, frozenset({"gpu-01"}), lambda one: engine(EMBEDDED).acknowledging(one, True))
    await board.post(ack(AckState.FLIPPED))
    await board.replay()
    assert [one.boot for one in sent] == ["b7", "b7"]


async def test_a_cold_flip_takes_back_what_was_proven_of_an_earlier_load() -> None:
    sent: list[tuple[AckState, str | None]] = []

    async def send(message: Ack) -> bool:
        sent.append((message.state, message.code))
        return True

    board = AckBoard(send, frozenset({"gpu-01"}))
    cold = ack(AckState.FLIPPED).model_copy(update={"code": "not_ready"})
    for one in (ack(AckState.FLIPPED), ack(AckState.PROVEN), cold, ack(AckState.FLIPPED)):
        await board.post(one)
    assert sent == [
        (AckState.FLIPPED, None),
        (AckState.PROVEN, None),
        (AckState.FLIPPED, "not_ready"),
        (AckState.FLIPPED, None),
    ]


def test_a_report_says_how_many_the_batch_holds_and_how_many_were_unloaded_to_make_room(tmp_path: Path) -> None:
    replica = engine(VLLM)
    replica.config = VllmEngine.model_construct(name="e0", slots=4, batch_slots=2, memory_gb=None, start="always")
    replica.measured = Measured(tmp_path / "measured.json")
    replica.ready, replica.levels, replica.evictions = {RELEASE}, {"v1": AckLevel.DEVICE}, 3
    report = replica.report()
    assert (report.loaded, report.on_device, report.evictions) == ((RELEASE,), 1, 3)
