"""Response checks on live answers: counted per release, off the callers' path, streamed answers too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.integration.router.running import Running, entry, release
from tests.integration.router.upstream import Upstream

from loradeck.schemas.content_checks import ContentChecks
from loradeck.schemas.table import ResponseChecks
from loradeck_agent.router import check_worker

V1, V2 = release("v1"), release("v2")
TICKET = json.dumps(
    {
        "type": "object",
        "properties": {"category": {"enum": ["refund", "login"]}, "urgent": {"type": "boolean"}},
        "required": ["category", "urgent"],
        "additionalProperties": False,
    }
)
GOOD = '{"category": "refund", "urgent": false}'
ENDLESS = json.dumps({"type": "string", "pattern": "^(a+)+$"})


async def judged(router: Running, rows: int) -> dict[str, Any]:
    """The only counter, once so many rows are complete."""
    await router.trace(rows)
    (counter,) = await router.stats()
    return counter


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_are_counted_as_good_or_bad_by_the_routes_schema(
    router: Running, engine: Upstream, stream: bool
) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1, checks=ResponseChecks(answer_schema=TICKET)))
    answers = [GOOD, GOOD, "refund", '{"category": "refund"}', GOOD + "}"]
    ids = [(await router.ask(stream=stream, answer=text)).headers["x-request-id"] for text in answers]
    counter = await judged(router, len(answers))
    assert (counter["finished"], counter["checked"], counter["bad"], counter["errors"]) == (5, 5, 3, 0)
    rows = {row["request"]: row for row in await router.trace(5) if row["checked"]}
    assert [rows[i]["bad"] for i in ids] == [False, False, True, True, True]
    assert [rows[i].get("fault") for i in ids] == [None, None, "not_json", "schema", "not_json"]
    assert counter["faults"] == {"not_json": 2, "schema": 1}


async def test_bad_answers_are_counted_for_the_release_that_gave_them(router: Running, engine: Upstream) -> None:
    checks = ResponseChecks(answer_schema=TICKET)
    await router.engines(("e0", engine.socket, [V1, V2]))
    await router.table(entry(V1, checks=checks))
    await router.ask(answer=GOOD)
    await router.table(entry(V2, 2, checks=checks))
    await router.ask(answer="no idea")
    await router.trace(2)
    by_release = {c["release"]: (c["generation"], c["checked"], c["bad"]) for c in await router.stats()}
    assert by_release == {V1.id: (1, 1, 0), V2.id: (2, 1, 1)}


async def test_no_sample_no_check(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1, checks=ResponseChecks(sample=0)))
    for _ in range(5):
        await router.ask(answer="")
    counter = await judged(router, 5)
    assert (counter["finished"], counter["checked"], counter["bad"]) == (5, 0, 0)
    assert not any(row["checked"] for row in await router.trace(5))


async def test_a_check_that_never_ends_holds_up_nobody_and_counts_nothing(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(
        entry(V1, checks=ResponseChecks(answer_schema=ENDLESS)),
        entry(V1, route="staging", checks=ResponseChecks(answer_schema=TICKET)),
    )
    endless = json.dumps("a" * 64 + "!")
    assert (await router.ask(answer=endless)).text == endless
    assert (await router.ask("acme/staging", answer="bad")).status == 200
    rows = {row["route"]: row for row in await router.trace(2)}
    assert (rows["production"]["checked"], rows["staging"]["checked"], rows["staging"]["bad"]) == (False, True, True)
    assert (await router.ask(answer=endless)).text == endless
    assert not (await router.trace(3))[-1]["checked"]  # that schema is given up: at once, without another child


async def test_a_schema_that_cannot_be_used_leaves_answers_unchecked(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    schemas = ('{"type": 3}', '{"$ref": "https://example.org/x.json"}', "not json")
    for generation, schema in enumerate(schemas, 1):
        await router.table(entry(V1, generation, checks=ResponseChecks(answer_schema=schema)))
        await router.ask(answer=GOOD)
    assert [row["checked"] for row in await router.trace(3)] == [False] * 3


@pytest.mark.parametrize(
    ("checks", "text", "finish", "fault"),
    [
        (ResponseChecks(), "fine", "stop", None),
        (ResponseChecks(), "", "stop", "empty"),
        (ResponseChecks(), "  \n", "stop", "empty"),
        (ResponseChecks(min_chars=0), "", "stop", None),
        (ResponseChecks(min_chars=5), "four", "stop", "short"),
        (ResponseChecks(max_chars=4), "four", "stop", None),
        (ResponseChecks(max_chars=4), "fives", "stop", "long"),
        (ResponseChecks(), "cut of", "length", None),
        (ResponseChecks(), "no reason", None, "finish_reason"),
        (ResponseChecks(finish_reasons=("stop",)), "cut of", "length", "finish_reason"),
        (ResponseChecks(refusals=("i cannot help",)), "Sorry, I CANNOT help you", "stop", "refusal"),
        (ResponseChecks(refusals=("i cannot help",)), "I can help", "stop", None),
        (ResponseChecks(answer_schema=TICKET), GOOD, "stop", None),
        (ResponseChecks(answer_schema=TICKET), "{", "stop", "not_json"),
        (ResponseChecks(answer_schema=TICKET), "{}", "stop", "schema"),
    ],
)
def test_each_check_by_name(checks: ResponseChecks, text: str, finish: str | None, fault: str | None) -> None:
    choice = check_worker.Choice(text, finish_reason=finish)
    assert next(check_worker.failed(choice, checks), None) == fault


def test_of_several_choices_one_bad_one_makes_the_answer_bad() -> None:
    def answer(*texts: str) -> str:
        choices = [{"index": i, "text": text, "finish_reason": "stop"} for i, text in enumerate(texts)]
        return json.dumps({"choices": choices})

    checks = ResponseChecks(answer_schema=TICKET)
    assert check_worker.judge(answer(GOOD, GOOD), streamed=False, checks=checks) == ("", ())
    assert check_worker.judge(answer(GOOD, "bad"), streamed=False, checks=checks) == ("not_json", ())
    assert check_worker.judge(answer(), streamed=False, checks=checks) == ("no_choice", ())


def test_a_streamed_answer_is_put_together_choice_by_choice() -> None:
    events = [
        {"choices": [{"index": 0, "delta": {"role": "assistant"}}]},
        {"choices": [{"index": 1, "delta": {"content": "b"}}]},
        {"choices": [{"index": 0, "delta": {"content": "a"}}]},
        {"choices": [{"index": 0, "delta": {"content": "A"}, "finish_reason": "stop"}]},
        {"choices": [{"index": 1, "delta": {}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"total_tokens": 3}},
    ]
    raw = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ": ping\n\ndata: [DONE]\n\n"
    assert check_worker.assemble(raw, streamed=True) == [
        check_worker.Choice("aA", finish_reason="stop"),
        check_worker.Choice("b", finish_reason="length"),
    ]


def test_a_call_of_a_tool_is_no_empty_answer() -> None:
    message = {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    raw = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})
    checks = ResponseChecks(finish_reasons=("stop", "tool_calls"), answer_schema=TICKET)
    assert check_worker.judge(raw, streamed=False, checks=checks) == ("", ())


PLUGINS = """
def polite(text):
    print("this goes into the log")
    return "please" in text

def endless(text):
    while True:
        pass

def broken(text):
    raise ValueError(text)
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three checks, in a package that is installed."""
    (tmp_path / "plug.py").write_text(PLUGINS)
    info = tmp_path / "plug-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    names = "\n".join(f"{name} = plug:{name}" for name in ("polite", "endless", "broken"))
    (info / "entry_points.txt").write_text(f"[loradeck.checks]\n{names}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def plugged(*names: str) -> dict[str, Any]:
    return {"content": ContentChecks(plugins=names)}


async def test_a_plug_in_judges_answers_and_is_counted_by_its_name(
    plugins: None, router: Running, engine: Upstream
) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1, **plugged("polite")))
    for text in ("please wait", "wait", "wait"):
        await router.ask(answer=text)
    counter = await judged(router, 3)
    assert (counter["checked"], counter["bad"], counter["faults"]) == (3, 2, {"polite": 2})


async def test_a_check_that_only_alerts_makes_no_answer_bad(router: Running, engine: Upstream) -> None:
    content = ContentChecks(canaries=("xyzzy-plugh",), alert_only=("canary",))
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1, content=content))
    for text in ("it is xyzzy-plugh", "no"):
        await router.ask(answer=text)
    counter = await judged(router, 2)
    assert (counter["checked"], counter["bad"], counter["noticed"]) == (2, 0, {"canary": 1})
    ((_, units),) = counter["noticed_votes"]["canary"]
    assert units == 1
    assert "faults" not in counter


async def test_plug_ins_have_a_share_of_a_core_and_the_other_checks_see_all(
    plugins: None, router: Running, engine: Upstream
) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(entry(V1, **plugged("polite")))
    assert router.here is not None
    await router.ask(answer="no")
    counter = await judged(router, 1)
    assert (counter["bad"], counter["asked"]) == (1, {"polite": 1})
    router.here._model_time.charge(100.0, of_plugin=True)
    await router.ask(answer="no")
    await router.ask(answer="")
    counter = await judged(router, 3)
    assert counter["faults"] == {"polite": 1, "empty": 1}
    assert counter["asked"] == {"polite": 1}
    assert router.here._model_time._under_way == 0


async def test_a_plug_in_that_never_ends_or_fails_or_is_not_there_leaves_its_own_route_unchecked(
    plugins: None, router: Running, engine: Upstream
) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(
        entry(V1, **plugged("endless")),
        entry(V1, route="staging", checks=ResponseChecks(answer_schema=TICKET)),
        entry(V1, route="broken", **plugged("broken")),
        entry(V1, route="missing", **plugged("missing")),
        entry(V1, route="polite", **plugged("polite")),
    )
    routes = ("production", "staging", "broken", "missing", "polite")
    for route in routes:
        await router.ask(f"acme/{route}", answer="bad")
    checked = {row["route"]: row["checked"] for row in await router.trace(5)}
    assert checked == {"production": False, "staging": True, "broken": False, "missing": False, "polite": True}
    await router.ask(answer="bad")
    assert not (await router.trace(6))[-1]["checked"]  # given up: at once, without another child
