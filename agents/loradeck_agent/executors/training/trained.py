"""The model under training (an adapter around the base, or the whole base), its logits, and its publication.

Logits and log-probabilities are computed at the tokens of the answers in training rows, and at no others: the head is
the largest matrix of a small model, and only answers need it.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save

from loradeck.artifacts import base_manifest, scan
from loradeck.artifacts.adapters import MANIFEST, WEIGHTS
from loradeck.artifacts.lora_config import CONFIG, LoraSettings
from loradeck.artifacts.manifests import base_files
from loradeck.schemas.ids import digest_of
from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.manifest import AdapterManifest, BaseManifest
from loradeck.schemas.training import Weights
from loradeck_agent.embedded.adapter_bank import (
    AdapterFault,
    check_tensors,
    expected_shapes,
    linear_shapes,
    read_config,
)
from loradeck_agent.executors.base import Base
from loradeck_agent.executors.protocol import BadSpec, Diverged, staged, write_file
from loradeck_agent.executors.training.memory_probe import ranks_of
from loradeck_agent.executors.training.templates import Example


@dataclass
class Trained:
    """The model under training; `names` maps names to the parameters that are trained."""

    model: Any
    names: dict[str, torch.nn.Parameter]
    config: dict[str, Any] | None
    """The adapter's configuration; None where every weight is trained."""
    shapes: Mapping[str, tuple[int, int]]
    """Shapes of the base's linear layers, by module name."""

    @contextmanager
    def as_base(self) -> Iterator[Any]:
        """Yields the model with its adapter disabled, which is the base; without an adapter, the model itself."""
        if not isinstance(self.model, PeftModel):
            yield self.model
            return
        with self.model.disable_adapter():
            yield self.model

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Has the model answer, and not train, within the block."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    @property
    def causal(self) -> Any:
        """The language model itself, with the adapter's modules inserted, without peft's wrapper."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def device(self) -> torch.device:
        """The device of the trained parameters."""
        return next(iter(self.names.values())).device

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the trained parameters, by name."""
        return {name: parameter.detach().clone() for name, parameter in self.names.items()}

    def checksum(self) -> int:
        """A number that is the same for the same bytes in all trained parameters; below 2 ** 56."""
        found = hashlib.blake2b(digest_size=7)
        for parameter in self.names.values():
            found.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return int.from_bytes(found.digest())

    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copies saved values into the trained parameters.

        Raises: BadSpec: `bad_checkpoint`: names or shapes differ; nothing is changed.
        """
        wrong = sorted(
            name
            for name in self.names.keys() | tensors.keys()
            if name not in self.names or name not in tensors or self.names[name].shape != tensors[name].shape
        )
        if wrong:
            raise BadSpec("bad_checkpoint", f"{len(wrong)} weights of the checkpoint do not fit, first {wrong[0]}")
        with torch.no_grad():
            for name, parameter in self.names.items():
                parameter.copy_(tensors[name])

    def publish(self, out: Path, base: Path, spec: TrainSpec) -> str:
        """Publishes the trained adapter or base with its manifest as the folder `out`, and returns its digest.

        Raises: Diverged: a weight is not finite, or the adapter does not fit the base. Nothing is published.
        """
        files = self._base_files(base) if self.config is None else self._adapter_files(self.config)
        with staged(out) as staging:
            for name, data in files.items():
                write_file(staging / name, data)
            manifest: BaseManifest | AdapterManifest = (
                base_manifest(staging, f"{spec.tenant}/{spec.name}", digest_of(spec)[:12])
                if self.config is None
                else _manifest(staging, spec)
            )
            write_file(staging / MANIFEST, manifest)
        return manifest.digest

    def _adapter_files(self, config: dict[str, Any]) -> dict[str, bytes]:
        tensors = {k: v.detach().cpu().contiguous() for k, v in get_peft_model_state_dict(self.model).items()}
        try:
            check_tensors(tensors, expected_shapes(LoraSettings.model_validate(config), self.shapes))
        except AdapterFault as fault:
            raise Diverged(f"the trained adapter is not published: {fault}") from fault
        return {
            WEIGHTS: save(tensors, metadata={"format": "pt"}),
            CONFIG: json.dumps(config, indent=2, sort_keys=True).encode() + b"\n",
        }

    def _base_files(self, base: Path) -> dict[str, bytes]:
        """A copy of the base's files with the trained weights, each in the base's own data type."""
        state = self.model.state_dict()
        return {
            path.name: _retyped(path, state) if path.suffix == ".safetensors" else path.read_bytes()
            for path in base_files(base)
        }


def prepared(base: Base, spec: TrainSpec, parent: Path | None) -> Trained:
    """Builds the model to train, initialised from the recipe's seed; a `parent` adapter's weights replace the random
    ones.

    Raises: BadSpec: `bad_spec`: target modules or rank do not fit the base; `bad_parent`: the parent does not fit the
    recipe.
    """
    shapes = linear_shapes(base.model)
    torch.manual_seed(spec.seed)
    if spec.gradient_checkpointing:
        base.model.gradient_checkpointing_enable({"use_reentrant": False})
    if spec.weights is Weights.FULL:
        base.model.requires_grad_(True)
        return Trained(base.model, dict(base.model.named_parameters()), None, shapes)
    _check_rank(spec, shapes)
    model, config = with_adapter(base, spec)
    if parent is not None:
        _start_from(model, parent, config, shapes)
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return Trained(model, names, config, shapes)


def with_adapter(base: Base, spec: TrainSpec) -> tuple[Any, dict[str, Any]]:
    """Wraps the base with a fresh adapter; returns the model and the adapter's configuration, free of local paths.

    Raises: BadSpec: `bad_spec`: the target modules do not fit the base.
    """
    try:
        lora = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,
            rank_pattern=dict(spec.rank_pattern),
            alpha_pattern=dict(spec.alpha_pattern),
            use_rslora=spec.rslora,
            lora_dropout=spec.dropout,
            target_modules=list(spec.target_modules),
            bias="none",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(base.model, lora)
    except ValueError as error:
        raise BadSpec("bad_spec", f"target_modules {list(spec.target_modules)} do not fit the base: {error}") from error
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in lora.to_dict().items()}
    # The manifest names the base; a path of this machine means nothing on another one.
    config.update(base_model_name_or_path=None, inference_mode=True, auto_mapping=None, revision=None)
    return model, json.loads(json.dumps(config, default=str))


def _check_rank(spec: TrainSpec, shapes: Mapping[str, tuple[int, int]]) -> None:
    """Checks that no module's rank exceeds the smaller side of its matrix: beyond it costs memory for nothing."""
    for module, rank in ranks_of(spec, shapes).items():
        if rank > (cap := min(shapes[module])):
            raise BadSpec("bad_spec", f"rank {rank} is above {cap}, the smallest side of {module}")


def _start_from(model: Any, folder: Path, config: dict[str, Any], shapes: Mapping[str, tuple[int, int]]) -> None:
    """Replaces the fresh adapter's weights by the parent's.

    Raises: BadSpec: `bad_parent`: it has other modules or ranks, or multiplies what it has learnt by another factor.
    """
    ours = LoraSettings.model_validate(config)
    try:
        theirs = read_config(folder)
        tensors = load_file(folder / WEIGHTS)
        check_tensors(tensors, expected_shapes(ours, shapes))
    except AdapterFault as fault:
        raise BadSpec("bad_parent", f"the parent adapter does not fit this recipe: {fault}") from fault
    for module in filter(ours.changes, shapes):
        now, before = ours.of(module)[1], theirs.of(module)[1]
        if not math.isclose(now, before):
            raise BadSpec(
                "bad_parent",
                f"the parent has {_scaling(theirs, module)} and this recipe {_scaling(ours, module)}: what it has "
                f"learnt would be multiplied by {now / before:g}. Train with {_scaling(theirs, module)}",
            )
    set_peft_model_state_dict(model, tensors)


def _scaling(lora: LoraSettings, module: str) -> str:
    """The alpha of a module, and whether it counts by the root of the rank, as a recipe writes them."""
    rank, factor = lora.of(module)
    alpha = factor * (math.sqrt(rank) if lora.use_rslora else rank)
    return f"alpha = {alpha:g} and rslora = {str(bool(lora.use_rslora)).lower()}"


def _retyped(path: Path, state: Mapping[str, torch.Tensor]) -> bytes:
    """Serialises a weights file of the base with the trained values, in the file's own data types.

    Raises:
        BadSpec: `bad_spec`: the model has no parameter of a name in the file.
        Diverged: a value is not finite in the base's data type.
    """
    tensors = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 - no mapping
            if key not in state:
                raise BadSpec("bad_spec", f"{path.name} holds {key}, which the model does not have")
            tensors[key] = state[key].detach().cpu().to(file.get_tensor(key).dtype).contiguous()
            if not bool(torch.isfinite(tensors[key]).all()):
                raise Diverged(f"the trained base is not published: {key} holds values that are not finite")
    data: bytes = save(tensors, metadata={"format": "pt"})
    return data


def _manifest(folder: Path, spec: TrainSpec) -> AdapterManifest:
    return AdapterManifest(
        tenant=spec.tenant,
        name=spec.name,
        base=spec.base,
        files=scan(folder),
        rank=spec.largest_rank,
        alpha=spec.alpha,
        target_modules=tuple(sorted(spec.target_modules)),
        config_hash=digest_of(spec),
        datasets=spec.datasets,
        parent=spec.parent,
        decision=spec.decision,
    )


SAME = 0.05
"""Largest difference of two logits that are the same, as a share of the largest: what bf16 may leave, and no scale."""


@dataclass(frozen=True)
class Batch:
    """Rows on the device, one below the other and padded on the right, or one behind the other (packed).

    `ids`, `mask` and `positions` are `[rows, width]`; `mask` is None where nothing is padded, `positions` where they
    begin at 0 in each row. `places` is `[2, tokens]`: from where each answer token is predicted. `targets` are these
    tokens, `rows` the number of the example that each belongs to.
    """

    ids: torch.Tensor
    mask: torch.Tensor | None
    positions: torch.Tensor | None
    places: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor

    def summed(self, each: torch.Tensor, examples: int) -> torch.Tensor:
        """Sums a value of each answer token over the example that it belongs to: `[examples]`."""
        return torch.zeros(examples, dtype=each.dtype, device=each.device).index_add(0, self.rows, each)


@dataclass(eq=False)
class AnswerReader:
    """Reads rows with the model under training. `packed`: rows of a piece stand in one sequence, without padding."""

    trained: Trained
    pad: int
    packed: bool = False

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Lays rows out on the model's device."""
        lengths = [len(example.ids) for example in examples]
        places: list[tuple[int, int]] = []
        targets, rows = [], []
        begin = 0
        for i, example in enumerate(examples):
            for at in example.answer_places:
                places.append((0, begin + at - 1) if self.packed else (i, at - 1))
                targets.append(example.ids[at])
                rows.append(i)
            begin += len(example.ids)
        if self.packed:
            ids = [[token for example in examples for token in example.ids]]
            mask, positions = None, [[at for length in lengths for at in range(length)]]
        else:
            width = max(lengths)
            ids = [example.ids + [self.pad] * (width - len(example.ids)) for example in examples]
            mask, positions = [[1] * length + [0] * (width - length) for length in lengths], None
        device = self.trained.device
        return Batch(
            torch.tensor(ids, device=device),
            None if mask is None else torch.tensor(mask, device=device),
            None if positions is None else torch.tensor(positions, device=device),
            torch.tensor(places, dtype=torch.long, device=device).reshape(-1, 2).T,
            torch.tensor(targets, dtype=torch.long, device=device),
            torch.tensor(rows, dtype=torch.long, device=device),
        )

    def hidden(self, batch: Batch) -> torch.Tensor:
        """Hidden states of all places: `[rows, width, hidden]`."""
        decoder: Any = self.trained.causal.get_decoder()
        found: torch.Tensor = decoder(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).last_hidden_state
        return found

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits of the answer tokens, fp32: `[tokens, vocabulary]`."""
        hidden = self.hidden(batch)[batch.places[0], batch.places[1]]
        logits: torch.Tensor = self.trained.causal.get_output_embeddings()(hidden).float()
        config = self.trained.causal.config.get_text_config()
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
            logits = cap * torch.tanh(logits / cap)
        logits = logits * (getattr(config, "logit_scale", None) or 1.0)  # Cohere
        return logits / (getattr(config, "logits_scaling", None) or 1.0)  # Granite

    def logps(self, batch: Batch) -> torch.Tensor:
        """Log-probability (nats) of each answer token: `[tokens]`."""
        return torch.log_softmax(self.logits(batch), -1).gather(1, batch.targets[:, None])[:, 0]

    def check_logits(self, example: Example) -> None:
        """Checks that `logits` are those that the model's own forward computes, on the beginning of a row.

        With gradients, as in training: without them bitsandbytes computes four bits on a CPU by another way, which does
        not take every shape.

        Raises: BadSpec: `bad_spec`: this base does more to them than is known here.
        """
        batch = AnswerReader(self.trained, self.pad).batch([Example(example.ids[:64], 1)])
        with self.trained.evaluating():
            ours = self.logits(batch)
            theirs = self.trained.causal(input_ids=batch.ids, use_cache=False).logits[0, :-1].float()
        if (ours - theirs).abs().max() > SAME * theirs.abs().max():
            raise BadSpec(
                "bad_spec", "this base changes its logits after its head, in a way that is not known: choose another"
            )

    @torch.no_grad()
    def check_packing(self, examples: Sequence[Example]) -> None:
        """Checks that the model computes a row alike whatever stands before it in the sequence.

        Raises: BadSpec: `bad_spec`: this model mixes rows that are packed.
        """
        if len(examples) < 2:
            return
        first, second = examples[:2]
        other = Example([token ^ 1 for token in first.ids], first.answer_at)
        seen = [self.hidden(self.batch([one, second]))[0, len(first.ids) :] for one in (first, other)]
        if not torch.equal(*seen):
            raise BadSpec("bad_spec", "this base does not keep packed rows apart; leave packing out")
