"""Checkpoints of a run: complete or absent, and verified before a run resumes from one.

A checkpoint is written under a staging name, each file synced, then its `manifest.json` with the size and hash of every
file; then the folder gets its name, and only then `LAST_GOOD` names it. Reading starts at `LAST_GOOD`: a folder with a
higher number that it does not name was never finished. A damaged checkpoint is skipped for the one before, with the
reason. Tensors are safetensors, never pickles.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from safetensors.torch import load_file, save

from loradeck.artifacts import BadArtifact, scan, verify_folder
from loradeck.schemas.ids import Digest, Strict
from loradeck.schemas.jobs import TrainSpec
from loradeck.schemas.manifest import FileEntry
from loradeck_agent.executors.protocol import BadSpec, staged, write_file
from loradeck_agent.host.state_folder import write_durably
from loradeck_agent.store.checkpoints import LAST_GOOD, checkpoint_name

MANIFEST = "manifest.json"
STATE = "state.json"

Tensors = Mapping[str, torch.Tensor]


class ResumeToken(Strict):
    """The facts that must be equal for a run to resume from a checkpoint; stored in each checkpoint's manifest.

    All but `world`, the processes that took its steps: with others rounding differs.
    """

    base: Digest
    datasets: tuple[Digest, ...]
    recipe: Digest
    seed: int
    batch: int
    accumulation: int
    world: int

    @staticmethod
    def of(spec: TrainSpec, recipe: Digest, world: int) -> ResumeToken:
        """Builds the token of a run. `recipe` is the digest of `spec`, `world` the number of its processes."""
        own = spec.model_dump(include={"base", "datasets", "seed", "batch", "accumulation"})
        return ResumeToken(recipe=recipe, world=world, **own)

    def check(self, saved: ResumeToken) -> None:
        """Compares this run's token with the one saved in a checkpoint; another number of processes may go on.

        Raises: BadSpec: `resume_mismatch`, naming each field that differs.
        """
        ours, theirs = (token.model_dump(mode="json", exclude={"world"}) for token in (self, saved))
        differing = [f"{field} was {theirs[field]}, is {ours[field]}" for field in ours if ours[field] != theirs[field]]
        if differing:
            raise BadSpec(
                "resume_mismatch",
                f"the checkpoint belongs to another run: {'; '.join(differing)}. Restore those settings, or start anew",
            )


class CheckpointManifest(Strict):
    """Contents of a checkpoint's `manifest.json`: its step, the run's token, and size and hash of every file."""

    v: int = 1
    step: int = Field(ge=1)
    token: ResumeToken
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory: named groups of tensors, and the loop's state as JSON."""

    step: int
    tensors: Mapping[str, dict[str, torch.Tensor]]
    state: dict[str, Any]


@dataclass(eq=False)
class CheckpointFolder:
    """The folder with the checkpoints of one run, shared by all its attempts."""

    path: Path
    _token: ResumeToken
    _keep: int

    def save(self, step: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any]) -> Path:
        """Writes a checkpoint, makes it the last good one and removes those beyond `keep`.

        Raises: OSError: the disk refused; the last good checkpoint stays the one before.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = self.path / checkpoint_name(step)
        with staged(target) as staging:
            for group, values in tensors.items():
                kept = {k: v.detach().cpu().contiguous() for k, v in values.items()}
                write_file(staging / f"{group}.safetensors", save(kept))
            write_file(staging / STATE, json.dumps(state, sort_keys=True, allow_nan=False).encode())
            manifest = CheckpointManifest(step=step, token=self._token, files=scan(staging))
            write_file(staging / MANIFEST, manifest.model_dump_json(indent=1).encode())
        write_durably(self.path / LAST_GOOD, target.name.encode())
        for old in self._complete()[self._keep :]:
            shutil.rmtree(old)
        return target

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """Reads the newest undamaged checkpoint, with the reasons why newer ones were skipped.

        Returns None and no reasons if no checkpoint was ever finished.

        Raises: BadSpec: `resume_mismatch`: it belongs to another run; `bad_checkpoint`: all finished ones are damaged.
        """
        try:
            last = (self.path / LAST_GOOD).read_text().strip()
        except FileNotFoundError:
            return None, []
        named = self.path / last
        older = [folder for folder in self._complete() if folder.name < last]
        reasons: list[str] = []
        for folder in (named, *older):
            try:
                return self._read(folder), reasons
            except (BadArtifact, OSError, ValueError) as error:
                reasons.append(f"{folder.name} is not whole: {error}")
        raise BadSpec(
            "bad_checkpoint",
            f"{'; '.join(reasons)}. No earlier checkpoint is left; remove {self.path.name} to start anew",
        )

    def _read(self, folder: Path) -> Checkpoint:
        """Reads a checkpoint and verifies it against its manifest.

        Raises:
            BadArtifact, OSError, ValueError: the folder is damaged.
            BadSpec: `resume_mismatch`: it belongs to another run.
        """
        try:
            manifest = CheckpointManifest.model_validate_json((folder / MANIFEST).read_bytes())
        except ValidationError as error:
            raise ValueError(f"{MANIFEST}: {error.errors()[0]['msg']}") from error
        self._token.check(manifest.token)
        verify_folder(manifest.files, folder, beside={MANIFEST})
        groups = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
        missing = {"weights", "optimizer"} - groups.keys()
        if missing:
            raise ValueError(f"it has no {' and no '.join(sorted(missing))}")
        return Checkpoint(manifest.step, groups, json.loads((folder / STATE).read_bytes()))

    def _complete(self) -> list[Path]:
        """Folders of finished checkpoints, newest first."""
        return sorted((p for p in self.path.glob("step-*") if p.is_dir()), reverse=True)


def optimizer_tensors(optimiser: torch.optim.Optimizer, names: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The optimiser's state as tensors, each under `NAME/KEY`, with the name of its parameter."""
    return {
        f"{name}/{key}": value if isinstance(value, torch.Tensor) else torch.tensor(value)
        for name, parameter in names.items()
        for key, value in optimiser.state[parameter].items()
    }


def restore_optimizer(
    optimiser: torch.optim.Optimizer, names: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Restores a saved optimiser state; `names` maps names to parameters as in `optimizer_tensors`.

    Raises: BadSpec: `bad_checkpoint`: the state is incomplete or belongs to other parameters.
    """
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        name, _, part = key.rpartition("/")
        found.setdefault(name, {})[part] = value
    if found.keys() != names.keys() or any(part.keys() != {"step", "exp_avg", "exp_avg_sq"} for part in found.values()):
        missing = sorted(names.keys() - found.keys())
        raise BadSpec(
            "bad_checkpoint",
            "the checkpoint's optimizer state is not that of the recipe's weights"
            + (f": {len(missing)} missing, first {missing[0]}" if missing else ""),
        )
    for name, parameter in names.items():
        # AdamW counts its steps on the CPU.
        kept = {part: value if part == "step" else value.to(parameter.device) for part, value in found[name].items()}
        optimiser.state[parameter].update(kept)
