"""The embedded engine's batch from inside: what cannot be seen through the contract."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from loradeck_agent.embedded.adapter_bank import BASE, AdapterBank
from loradeck_agent.embedded.batch import Batch, Output, Sampling, Sequence
from loradeck_agent.embedded.inference import MAX_ROWS, MAX_WAITING, Inference, Overloaded

EOS = frozenset({2})


class Asked:
    """A request, and what came back of it."""

    def __init__(self, tokens: int, adapter: int = BASE, **sampling: Any) -> None:
        self.outputs: list[Output] = []
        self.some, self.ended = threading.Event(), threading.Event()
        chosen = Sampling(tokens, ignore_eos=True, **sampling)
        self.sequence = Sequence([5, 6, 7], adapter, chosen, self._deliver, lambda ids: "", EOS)

    def _deliver(self, output: Output) -> None:
        self.outputs.append(output)
        if len(self.outputs) > 2:
            self.some.set()
        if output.finish:
            self.ended.set()

    @property
    def tokens(self) -> list[int]:
        return [token.id for output in self.outputs for token in output.tokens]


@pytest.fixture
def inference(tiny_base: Path) -> Iterator[Inference]:
    from transformers import AutoModelForCausalLM

    inference = Inference(AutoModelForCausalLM.from_pretrained(tiny_base).eval().requires_grad_(False), 0, 1)
    inference.start()
    yield inference
    inference.stop()


def test_a_cancelled_request_leaves_the_batch_at_the_next_step_and_others_go_on(inference: Inference) -> None:
    left, stays = Asked(100_000), Asked(60)
    inference.submit(left.sequence)
    inference.submit(stays.sequence)
    assert left.some.wait(60)
    inference.cancel(left.sequence)
    assert stays.ended.wait(60)
    later = Asked(5)
    inference.submit(later.sequence)
    assert later.ended.wait(60)
    had = len(left.tokens)
    last = Asked(5)
    inference.submit(last.sequence)
    assert last.ended.wait(60)
    assert len(left.tokens) == had < 100_000
    assert left.sequence.finished is None
    assert len(stays.tokens) == 60


def test_a_failing_step_is_told_to_its_requests_and_the_thread_goes_on(inference: Inference) -> None:
    broken, next_one = Asked(5, adapter=12345), Asked(5)
    inference.submit(broken.sequence)
    assert broken.ended.wait(60)
    assert broken.outputs[-1].finish == "error"
    assert "12345" in broken.outputs[-1].error
    inference.submit(next_one.sequence)
    assert next_one.ended.wait(60)
    assert len(next_one.tokens) == 5


def _no_text(ids: list[int]) -> str:
    raise UnicodeError(f"{len(ids)} tokens are no text")


@pytest.mark.parametrize("fault", ["seed", "text"])
def test_a_row_that_cannot_take_its_token_fails_alone(inference: Inference, fault: str) -> None:
    stays = Asked(200)
    inference.submit(stays.sequence)
    assert stays.some.wait(60)
    hostile = Asked(5, temperature=1.0, seed=2**70) if fault == "seed" else Asked(5)
    if fault == "text":
        hostile.sequence.decode = _no_text
    inference.submit(hostile.sequence)
    assert hostile.ended.wait(60)
    assert hostile.outputs[-1].finish == "error"
    assert stays.ended.wait(60)
    assert (stays.outputs[-1].finish, len(stays.tokens)) == ("length", 200)


POISON = 11


def _breaking(model: Any, breaks: Callable[[torch.Tensor], bool]) -> None:
    """Makes a model's steps raise in its last layer, with the caches of the others written, by their tokens."""
    broken = False

    def begin(_: torch.nn.Module, __: Any, given: dict[str, Any]) -> None:
        nonlocal broken
        ids = given["input_ids"]
        broken = ids.shape[1] == 1 and breaks(ids)

    def fail(_: torch.nn.Module, __: Any) -> None:
        if broken:
            raise RuntimeError("this step fails")

    model.register_forward_pre_hook(begin, with_kwargs=True)
    model.model.layers[-1].register_forward_pre_hook(fail)


@pytest.mark.parametrize("together", [False, True])
def test_only_the_row_that_breaks_the_models_step_fails_and_the_answers_of_others_are_the_same(
    tiny_base: Path, together: bool
) -> None:
    from transformers import AutoModelForCausalLM

    def answers(hostile: bool) -> list[Asked]:
        model = AutoModelForCausalLM.from_pretrained(tiny_base).eval().requires_grad_(False)
        if hostile:
            _breaking(model, lambda ids: bool((ids == POISON).any()) or (together and len(ids) > 2))
        inference = Inference(model, 0, 1)
        asked = [Asked(30), Asked(20), Asked(30, temperature=1.0, seed=3)]
        for one, prompt in zip(asked, ([5, 6, 7], [9, 8], [20, 21, 22, 23]), strict=True):
            one.sequence.prompt = prompt
        if hostile:
            broken = Asked(30)
            broken.sequence.choose = lambda logits: POISON  # type: ignore[method-assign]
            asked.insert(1, broken)
        for one in asked:
            inference.submit(one.sequence)
        inference.start()
        try:
            assert all(one.ended.wait(60) for one in asked)
        finally:
            inference.stop()
        return asked

    alone, beside = answers(hostile=False), answers(hostile=True)
    failed = beside.pop(1)
    assert (failed.outputs[-1].finish, len(failed.tokens)) == ("error", 1)
    assert "this step fails" in failed.outputs[-1].error
    assert [one.outputs[-1].finish for one in beside] == ["length"] * 3
    assert [one.tokens for one in beside] == [one.tokens for one in alone]
    assert not any(POISON in one.tokens for one in alone)


def test_of_requests_that_are_begun_together_only_the_faulty_one_fails(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    inference = Inference(AutoModelForCausalLM.from_pretrained(tiny_base).eval().requires_grad_(False), 0, 1)
    first, broken, last = Asked(5), Asked(5, adapter=12345), Asked(5)
    for asked in (first, broken, last):
        inference.submit(asked.sequence)
    inference.start()
    try:
        assert all(asked.ended.wait(60) for asked in (first, broken, last))
    finally:
        inference.stop()
    assert [asked.outputs[-1].finish for asked in (first, broken, last)] == ["length", "error", "length"]
    assert "12345" in broken.outputs[-1].error


def test_a_temperature_next_to_zero_is_greedy(inference: Inference) -> None:
    cold, greedy = Asked(8, temperature=1e-320), Asked(8)
    for asked in (cold, greedy):
        inference.submit(asked.sequence)
        assert asked.ended.wait(60)
    assert cold.tokens == greedy.tokens
    assert len(cold.tokens) == 8


def test_a_retired_adapter_stays_until_its_last_request_has_ended(
    inference: Inference, tiny_base: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_adapter(tiny_base, tmp_path / "a")
    handle, installed = inference.install(inference.read(folder))
    installed.result(30)
    asked = Asked(300, adapter=handle)
    inference.submit(asked.sequence)
    assert asked.some.wait(60)
    inference.retire(handle)
    assert asked.ended.wait(60)
    assert len(asked.tokens) == 300
    after = Asked(3)
    inference.submit(after.sequence)  # a turn of the thread after the last request of the adapter
    assert after.ended.wait(60)
    assert handle not in inference._bank.resident


def test_more_requests_than_may_wait_are_refused(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    idle = Inference(AutoModelForCausalLM.from_pretrained(tiny_base).eval(), 0, 1)  # not started: nothing is taken in
    for _ in range(MAX_WAITING):
        idle.submit(Asked(1).sequence)
    with pytest.raises(Overloaded):
        idle.submit(Asked(1).sequence)
    assert idle.waiting == MAX_WAITING


def test_stopping_ends_answers_under_way_with_an_error(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    inference = Inference(AutoModelForCausalLM.from_pretrained(tiny_base).eval().requires_grad_(False), 0, 1)
    inference.start()
    asked = Asked(100_000)
    inference.submit(asked.sequence)
    assert asked.some.wait(60)
    inference.stop()
    assert asked.outputs[-1].finish == "error"


class Direct:
    """A batch driven step by step, without a thread."""

    def __init__(self, base: Path, adapters: dict[int, Path], mixed: int = 64) -> None:
        from transformers import AutoModelForCausalLM

        from loradeck_agent.embedded.adapter_bank import read_adapter

        model = AutoModelForCausalLM.from_pretrained(base).eval().requires_grad_(False)
        bank = self.bank = AdapterBank(model, mixed)
        for handle, folder in adapters.items():
            bank.add(handle, read_adapter(folder, bank.shapes, torch.float32))
        self.batch = Batch(model, bank, 0)

    def answer(self, *asked: tuple[int, list[int]]) -> list[list[int]]:
        """Answers of eight tokens to these (adapter, prompt) together."""
        rows = [self.row(adapter, prompt) for adapter, prompt in asked]
        self.batch.admit(rows)
        while self.batch.rows:
            self.batch.step()
        return [row.tokens for row in rows]

    def row(self, adapter: int, prompt: list[int]) -> Sequence:
        return Sequence(prompt, adapter, Sampling(8, ignore_eos=True), lambda _: None, lambda _: "", EOS)


def test_adapters_beyond_those_that_a_batch_mixes_answer_as_if_each_were_alone(
    tiny_base: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    folders = {n: make_adapter(tiny_base, tmp_path / f"a{n}", seed=n + 1) for n in range(4)}
    few, prompt = Direct(tiny_base, folders, mixed=2), list(range(30, 40))
    alone = {n: Direct(tiny_base, {n: folder}).answer((n, prompt))[0] for n, folder in folders.items()}
    for pair in ((0, 1), (2, 3), (1, 2), (3, 0)):
        assert few.answer(*((n, prompt) for n in pair)) == [alone[n] for n in pair]
        assert few.bank.stacked == set(pair)
    assert few.bank.resident == set(folders)
    with pytest.raises(KeyError, match="more than 2"):
        few.bank.select([0, 1, 2])


def test_a_request_whose_adapter_has_no_place_in_the_batch_is_passed_by_as_many_as_a_batch_has_rows(
    tiny_base: Path,
) -> None:
    from transformers import AutoModelForCausalLM

    idle = Inference(AutoModelForCausalLM.from_pretrained(tiny_base).eval(), 0, 1, mixed=1)
    asked = {n: Asked(1, adapter=n).sequence for n in (0, 1)}
    rows = idle._batch.rows
    rows.append(asked[0])
    idle.submit(asked[1])
    passing = [Asked(1, adapter=0).sequence for _ in range(MAX_ROWS + 3)]
    for sequence in passing:
        idle.submit(sequence)
    idle._waiting.extend(idle._arrivals)
    taken = []
    while group := idle._next_group():
        taken += group
    assert taken == passing[:MAX_ROWS]
    rows.clear()
    assert idle._next_group() == [asked[1]], "its turn comes once the batch has a place"


def test_a_shared_beginning_is_computed_once_per_adapter_and_changes_no_answer(
    tiny_base: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    folders = {0: make_adapter(tiny_base, tmp_path / "a", seed=1), 1: make_adapter(tiny_base, tmp_path / "b", seed=2)}
    begin = list(range(30, 60))
    prompts = [[*begin, 7, 8, 9], begin + [11] * 12, [*begin, 13], [*begin[:20], 15, 16]]
    alone = {
        (handle, number): Direct(tiny_base, folders).answer((handle, prompt))[0]
        for handle in (0, 1, BASE)
        for number, prompt in enumerate(prompts)
    }
    assert len({tuple(alone[handle, 0]) for handle in (0, 1, BASE)}) == 3
    direct = Direct(tiny_base, folders)

    def cost(handle: int, number: int) -> int:
        return direct.batch.to_compute(direct.row(handle, prompts[number]))

    assert [cost(handle, 0) for handle in (0, 1, BASE)] == [33] * 3
    assert direct.answer((0, prompts[0])) == [alone[0, 0]]
    # Its own next prompt begins where they part; another adapter's, and the base's, from nothing.
    assert [cost(handle, 1) for handle in (0, 1, BASE)] == [12, 42, 42]
    assert cost(0, 0) == 1
    for _ in range(2):
        asked = [(handle, number) for number in range(4) for handle in (1, 0, BASE)]
        answers = direct.answer(*((handle, prompts[number]) for handle, number in asked))
        assert answers == [alone[key] for key in asked]
    assert cost(BASE, 0) == 33
    direct.batch.forget(0)
    assert (cost(0, 0), cost(1, 3)) == (33, 1)


def test_a_prompt_that_comes_again_is_begun_at_its_last_token_until_others_took_its_room(
    tiny_base: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    direct = Direct(tiny_base, {0: make_adapter(tiny_base, tmp_path / "a", seed=1)})
    prompts = [[20 + number] * 200 for number in range(7)]

    def cost(prompt: list[int]) -> int:
        return direct.batch.to_compute(direct.row(0, prompt))

    first = [direct.answer((0, prompt))[0] for prompt in prompts[:5]]
    assert [cost(prompt) for prompt in prompts] == [1] * 5 + [200] * 2
    assert direct.answer(*((0, prompt) for prompt in prompts[:5])) == first
    direct.answer((0, prompts[0]))  # used again just now: it is not the first to go
    direct.answer((0, prompts[5]))
    direct.answer((0, prompts[6]))
    assert [cost(prompt) for prompt in prompts] == [1, 200, 200, 1, 1, 1, 1]
    direct.answer((0, [9] * 1000))
    assert [cost(prompt) for prompt in prompts] == [200] * 7
    assert cost([9] * 1000) == 1
