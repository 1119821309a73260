"""What becomes of a move whose answer is lost: asked for by its key, never made twice, never guessed."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest
from tests.unit.client.client_script import Script, problem

from loradeck.client.api import HubApi
from loradeck.client.errors import ApiError, HubUnreachable, NotUnderstood, OutcomeUnknown
from loradeck.schemas.moves import MoveResult, RollbackRequest

KEY = "k" * 32
REQUEST = RollbackRequest(expected_generation=4, to="a" * 64, idempotency_key=KEY)
DONE = MoveResult(events=(), rev=9, epoch=1)
ROLLBACK = "POST tenants/acme/routes/production/rollback"
ASK = f"GET moves/{KEY}"

Hubs = Callable[..., HubApi]


def ok(result: MoveResult = DONE) -> httpx.Response:
    return httpx.Response(200, content=result.model_dump_json())


def lost() -> Exception:
    return httpx.ReadError("connection reset")


def away() -> Exception:
    return httpx.ConnectError("refused")


async def move(hub: HubApi) -> MoveResult:
    return await hub.send("acme", "production", REQUEST, wait="flipped", timeout=10)


async def test_a_move_that_is_answered_is_sent_once_with_its_key_and_wait(hub_of: Hubs) -> None:
    script = Script(ok())
    assert await move(hub_of(script)) == DONE
    assert script.calls == [ROLLBACK]
    assert json.loads(script.asked[0].content)["idempotency_key"] == KEY
    assert dict(script.asked[0].url.params) == {"wait": "flipped", "timeout": "10.0"}
    # The hub may wait as long as it was asked to before this side gives up.
    assert script.asked[0].extensions["timeout"]["read"] > 10


async def test_a_refusal_is_the_hubs_problem_and_nothing_is_sent_again(hub_of: Hubs) -> None:
    script = Script(problem(409, "moved", detail="gen 5 is current", fix="look again"))
    with pytest.raises(ApiError) as error:
        await move(hub_of(script))
    assert (error.value.code, error.value.detail, error.value.fix) == ("moved", "gen 5 is current", "look again")
    assert script.calls == [ROLLBACK]


async def test_a_move_that_never_left_is_no_unknown_outcome(hub_of: Hubs) -> None:
    script = Script(away())
    with pytest.raises(HubUnreachable, match="nothing was sent"):
        await move(hub_of(script))
    assert script.calls == [ROLLBACK]


@pytest.mark.parametrize("error", [httpx.ReadError("x"), httpx.ReadTimeout("x"), httpx.RemoteProtocolError("x")])
async def test_a_lost_answer_is_asked_for_by_the_key_and_the_move_not_made_again(
    hub_of: Hubs, error: Exception
) -> None:
    script = Script(error, ok(DONE.model_copy(update={"replayed": True})))
    assert (await move(hub_of(script))).replayed
    assert script.calls == [ROLLBACK, ASK]


async def test_a_move_that_never_arrived_is_sent_again_under_the_same_key(hub_of: Hubs) -> None:
    script = Script(lost(), problem(404, "unknown_key"), ok())
    assert await move(hub_of(script)) == DONE
    assert script.calls == [ROLLBACK, ASK, ROLLBACK]
    assert script.asked[0].content == script.asked[2].content


async def test_a_promote_that_is_still_being_prepared_is_joined_again_for_the_time_that_is_left(hub_of: Hubs) -> None:
    script = Script(lost(), ok(DONE.model_copy(update={"pending": "p1"})), ok())
    assert await move(hub_of(script)) == DONE
    assert script.calls == [ROLLBACK, ASK, ROLLBACK]
    assert 0 < float(script.asked[2].url.params["timeout"]) < 10


async def test_a_refusal_of_the_second_sending_is_the_outcome(hub_of: Hubs) -> None:
    script = Script(lost(), problem(404, "unknown_key"), problem(409, "target_changed"))
    with pytest.raises(ApiError) as error:
        await move(hub_of(script))
    assert error.value.code == "target_changed"


async def test_a_hub_that_stays_away_leaves_the_outcome_unknown_and_names_the_key(hub_of: Hubs) -> None:
    script = Script(lost(), *[away() for _ in range(1000)])
    with pytest.raises(OutcomeUnknown) as error:
        await move(hub_of(script, 0.2))
    assert error.value.key == KEY
    assert KEY in error.value.fix
    assert script.calls.count(ROLLBACK) == 1
    assert script.calls.count(ASK) >= 1


async def test_a_hub_that_comes_back_settles_it(hub_of: Hubs) -> None:
    script = Script(lost(), away(), lost(), lost(), ok())
    assert await move(hub_of(script)) == DONE
    assert script.calls.count(ROLLBACK) == 1


@pytest.mark.parametrize("code", ["outcome_unknown", "internal"])
async def test_a_hub_that_does_not_know_itself_is_asked_again(hub_of: Hubs, code: str) -> None:
    script = Script(problem(503, code), problem(503, "starting"), ok())
    assert await move(hub_of(script)) == DONE
    assert script.calls == [ROLLBACK, ASK, ASK]


async def test_a_refused_question_says_nothing_about_the_move(hub_of: Hubs) -> None:
    script = Script(lost(), *[problem(401, "unauthenticated") for _ in range(1000)])
    with pytest.raises(OutcomeUnknown):
        await move(hub_of(script, 0.2))


async def test_an_answer_that_is_not_understood_is_settled_like_a_lost_one(hub_of: Hubs) -> None:
    script = Script(httpx.Response(200, content=b"<html>"), ok())
    assert await move(hub_of(script)) == DONE
    assert script.calls == [ROLLBACK, ASK]


async def test_reading_is_tried_once_more_and_writing_is_not(hub_of: Hubs) -> None:
    script = Script(lost(), httpx.Response(200, content=b"[]"))
    assert await hub_of(script).jobs() == []
    script = Script(lost())
    with pytest.raises(OutcomeUnknown) as error:
        await hub_of(script).create_key("acme")
    assert error.value.key is None
    assert script.calls == ["POST tenants/acme/keys"]


async def test_what_is_no_hub_is_said_to_be_none(hub_of: Hubs) -> None:
    script = Script(httpx.Response(502, content=b"<html>bad gateway", headers={"content-type": "text/html"}))
    with pytest.raises(NotUnderstood, match=r"not from a Loradeck hub \(HTTP 502, text/html\)"):
        await hub_of(script).jobs()


async def test_an_answer_of_another_version_names_the_field(hub_of: Hubs) -> None:
    script = Script(httpx.Response(200, content=b'{"ok": true, "rev": "many"}'))
    with pytest.raises(NotUnderstood) as error:
        await hub_of(script).verify_audit()
    assert "rev" in error.value.detail
    assert "many" not in str(error.value)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a?b", "a#b", "a%2fb", "a b", "é", "x" * 101])
async def test_a_name_that_would_change_the_path_is_refused_before_anything_is_sent(hub_of: Hubs, name: str) -> None:
    from loradeck.client.errors import ClientError

    script = Script()
    with pytest.raises(ClientError, match="is not a name"):
        await hub_of(script).row(name, "production")
    assert script.calls == []


async def test_a_rewind_sends_the_plans_generations_and_never_a_dry_run(hub_of: Hubs) -> None:
    from loradeck.schemas.moves import RewindRequest

    script = Script(ok())
    request = RewindRequest(to_rev=3, idempotency_key=KEY, generations={"acme/production": 4})
    await hub_of(script).rewind(request)
    sent = json.loads(script.asked[0].content)
    assert (sent["dry_run"], sent["generations"]) == (False, {"acme/production": 4})
