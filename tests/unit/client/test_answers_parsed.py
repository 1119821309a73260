"""Answers of the hub are parsed by validators that are built once a type."""

import pytest
from pydantic import TypeAdapter

from loradeck.client import transport as module
from loradeck.client.connect import Endpoint
from loradeck.client.transport import Transport
from loradeck.schemas.ids import Wire


def test_the_validator_of_an_answers_type_is_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer(Wire):
        """An answer of a hub."""

        count: int

    built: list[object] = []

    class Counting(TypeAdapter):  # type: ignore[type-arg]
        def __init__(self, kind: object) -> None:
            built.append(kind)
            super().__init__(kind)

    monkeypatch.setattr(module, "TypeAdapter", Counting)
    hub = Transport(Endpoint(where="a hub", base_url="http://hub", socket=None, token=None, tls=None))
    for count in (1, 2):
        assert hub.parse(Answer, b'{"count": %d}' % count).count == count
        assert [answer.count for answer in hub.parse(list[Answer], b'[{"count": %d}]' % count)] == [count]
    assert built == [Answer, list[Answer]]
