"""Executors where the model is not on the CPU: every tensor they make is where the model is."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.integration.executors.running import Bench
from tests.other_device import DEVICE, OtherDevice
from transformers import AutoModelForCausalLM

from loradeck.schemas.executor import ExecutorSpec
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import TrainSpec
from loradeck_agent.executors.base import load_base
from loradeck_agent.executors.evaluation.in_process import greedy, likelihoods
from loradeck_agent.executors.merge import _log_probs
from loradeck_agent.executors.protocol import Run
from loradeck_agent.executors.training.checkpoints import CheckpointFolder, ResumeToken
from loradeck_agent.executors.training.loop import Loop
from loradeck_agent.executors.training.objectives import Supervised
from loradeck_agent.executors.training.process_group import World
from loradeck_agent.executors.training.templates import Example
from loradeck_agent.executors.training.trained import AnswerReader, prepared
from loradeck_agent.executors.training.validation import HeldBack, Looks

ROWS = [Example([*b"q: what is ", n, *b"a: ", 2 * n, 2], 14) for n in range(60, 66)]
TALK = [Example([*b"q: say ", n, *b"a: ", n, 2], 11, general=True) for n in range(70, 73)]
RECIPE: dict[str, Any] = {
    "steps": 4,
    "batch": 4,
    "checkpoint_every": 2,
    "learning_rate": 1e-2,
    "kl": 0.1,
    "validation": {"rows": 2, "every": 2, "answers": 2, "max_new_tokens": 4},
}
CANARY = ({"role": "user", "content": "hello"},)


def trained(bench: Bench, device: torch.device, checkpoints: Path) -> tuple[dict[str, Any], str]:
    """What a run found, and its adapter's digest."""
    recipe = bench.recipe(**RECIPE)
    folder = bench.write(recipe, {}, canaries=(CANARY,), checkpoints=str(checkpoints))
    current = Run(ExecutorSpec.model_validate_json((folder / "spec.json").read_bytes()))
    spec = current.spec.spec
    assert isinstance(spec, TrainSpec)
    assert spec.validation is not None
    base = load_base(current.spec)
    base.model.to(device)
    made = prepared(base, spec, None)
    assert {parameter.device for parameter in made.model.parameters()} == {device}
    objective = Supervised(AnswerReader(made, base.pad), spec.kl, spec.mixing is not None)
    looks = Looks(current, base, made, objective, HeldBack(ROWS[4:], TALK[2:]), spec.validation)
    kept = CheckpointFolder(checkpoints, ResumeToken.of(spec, digest_of(spec), 1), spec.keep)
    found = Loop(current, spec, made, objective, ROWS[:4], TALK[:2], looks, kept, World()).run()
    told = {key: found[key] for key in ("steps", "loss", "grad_norm", "looks", "chosen_step")}
    return told, made.publish(Path(current.spec.out), bench.base, spec)


def test_a_run_with_its_looks_on_another_device_is_the_cpus_bit_for_bit_resumed_or_not(bench: Bench) -> None:
    wanted = trained(bench, torch.device("cpu"), bench.root / "here")
    assert wanted[0]["looks"][-1].keys() >= {"exact", "canaries_changed", "general_loss"}
    with OtherDevice():
        assert trained(bench, DEVICE, bench.root / "there") == wanted
        assert (bench.root / "there" / "LAST_GOOD").read_text() == "step-00000002"
        assert trained(bench, DEVICE, bench.root / "there") == wanted


def test_answers_choices_and_the_merges_probe_are_the_same_on_another_device(tiny_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()
    prompts, answers = [[65, 66, 67], [68, 69]], [[70, 71], [72]]
    found = []
    for where in (nullcontext(), OtherDevice()):
        with where:
            model.to(torch.device("cpu") if isinstance(where, nullcontext) else DEVICE)
            told = [answer.tokens for answer in greedy(model, prompts, 8, eos=2, pad=0)]
            held = likelihoods(model, prompts[0], answers, pad=0)
            said = [part.cpu().argmax(-1).tolist() for part in _log_probs(model, prompts, answers, lambda: None)]
            found.append((told, held, said))
    (told, held, said), there = found
    assert there == (told, pytest.approx(held), said)


def test_a_tensor_that_is_left_on_the_cpu_does_not_go_with_a_model_that_is_elsewhere(tiny_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()
    with OtherDevice():
        model.to(DEVICE)
        with pytest.raises(RuntimeError, match="same device"):
            model(input_ids=torch.tensor([[65, 66]]))
