"""Which canary records count where nodes contradict each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loradeck.rules.serving.canaries import VOICES, Agreed, Stated, agreed, is_wanted
from loradeck.schemas.attestation import CanaryItem, CanaryRecord, EngineBuild

BUILD = EngineBuild(engine="fake 1", device="cpu", dtype="float32")
PROMPT = "a" * 64


def item(*tokens: int, margins: tuple[float, ...] = ()) -> CanaryItem:
    return CanaryItem(prompt=PROMPT, tokens=tokens, margins=margins or (2.0,) * len(tokens))


def said(*by: tuple[str, CanaryItem]) -> list[Stated]:
    return [
        Stated(seq, name, CanaryRecord(release="b" * 64, build=BUILD, items=(answer,)))
        for seq, (name, answer) in enumerate(by, 1)
    ]


def person(seq: int, *items: CanaryItem, withdraws: tuple[int, ...] = ()) -> Stated:
    record = CanaryRecord(release="b" * 64, build=BUILD, items=items, withdraws=withdraws, reason="because")
    return Stated(seq, "anna", record)


def test_one_nodes_record_counts_until_another_contradicts_it() -> None:
    assert agreed(said(("n1", item(1)))).items == {PROMPT: item(1)}
    two = agreed(said(("n1", item(1)), ("n2", item(9))))
    assert (two.items, two.disputed) == ({}, {PROMPT: ("n1", "n2")})


def test_a_nodes_newest_word_is_its_only_one() -> None:
    many = said(*[("n1", item(9))] * 5, ("n2", item(1)), ("n3", item(1)))
    assert agreed(many).items == {PROMPT: item(1)}
    assert agreed(said(("n1", item(9)), ("n1", item(1)))).items == {PROMPT: item(1)}


def test_answers_that_differ_only_where_neither_is_clear_are_alike() -> None:
    unclear = item(1, 2, 3, margins=(2.0, 0.1, 2.0)), item(1, 7, 3, margins=(2.0, 0.2, 2.0))
    assert agreed(said(("n1", unclear[0]), ("n2", unclear[1]))).items == {PROMPT: unclear[0]}


def test_a_job_has_a_voice_only_where_no_node_has_one() -> None:
    assert agreed(said(("job 1", item(9)), ("job 2", item(9)), ("n1", item(1)))).items == {PROMPT: item(1)}
    assert agreed(said(("job 1", item(9)))).items == {PROMPT: item(9)}


def test_a_persons_word_counts_above_nodes_and_takes_theirs_away() -> None:
    nodes = said(("n1", item(9)), ("n2", item(9)), ("n3", item(1)))
    assert agreed([*nodes, person(4, withdraws=(1, 2))]).items == {PROMPT: item(1)}
    assert agreed([*nodes, person(4, item(5))]).items == {PROMPT: item(5)}
    assert agreed([*nodes, person(4, item(5)), person(5, withdraws=(4,))]).items == {PROMPT: item(9)}
    assert agreed([*nodes, person(4, withdraws=(1, 2, 3))]) == Agreed()


def test_no_more_nodes_record_than_it_takes() -> None:
    alike = said(*[(f"n{i}", item(1)) for i in range(VOICES)])
    assert is_wanted(item(1), "n9", alike[:-1])
    assert not is_wanted(item(1), "n9", alike)
    assert is_wanted(item(2), "n9", alike)
    assert not is_wanted(item(1), "n1", alike[:2])


@given(honest=st.integers(2, 6), lies=st.lists(st.integers(2, 9), min_size=1, max_size=9), data=st.data())
def test_whatever_one_node_records_and_when_two_honest_ones_outvote_it(
    honest: int, lies: list[int], data: st.DataObject
) -> None:
    words = [("liar", item(lie)) for lie in lies] + [(f"n{i}", item(1)) for i in range(honest)]
    assert agreed(said(*data.draw(st.permutations(words)))).items == {PROMPT: item(1)}
