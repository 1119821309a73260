"""What an `adapter_config.json` says of a LoRA adapter: the modules that it changes, with which rank, and how strongly.

The rules are those of peft, by which adapters are trained, and of vLLM 0.32, by which they are served. Both match names
with Python's regular expressions, which a hostile one keeps busy for ever. So here an expression for modules is matched
in linear time or refused, and a key of a pattern, which vLLM matches itself, may hold little more than names.
"""

import json
import math
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, StrictBool, StrictFloat, StrictInt, StringConstraints
from pydantic import ValidationError as Invalid
from pydantic_core import SchemaError, SchemaValidator, core_schema

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.tensors import unique

CONFIG = "adapter_config.json"

_ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
"""The values allowed for each setting. Other ways to initialise an adapter change the base's weights under it."""

_UNSUPPORTED = (
    "use_qalora",
    "use_bdlora",
    "modules_to_save",
    "fan_in_fan_out",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "lora_bias",
    "alora_invocation_tokens",
    "arrow_config",
    "megatron_config",
)
"""Settings that must be absent or empty: engines and the merge handle none of them."""

_ALL_LINEAR = "all-linear"
_NOT_LINEAR = ("lm_head", "embed_tokens")
_PATTERN_KEYS = 1024

MODULES = 16_384
"""Modules that an adapter may change. Llama 3 405B has 882."""

MATCHES = 2**21
"""Pairs of a module and a key of a pattern that are held against each other: a key of each kind for 1,024 modules."""

_KEY = re.compile(
    r"\^?(?:\.\*)?(?:[\w.\-\[\]]|\\[.d])*(?:\((?:\?:)?(?:[\w.\-|]|\\\.)+\))?(?:[\w.\-\[\]]|\\[.d])*\$?", re.ASCII
)
"""Names with classes such as [0-3], one `.*` before them and one choice among names: no key is slow to match."""


@lru_cache(maxsize=32)
def _linear(expression: str) -> SchemaValidator:
    """Compiles an expression for whole names. Raises: SchemaError: it has a look-around or a back-reference."""
    return SchemaValidator(core_schema.str_schema(pattern=f"^(?:{expression})$", regex_engine="rust-regex"))


@lru_cache(maxsize=2 * _PATTERN_KEYS)
def _end_of_name(key: str) -> re.Pattern[str]:
    # `(.*\.)?` before `.*` or `^` matches nothing else, and takes a time that grows with the square of the name.
    return re.compile(rf"({key})$" if key.startswith((".*", "^")) else rf"(.*\.)?({key})$")


def _expression(text: str) -> str:
    try:
        re.compile(text)
        _linear(text)
    except (re.error, RecursionError, SchemaError) as error:
        raise ValueError(f"it cannot be matched in linear time; list the modules instead: {error}") from error
    return text


def _key(text: str) -> str:
    if _KEY.fullmatch(text) is None:
        raise ValueError("a key is the end of a module's name; spell the names out")
    try:
        _end_of_name(text)
    except re.error as error:
        raise ValueError(str(error)) from error
    return text


_Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Names = Annotated[frozenset[_Name], Field(max_length=MODULES)]
_Modules = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(_expression)] | _Names
_Key = Annotated[_Name, AfterValidator(_key)]
_Rank = Annotated[StrictInt, Field(ge=1, le=512)]
_Alpha = Annotated[StrictInt | StrictFloat, Field(gt=0, le=10**12)]


class LoraSettings(BaseModel, frozen=True, extra="ignore", defer_build=True):
    """The settings of an `adapter_config.json` that decide what an adapter does, under peft's names for them."""

    r: _Rank
    lora_alpha: _Alpha
    target_modules: _Modules
    exclude_modules: _Modules | None = None
    layers_to_transform: StrictInt | frozenset[StrictInt] | None = None
    layers_pattern: Annotated[str, StringConstraints(max_length=200)] | _Names | None = None
    rank_pattern: dict[_Key, _Rank] | None = Field(None, max_length=_PATTERN_KEYS)
    alpha_pattern: dict[_Key, _Alpha] | None = Field(None, max_length=_PATTERN_KEYS)
    use_rslora: StrictBool | None = None
    use_dora: StrictBool | None = None

    @property
    def largest(self) -> int:
        """The rank that an engine must have room for: vLLM lays every module out with it."""
        return max((self.r, *(self.rank_pattern or {}).values()))

    def changes(self, module: str) -> bool:
        """Says whether the adapter changes a linear layer of its base, by the layer's name."""
        targets = self.target_modules
        if self.exclude_modules and _matches(self.exclude_modules, module):
            return False
        if isinstance(targets, str) and targets.lower() == _ALL_LINEAR:
            return module.rpartition(".")[2] not in _NOT_LINEAR
        if isinstance(targets, str) or module in targets or not _matches(targets, module):
            return bool(_matches(targets, module))
        layers = self.layers_to_transform
        if layers is None or layers == frozenset():
            return True
        return self._layer(module) in ((layers,) if isinstance(layers, int) else layers)

    def of(self, module: str) -> tuple[int, float]:
        """Returns the rank of a module's matrices, and the factor by which their product is added to its weight."""
        rank = _first(self.rank_pattern, module, self.r)
        alpha = _first(self.alpha_pattern, module, self.lora_alpha)
        return int(rank), alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def named(self, modules: Collection[str]) -> tuple[str, ...]:
        """Returns the target modules for a manifest: the list as it is, or what an expression found in `modules`."""
        targets = self.target_modules
        return tuple(sorted({m.rpartition(".")[2] for m in modules} if isinstance(targets, str) else targets))

    def _layer(self, module: str) -> int | None:
        """The number of a module's layer: after one of `layers_pattern`, or the first one in its name."""
        inside = {self.layers_pattern} if isinstance(self.layers_pattern, str) else self.layers_pattern
        parts = module.split(".")
        for at in range(1, len(parts) - 1):
            if parts[at].isdecimal() and (parts[at - 1] in inside if inside and any(inside) else at > 1):
                return int(parts[at])
        return None


def read_lora(path: Path) -> LoraSettings:
    """Reads an adapter's configuration.

    Raises: BadArtifact: `unsupported_adapter`: it is not JSON, or not of a LoRA that is handled here.
    """
    config = read_config(path)
    for name, allowed in _ALLOWED.items():
        if not any(config.get(name) is value or config.get(name) == value for value in allowed):
            raise unsupported(f"{CONFIG}: {name} is {config.get(name)!r}")
    if used := [name for name in _UNSUPPORTED if config.get(name)]:
        raise unsupported(f"{CONFIG} sets {', '.join(used)}", "train a LoRA without it")
    try:
        return LoraSettings.model_validate(config)
    except Invalid as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = str(first["loc"][0]) if first["loc"] else ""
        raise unsupported(f"{CONFIG}: {where} is {str(config.get(where))[:200]!r}: {first['msg']}") from error


def read_config(path: Path) -> dict[str, Any]:
    """Reads an `adapter_config.json`. Raises: BadArtifact: `unsupported_adapter`: it is not a JSON object."""
    try:
        config = json.loads(path.read_bytes(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise unsupported(f"{path.name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise unsupported(f"{path.name} is not a JSON object")
    return config


def unsupported(detail: str, fix: str = "") -> BadArtifact:
    """The refusal of an adapter of another kind."""
    return BadArtifact("unsupported_adapter", "not an adapter that can be served", detail, fix)


def endings(name: str) -> list[str]:
    """A module's name, and what is left of it after each dot."""
    parts = name.split(".")
    return [".".join(parts[at:]) for at in range(len(parts))]


def _matches(modules: str | frozenset[str], name: str) -> bool:
    """By peft's rule: an expression for the whole name, or names that it equals or ends in after a dot."""
    if isinstance(modules, str):
        return _linear(modules).isinstance_python(name)
    return not modules.isdisjoint(endings(name))


def _first(pattern: Mapping[str, float] | None, module: str, otherwise: float) -> float:
    found = (value for key, value in (pattern or {}).items() if _end_of_name(key).match(module))
    return next(found, otherwise)
