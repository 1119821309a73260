"""Items as the arms of a worksheet ask them, and answers that cite."""

from __future__ import annotations

import pytest

from loradeck.schemas.attestation import ItemResult
from loradeck.schemas.suite import Arm, Shot, SuiteItem
from loradeck_agent.executors.evaluation import in_process
from loradeck_agent.executors.evaluation.in_process import measured, posed

ROW = {
    "id": "i1",
    "prompt": "When does it open?",
    "answer": "9:30",
    "contexts": [{"id": "d1", "text": "It opens at 9:30."}, {"id": "d2", "text": "It closes at 6."}],
    "cites": "d1",
    "changed_on": "2026-05-01",
}
ITEM = SuiteItem.model_validate(ROW)


def test_an_arm_that_is_empty_asks_the_item_as_it_is() -> None:
    assert posed(ITEM, Arm()) == ITEM


def test_system_examples_and_texts_stand_in_this_order() -> None:
    arm = Arm(system="Be brief.", shots=(Shot(prompt="q", answer="a"),), contexts=True)
    told = [(message["role"], message["content"]) for message in posed(ITEM, arm).prompt]
    asked = "[d1] It opens at 9:30.\n[d2] It closes at 6.\n\nWhen does it open?"
    assert told == [("system", "Be brief."), ("user", "q"), ("assistant", "a"), ("user", asked)]
    own = SuiteItem.model_validate(
        {"id": "i2", "messages": [{"role": "system", "content": "As ever."}, {"role": "user", "content": "q"}]}
        | {"answer": "a"}
    )
    assert [m["content"] for m in posed(own, Arm(system="Be brief.")).prompt] == ["Be brief.\nAs ever.", "q"]


class _Base:
    """A tokenizer of characters."""

    def tokenizer(self, text: str, **_: object) -> dict[str, str]:
        return {"input_ids": text}


def result(answer: str, *, contexts: bool = True) -> ItemResult:
    given = ItemResult(id="i1", answer=answer, exact=False, valid=False, ms=3.0)
    return measured(ITEM, given, Arm(contexts=contexts), _Base(), None)  # type: ignore[arg-type]


def test_a_citation_is_checked_and_is_no_part_of_the_answer(monkeypatch: object) -> None:
    monkeypatch.setattr(in_process, "item_tokens", lambda base, item: [1] * 7)  # type: ignore[attr-defined]
    right = result("9:30 [d1]")
    assert (right.exact, right.cited, right.tokens, right.answer) == (True, True, (7, 9), "9:30 [d1]")
    assert (result("9:30").exact, result("9:30").cited) == (True, False)
    assert result("9:30 [d2]").cited is False
    assert result("9:30 [d1] [made-up]").cited is False
    assert result("9:30 [d1]", contexts=False).cited is None


def test_only_the_citation_of_a_text_is_no_part_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_process, "item_tokens", lambda base, item: [1] * 7)
    told = ROW | {"kind": "json", "answer": '{"hours": ["9:30"]}'}
    cites = SuiteItem.model_validate(told)
    only_shown = SuiteItem.model_validate({name: told[name] for name in told if name != "cites"})
    for item, cited in ((cites, True), (only_shown, None)):
        given = ItemResult(id="i1", answer='{"hours":["9:30"]} [d1]', exact=False, valid=False, ms=3.0)
        found = measured(item, given, Arm(contexts=True), _Base(), None)  # type: ignore[arg-type]
        assert (found.exact, found.valid, found.cited) == (True, True, cited)
