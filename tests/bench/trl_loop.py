"""trl's own trainer on the rows of a recipe: peft and accelerate as they come."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tests.fakes.word_model import MODULES
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Seconds of each step; ends the run after `stop_at` of them, with a checkpoint."""

    def __init__(self, stop_at: int | None) -> None:
        self.seconds: list[float] = []
        self._stop_at, self._began = stop_at, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds.append(time.monotonic() - self._began)
        if state.global_step == self._stop_at:
            control.should_save = control.should_training_stop = True


def by_trl(task: dict[str, Any], measured: Callable[[Callable[[], object]], dict[str, float]]) -> dict[str, Any]:
    """Trains as the task says; returns `tokens_per_s` without the first step, `peak_mb` and the `adapter`'s file."""
    out, clock, counted = Path(task["out"]), Clock(task.get("stop_at")), list[int]()

    def work() -> None:
        settings: dict[str, Any] = {"dtype": torch.bfloat16 if task.get("precision") else torch.float32}
        if task.get("precision") == "nf4":
            four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
            settings["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, **four
            )
            settings["device_map"] = {"": "cpu"}
        rows = [json.loads(line) for line in Path(task["rows"]).read_text().splitlines()]
        data = [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["answer"]}],
            }
            for row in rows
        ]
        trainer = SFTTrainer(
            AutoModelForCausalLM.from_pretrained(task["base"], **settings),
            args=SFTConfig(
                output_dir=str(out),
                max_steps=task["steps"],
                per_device_train_batch_size=4,
                learning_rate=1e-3,
                max_length=96,
                gradient_checkpointing=bool(task.get("gradient_checkpointing")),
                bf16=False,
                use_cpu=True,
                seed=1,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(data),
            processing_class=AutoTokenizer.from_pretrained(task["base"]),
            peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=list(MODULES), task_type="CAUSAL_LM"),
            callbacks=[clock],
        )
        collate = trainer.data_collator

        def counting(features: Any) -> Any:
            batch = collate(features)
            counted.append(int(batch["attention_mask"].sum()))
            return batch

        trainer.data_collator = counting
        trainer.train(resume_from_checkpoint=bool(task.get("resume")) or None)
        if not clock.seconds or task.get("stop_at") is None:
            trainer.save_model(str(out))

    found = measured(work)
    tokens = sum(counted[1 : len(clock.seconds)])
    return {
        "tokens_per_s": tokens / max(sum(clock.seconds[1:]), 1e-9),
        "peak_mb": found["peak_mb"],
        "adapter": str(out / "adapter_model.safetensors"),
    }
