"""The embedded engine's batch from inside: what cannot be seen through the contract."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loradeck_agent.engines.inference import BASE, MAX_WAITING, Inference, Overloaded
from loradeck_agent.engines.sequence import Output, Sampling, Sequence

EOS = frozenset({2})


class Asked:
    """A request, and what came back of it."""

    def __init__(self, tokens: int, adapter: int = BASE) -> None:
        self.outputs: list[Output] = []
        self.some, self.ended = threading.Event(), threading.Event()
        sampling = Sampling(tokens, ignore_eos=True)
        self.sequence = Sequence([5, 6, 7], adapter, sampling, self._deliver, lambda ids: "", EOS)

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
    assert left.some.wait(30)
    inference.cancel(left.sequence)
    assert stays.ended.wait(30)
    later = Asked(5)
    inference.submit(later.sequence)
    assert later.ended.wait(30)
    had = len(left.tokens)
    last = Asked(5)
    inference.submit(last.sequence)
    assert last.ended.wait(30)
    assert len(left.tokens) == had < 100_000
    assert left.sequence.finished is None
    assert len(stays.tokens) == 60


def test_a_failing_step_is_told_to_its_requests_and_the_thread_goes_on(inference: Inference) -> None:
    broken, next_one = Asked(5, adapter=12345), Asked(5)
    inference.submit(broken.sequence)
    assert broken.ended.wait(30)
    assert broken.outputs[-1].finish == "error"
    assert "12345" in broken.outputs[-1].error
    inference.submit(next_one.sequence)
    assert next_one.ended.wait(30)
    assert len(next_one.tokens) == 5


def test_a_retired_adapter_stays_until_its_last_request_has_ended(
    inference: Inference, tiny_base: Path, make_adapter: object, tmp_path: Path
) -> None:
    folder = make_adapter(tiny_base, tmp_path / "a")  # type: ignore[operator]
    handle, installed = inference.install(inference.read(folder))
    installed.result(30)
    asked = Asked(300, adapter=handle)
    inference.submit(asked.sequence)
    assert asked.some.wait(30)
    inference.retire(handle)
    assert asked.ended.wait(30)
    assert len(asked.tokens) == 300
    after = Asked(3)
    inference.submit(after.sequence)  # a turn of the thread after the last request of the adapter
    assert after.ended.wait(30)
    assert handle not in inference.resident


def test_more_requests_than_may_wait_are_refused(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    idle = Inference(AutoModelForCausalLM.from_pretrained(tiny_base).eval(), 0, 1)  # not started: nothing is taken in
    for _ in range(MAX_WAITING):
        idle.submit(Asked(1).sequence)
    with pytest.raises(Overloaded):
        idle.submit(Asked(1).sequence)


def test_stopping_ends_answers_under_way_with_an_error(tiny_base: Path) -> None:
    from transformers import AutoModelForCausalLM

    inference = Inference(AutoModelForCausalLM.from_pretrained(tiny_base).eval().requires_grad_(False), 0, 1)
    inference.start()
    asked = Asked(100_000)
    inference.submit(asked.sequence)
    assert asked.some.wait(30)
    inference.stop()
    assert asked.outputs[-1].finish == "error"
