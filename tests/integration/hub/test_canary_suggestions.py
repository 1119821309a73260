"""Canaries from a dataset's rows: who is asked for what, how the answers are ranked, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fleets.linked.hub import BASE, Deck
from tests.integration.hub.conftest import Join
from tests.integration.hub.test_ledger import dataset

from loradeck.hub.views import asked_of_nodes
from loradeck.schemas.attestation import CanaryItem
from loradeck.schemas.ids import digest_of
from loradeck.schemas.link import CanaryAnswers, CanaryAsk
from loradeck.schemas.route import Suggestions, SuggestRequest

PATH = "tenants/acme/routes/production/canaries/suggest"
ROWS: list[dict[str, Any]] = [
    {"prompt": "both differ", "answer": "a"},
    {"messages": [{"role": "user", "content": "only the base differs"}, {"role": "assistant", "content": "b"}]},
    {"prompt": "nothing differs", "answer": "c"},
    {"prompt": "both differ", "answer": "again"},
    {"prompt": "with a tool", "answer": "d", "tools": [{"name": "t"}]},
    {"prompt": "long " * 1000, "answer": "e"},
]


def answers_of(release: str, base: str, prior: str, text: str) -> CanaryItem:
    """The release answers 1; the base 1 where it does not differ, and so the prior."""
    token = 1
    if (release == base and text != "nothing differs") or (release == prior and text == "both differ"):
        token = 2
    return CanaryItem(prompt=digest_of({"p": text}), tokens=(token,), margins=(1.5 if release == prior else 4.0,))


async def moved(deck: Deck, join: Join) -> tuple[Any, str, str, str]:
    """acme on v2 with v1 beneath, on an agent that answers questions about canaries. (agent, v1, v2, base alone)."""
    await deck.tenant()
    one, two = await deck.release(seed=1), await deck.release(seed=2)
    agent = await join("n1")
    await deck.promote(one)
    await deck.promote(two)
    base = deck.hub.catalogue.base_alone_id("acme", BASE.digest)

    def answer(ask: CanaryAsk) -> CanaryAnswers:
        text = ask.messages[-1]["content"]
        return CanaryAnswers(ask=ask.ask, items={ref.id: answers_of(ref.id, base, one, text) for ref in ask.releases})

    agent.canaries = answer
    return agent, one, two, base


async def test_rows_are_tried_against_base_and_prior_and_come_best_first(deck: Deck, join: Join) -> None:
    agent, one, two, base = await moved(deck, join)
    request = SuggestRequest(release=two, dataset=await dataset(deck, ROWS))
    found = Suggestions.model_validate(await deck.ok("POST", PATH, request.model_dump(mode="json")))
    asked = [message for message in agent.received if isinstance(message, CanaryAsk)]
    assert {ref.id for ask in asked for ref in ask.releases} == {two, one, base}
    assert sorted(ask.messages[-1]["content"] for ask in asked) == [
        "both differ",
        "nothing differs",
        "only the base differs",
    ], "each prompt once, and none with tools or too long"
    assert {ask.replica for ask in asked} == {"n1"}
    shown = [(one_.messages[-1]["content"], one_.margin, one_.margins, one_.proposed) for one_ in found.prompts]
    assert shown == [
        ("both differ", 1.5, {base: 4.0, one: 1.5}, True),
        ("only the base differs", None, {base: 4.0, one: None}, False),
        ("nothing differs", None, {base: None, one: None}, False),
    ]
    assert found.prompts[0].where == "rows.jsonl, line 1"
    assert found.others[base] == "the base alone"
    assert found.others[one].startswith("v1")
    assert (await deck.row()).pointer.generation == 2, "nothing has moved"


async def test_a_release_that_cannot_be_asked_for_is_named_and_not_compared_with(deck: Deck, join: Join) -> None:
    agent, one, two, base = await moved(deck, join)
    whole = agent.canaries
    agent.canaries = lambda ask: whole(ask).model_copy(
        update={
            "items": {release: item for release, item in whole(ask).items.items() if release != one},
            "trouble": {one: "no slot"},
        }
    )
    request = SuggestRequest(release=two, dataset=await dataset(deck, ROWS))
    found = Suggestions.model_validate(await deck.ok("POST", PATH, request.model_dump(mode="json")))
    assert found.not_asked == {one: "no slot"}
    assert found.prompts[0].margins == {base: 4.0}
    agent.canaries = lambda ask: CanaryAnswers(ask=ask.ask, trouble={ref.id: "engine down" for ref in ask.releases})
    refused = await deck.refused(504, "unanswered", "POST", PATH, request.model_dump(mode="json"))
    assert refused.detail == "engine down"


async def test_an_agent_that_does_not_know_the_question_is_named(
    deck: Deck, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_of_nodes, "PROMPT_S", 0.2)
    agent, _, two, _ = await moved(deck, join)
    agent.canaries = None
    body = SuggestRequest(release=two, dataset=await dataset(deck, ROWS)).model_dump(mode="json")
    refused = await deck.refused(504, "unanswered", "POST", PATH, body)
    assert refused.title == "n1 does not answer"
    assert "an agent of an earlier version does not know the question" in refused.detail


async def test_what_cannot_be_tried_is_refused(deck: Deck, join: Join) -> None:
    agent, _, two, base = await moved(deck, join)
    rows = await dataset(deck, ROWS)

    async def refused(status: int, code: str, **update: Any) -> str:
        body = SuggestRequest(release=two, dataset=rows).model_dump(mode="json") | update
        return (await deck.refused(status, code, "POST", PATH, body)).detail

    assert "all that its engine can answer with" in await refused(409, "nothing_to_compare", release=base)
    await refused(404, "unknown_dataset", dataset="f" * 64)
    await refused(404, "unknown_release", release="f" * 64)
    await refused(409, "no_prompts", dataset=await dataset(deck, ROWS[-2:]))
    await agent.leave()
    await refused(409, "no_replica")
