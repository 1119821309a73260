"""Bodies are those of the openai client itself."""

import json

import numpy as np
import pytest
from tests.detection.traffic.bodies import bodies, body, tries
from tests.detection.traffic.generator import Requests, requests
from tests.detection.traffic.kinds import Kind, is_template, kind_of
from tests.detection.traffic.route import HOUR, Route

ROUTE = Route(rate=1, templates=0.1)


@pytest.fixture(scope="module")
def part() -> Requests:
    return requests(ROUTE, 9 * HOUR, 10 * HOUR)


def of_kind(part: Requests, kind: Kind, count: int = 20) -> list[bytes]:
    """Bodies of the first fresh requests of a kind."""
    chosen = np.flatnonzero((kind_of(part.body) == kind) & ~is_template(part.body) & (part.attempt == 0))[:count]
    return bodies(ROUTE, part.body[chosen].tolist(), part.caller[chosen].tolist())


def test_tools_stand_behind_the_messages_and_have_several_kilobytes(part: Requests) -> None:
    for content in of_kind(part, Kind.TOOLS):
        names = list(json.loads(content))
        assert names.index("tools") > names.index("messages")
        assert len(content) - content.index(b'"tools"') > 4000


def test_a_schema_of_three_kilobytes_stands_behind_the_messages(part: Requests) -> None:
    endings = set()
    for content in of_kind(part, Kind.SCHEMA):
        names = list(json.loads(content))
        assert names.index("response_format") > names.index("messages")
        schema = json.loads(content)["response_format"]["json_schema"]["schema"]
        assert len(json.dumps(schema)) > 3000
        endings.add(content[content.index(b'"response_format"') :].split(b'"user"')[0])
    assert len(endings) == 1


def test_transactions_differ_in_numbers_alone(part: Requests) -> None:
    contents = [json.loads(content) for content in of_kind(part, Kind.TRANSACTION)]
    questions = [content["messages"][-1]["content"] for content in contents]
    assert len(set(questions)) == len(questions)
    letters = {"".join(letter for letter in question if not letter.isdigit()) for question in questions}
    assert len(letters) == 1


def test_conversations_are_long(part: Requests) -> None:
    for content in of_kind(part, Kind.CONVERSATION):
        assert len(json.loads(content)["messages"]) >= 12
        assert len(content) > 2500


def test_equal_numbers_are_equal_bytes_and_others_are_not() -> None:
    route = Route(rate=1, templates=0.7, callers=20, largest=0.6)
    part = requests(route, 0, 300)
    numbers, callers = part.body.tolist(), part.caller.tolist()
    contents = bodies(route, numbers, callers)
    assert len(set(zip(numbers, contents, strict=True))) == len(set(numbers))
    assert len(set(contents)) == len(set(numbers)) < len(numbers)


def test_a_body_asks_for_a_stream_where_the_answer_is_streamed(part: Requests) -> None:
    for number, caller, streamed in zip(part.body[:50], part.caller[:50], part.streamed[:50], strict=True):
        content = json.loads(body(ROUTE, int(number), int(caller)))
        assert content.get("stream", False) == streamed
        assert content["user"] == f"caller-{caller}"


def test_the_client_itself_sends_the_same_body_at_most_twice_again(part: Requests) -> None:
    number, caller = int(part.body[0]), int(part.caller[0])
    assert len(tries(ROUTE, number, caller)) == 1
    assert len(tries(ROUTE, number, caller, 503)) == 2
    for_ever = tries(ROUTE, number, caller, 500, 503, 500, 500)
    assert len(for_ever) == 3
    assert set(for_ever) == {body(ROUTE, number, caller)}


def test_one_key_names_no_user() -> None:
    route = Route(rate=1, is_one_key=True)
    part = requests(route, 0, 600)
    assert "user" not in json.loads(body(route, int(part.body[0]), 0))
