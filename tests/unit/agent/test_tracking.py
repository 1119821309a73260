"""What is told to a tracking server, and what its configuration may say."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.jobs import EvaluateSpec, MergeSpec, TrainSpec
from loradeck.schemas.manifest import DecisionRecord
from loradeck.schemas.training import Safety, Validation, WordList
from loradeck_agent.host.config import MlflowConfig
from loradeck_agent.host.errors import ConfigError
from loradeck_agent.jobs import tracking
from loradeck_agent.jobs.tracking import outcome, settings, tracked, waiting

EVALUATES = EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64)


def test_an_evaluations_figures_are_shares_and_its_answers_stay_here() -> None:
    event = ExecutorEvent(run="j", attempt=1, seq=9, ts=1, type=ExecutorEventType.FINISHED)
    report = {"release": "a" * 64, "suite": "b" * 64, "n": 8, "exact": 6, "valid": 8, "items": [{"answer": "secret"}]}
    found = outcome(event, {"report": report})
    assert found.figures == {"exact": 0.75, "valid": 1.0, "items": 8}
    assert found.names == {"release": "a" * 64, "suite": "b" * 64}
    assert "secret" not in found.model_dump_json()
    failed = ExecutorEvent(run="j", attempt=1, seq=9, ts=1, type=ExecutorEventType.FAILED, code="diverged")
    assert (outcome(failed, None).code, outcome(failed, None).figures) == ("diverged", {})


def test_settings_are_named_by_their_place_and_hold_no_reason() -> None:
    assert dict(settings(EVALUATES)) == {
        "release": "a" * 64,
        "suite": "b" * 64,
        "route": "production",
        "max_new_tokens": "48",
        "batch": "8",
    }
    safety = Safety(dataset="c" * 64, refusals=("a phrase",), toxic=WordList(name="house", words=("a word",)))
    decision = DecisionRecord(why_weights="a reason")
    fields: dict[str, Any] = {"tenant": "acme", "name": "t", "base": "a" * 64, "datasets": ("b" * 64,)}
    spec = TrainSpec(**fields, decision=decision, safety=safety, validation=Validation(refusals=("a phrase",)))
    found = dict(settings(spec))
    assert (found["safety.toxic.name"], found["validation.every"]) == ("house", "10")
    assert not [name for name, value in found.items() if value.startswith("a ")]
    assert tracked(EVALUATES)
    assert not tracked(MergeSpec(tenant="acme", release="a" * 64))


async def test_a_host_without_room_for_the_sender_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = asyncio.Queue[int]()

    async def refused(*_: object, **__: object) -> None:
        tried.put_nowait(1)
        raise BlockingIOError("resource temporarily unavailable")

    (tmp_path / "j1-1").mkdir()
    (tmp_path / "j1-1" / "job.json").touch()
    monkeypatch.setattr(tracking, "LOOK_S", 0)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", refused)
    config = MlflowConfig(url="https://mlflow.example.com")
    running = asyncio.create_task(tracking.run(config, tmp_path, "n1", None))
    assert [await asyncio.wait_for(tried.get(), 60) for _ in range(2)] == [1, 1]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()


def test_only_folders_of_attempts_of_which_something_is_left_wait(tmp_path: Path) -> None:
    for name, files in {"j1-1": ["job.json"], "j2-1": ["job.json", "mlflow.over"], "j3-1": []}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    assert [path.name for path in waiting(tmp_path)] == ["j1-1"]


@pytest.mark.parametrize("url", ["http://mlflow.example.com", "https://me:pw@example.com", "file:///x", "mlflow"])
def test_a_token_goes_over_tls_or_stays_on_this_host(url: str) -> None:
    with pytest.raises(ValidationError, match="is no server"):
        MlflowConfig(url=url)
    for good in ("https://mlflow.example.com/tracking/", "http://127.0.0.1:5000"):
        assert MlflowConfig(url=good).url == good.rstrip("/")


def test_a_token_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret")
    file.chmod(0o640)
    config = MlflowConfig(url="https://mlflow.example.com", token=file)
    with pytest.raises(ConfigError, match="may be read by others"):
        config.read_token()
    file.chmod(0o600)
    assert config.read_token() == "secret"
