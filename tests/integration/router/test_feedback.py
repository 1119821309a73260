"""Feedback at a router: kept on the disk before its caller is answered, and sent to the hub by the agent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.integration.router.running import KEY, Running, entry, release
from tests.integration.router.test_answer_ledger import asked
from tests.integration.router.upstream import Upstream

from loradeck.schemas.feedback import FeedbackRow, FeedbackRows, FeedbackTaken
from loradeck_agent.host.errors import AgentError
from loradeck_agent.router import feedback
from loradeck_agent.router.feedback import FeedbackFiles
from loradeck_agent.uplink.router_files import FeedbackSender

V1 = release("v1")


async def say(router: Running, key: str = KEY, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": "acme", "request": "r-1", "kind": "thumb", "value": "down"} | fields
    headers = {"Authorization": f"Bearer {key}"}
    async with router.callers.post(f"{router.url}/v1/feedback", json=body, headers=headers) as answer:
        return answer.status, json.loads(await answer.read())


def files(router: Running) -> list[Path]:
    return sorted((router.state / "feedback").glob("*"))


async def test_feedback_is_on_the_disk_with_the_release_that_answered(process: Running, engine: Upstream) -> None:
    router = process
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1))
    request = await asked(router)
    await router.trace(1)

    assert await say(router, request=request, kind="correction", value="", text="Right.") == (
        202,
        {"request": request, "status": "taken"},
    )
    assert (await say(router, request="not-remembered"))[0] == 202

    known, other = (FeedbackRow.model_validate_json(path.read_bytes()) for path in files(router))
    assert (known.request, known.route, known.release, known.text) == (request, "production", V1.id, "Right.")
    assert other.release is None
    assert len(known.caller) == 16
    assert {path.stat().st_mode & 0o777 for path in files(router)} == {0o600}


async def test_strangers_other_tenants_and_malformed_feedback_are_refused(process: Running, engine: Upstream) -> None:
    router = process
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1))
    assert (await say(router, key="nobody's"))[0] == 401
    assert (await say(router, model="bolt"))[0] == 404
    wrong = (
        {"value": "sideways"},
        {"kind": "poem"},
        {"request": "../../x"},
        {"more": 1},
        {"kind": "label", "value": "a\0b"},
        {"text": "x" * 20_000},
    )
    for fields in wrong:
        status, problem = await say(router, **fields)
        assert (status, problem["error"]["code"]) == (400, "invalid_feedback")
    assert files(router) == []


class Hub:
    """A hub's call, and what it was given."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, list[str]]] = []
        self.refuses: AgentError | None = None
        self.full, self.code = "", "feedback_full"
        self.poison = ""

    async def give_feedback(self, tenant: str, rows: bytes) -> bytes:
        if self.refuses is not None:
            raise self.refuses
        if tenant == self.full:
            raise AgentError(self.code, f"{tenant} has given as much feedback as an hour takes")
        requests = [row.request for row in FeedbackRows.model_validate_json(rows).rows]
        if self.poison in requests:
            raise AgentError("invalid_request", "the body is not what this call takes")
        self.taken.append((tenant, requests))
        return FeedbackTaken(kept=1).model_dump_json().encode()


def row(request: str) -> FeedbackRow:
    return FeedbackRow(request=request, kind="thumb", value="up", route="production", at_ms=1)  # type: ignore[arg-type]


async def test_the_agent_sends_what_waits_by_tenant_and_keeps_it_until_the_hub_has_it(tmp_path: Path) -> None:
    kept, hub = FeedbackFiles(tmp_path / "feedback", "b1"), Hub()
    for tenant, request in (("acme", "r-1"), ("bolt.eu", "r-2"), ("acme", "r-3")):
        assert await kept.keep(tenant, row(request)) is None
    sender = FeedbackSender(tmp_path / "feedback", hub, tmp_path)  # type: ignore[arg-type]
    hub.refuses = AgentError("unreachable", "the hub is away")
    with pytest.raises(AgentError):
        await sender.send()
    assert len(list(sender.folder.iterdir())) == 3

    hub.refuses = None
    await sender.send()
    assert sorted(hub.taken) == [("acme", ["r-1", "r-3"]), ("bolt.eu", ["r-2"])]
    assert list(sender.folder.iterdir()) == []


@pytest.mark.parametrize("code", ["feedback_full", "key_unavailable"])
async def test_a_tenant_whose_hour_is_full_or_whose_key_is_not_here_holds_up_no_other(
    tmp_path: Path, code: str
) -> None:
    kept, hub = FeedbackFiles(tmp_path / "feedback", "b1"), Hub()
    hub.code = code
    for tenant, request in (("acme", "r-1"), ("bolt", "r-2")):
        await kept.keep(tenant, row(request))
    hub.full = "acme"
    with pytest.raises(AgentError, match="as much feedback"):
        await FeedbackSender(tmp_path / "feedback", hub, tmp_path).send()  # type: ignore[arg-type]
    assert hub.taken == [("bolt", ["r-2"])]
    assert [path.name.partition(".")[2] for path in (tmp_path / "feedback").iterdir()] == ["acme.feedback"]


async def test_what_the_hub_will_never_take_and_what_cannot_be_read_goes(tmp_path: Path) -> None:
    kept, hub = FeedbackFiles(tmp_path / "feedback", "b1"), Hub()
    await kept.keep("acme", row("r-1"))
    (tmp_path / "feedback" / "1-b1-9.acme.feedback").write_bytes(b"{torn")
    hub.refuses = AgentError("feedback_off", "acme keeps no feedback")
    await FeedbackSender(tmp_path / "feedback", hub, tmp_path).send()  # type: ignore[arg-type]
    assert list((tmp_path / "feedback").iterdir()) == []


async def test_a_row_that_the_hub_cannot_read_takes_no_other_with_it_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept, hub = FeedbackFiles(tmp_path / "feedback", "b1"), Hub()
    for i in range(7):
        await kept.keep("acme", row(f"r-{i}"))
    hub.poison = "r-4"
    await FeedbackSender(tmp_path / "feedback", hub, tmp_path).send()  # type: ignore[arg-type]
    assert sorted(request for _, batch in hub.taken for request in batch) == [f"r-{i}" for i in (0, 1, 2, 3, 5, 6)]
    assert [record.message for record in caplog.records if "dropped" in record.message] == [
        "feedback of acme is dropped (thumb on r-4): invalid_request: the body is not what this call takes"
    ]
    assert list((tmp_path / "feedback").iterdir()) == []


async def test_what_a_killed_router_has_half_written_is_removed_once_it_is_old(tmp_path: Path) -> None:
    folder = tmp_path / "feedback"
    folder.mkdir()
    old, new = folder / ".1-b1-0.acme.feedback.77", folder / ".2-b2-0.acme.feedback.78"
    for path in (old, new):
        path.write_bytes(b"{")
    os.utime(old, (1, 1))
    await FeedbackSender(folder, Hub(), tmp_path).send()  # type: ignore[arg-type]
    assert list(folder.iterdir()) == [new]


async def test_a_full_folder_or_disk_tells_callers_to_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "MOST", 1)
    kept = FeedbackFiles(tmp_path / "feedback", "b1")
    assert await kept.keep("acme", row("r-1")) is None
    refusal = await kept.keep("acme", row("r-2"))
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (503, "feedback_full", 60)
    (tmp_path / "file").write_text("")
    assert await FeedbackFiles(tmp_path / "file", "b1").keep("acme", row("r-3")) == refusal


async def test_a_tenant_that_floods_a_node_leaves_room_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "MOST", 6)
    kept = FeedbackFiles(tmp_path / "feedback", "b1")
    flood = [await kept.keep("acme", row(f"r-{i}")) is None for i in range(5)]
    assert flood == [True, True, True, False, False]
    assert await kept.keep("me", row("r-9")) is None
