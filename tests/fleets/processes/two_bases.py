"""A fleet whose nodes have an engine of each of two bases: the same weights, and another chat template."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.word_model import reference_answers
from tests.fleets.processes.fleet import LABELS, PROMPTS, TENANT, Material

from incident.fleet import Fleet, Node
from incident.incident import Cast
from incident.traffic import Prompt

OTHER_TEMPLATE = (
    "{% for m in messages %}<|im_start|> {{ m.role }} w3 {{ m.content }} <|im_end|> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant w4 {% endif %}"
)


@dataclass
class TwoBases(Fleet):
    """Engine `b1` runs the base, `b2` the other one.

    `hold_prior_s`: b1 runs only while something wants it, and for so long after a move; None: it always runs.
    `slots_of`: (node, engine) -> slots, where they are not the fleet's. `without`: nodes that have no b2.
    `one_at_a_time`: memory holds one of the two engines, and each runs only while something wants it.
    """

    other: Path = field(default_factory=Path)
    hold_prior_s: float | None = None
    slots_of: dict[tuple[str, str], int] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    one_at_a_time: bool = False

    def engine_tables(self, node: Node) -> str:
        first = self._table(node, "b1", self.base)
        if self.hold_prior_s is not None and not self.one_at_a_time:
            first += 'start = "wanted"\n'
        return first + ("" if node.name in self.without else "\n" + self._table(node, "b2", self.other))

    def _table(self, node: Node, name: str, base: Path) -> str:
        table = self.engine_table(name, base)
        slots = self.slots_of.get((node.name, name), self.slots)
        table = table.replace(f"slots = {self.slots}\n", f"slots = {slots}\n")
        return table + ('start = "wanted"\nmemory_gb = 60\n' if self.one_at_a_time else "")

    def write_configs(self) -> None:
        super().write_configs()
        if self.hold_prior_s is not None:
            for node in self.nodes:
                node.config.write_text(f"hold_prior_s = {self.hold_prior_s}\n{node.config.read_text()}")
        if self.one_at_a_time:
            for node in self.nodes:
                node.config.write_text(f"memory_gb = 80\n{node.config.read_text()}")


def write_other_base(base: Path, folder: Path) -> Path:
    """The same weights with another chat template: another base."""
    from transformers import AutoTokenizer

    shutil.copytree(base, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = OTHER_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def lay_other(fleet: Fleet, other: Path, material: Material, cast: Cast) -> Cast:
    """Registers the other base, and the same adapters on it as x1 to x3; the cast with their answers too."""
    digest = fleet.cli("base", "add", str(other), "--model-id", "tests/words", "--revision", "2")["digest"]
    answers = reference_answers(other, list(material.adapters), PROMPTS)
    words = ("--tenant", TENANT, "--name", "words", "--base", digest, "--why", "tests")
    moved = {
        f"x{label[1:]}": fleet.cli("adapter", "import", str(folder), *words)["release"]
        for label, folder in zip(LABELS, material.adapters, strict=True)
    }
    prompts = [
        Prompt(
            id=prompt.id,
            messages=prompt.messages,
            answers={**prompt.answers, **{release: answers[k][n] for k, release in enumerate(moved.values())}},
        )
        for n, prompt in enumerate(cast.prompts)
    ]
    return Cast(tenant=cast.tenant, releases={**cast.releases, **moved}, prompts=prompts)
