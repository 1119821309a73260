"""The configuration of an engine: its kind, its base, and how it is reached or started.

A vLLM is attached to (`socket` or `url`: somebody else runs it) or launched (`python`: it is ours). What would
contradict the agent in a launched one's own flags is refused here, with what to write instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from loradeck.rules.serving.vram import Rank
from loradeck.schemas.address import is_loopback
from loradeck.schemas.ids import Name, Strict
from loradeck_agent.host.secret_file import read_secret

OUR_FLAGS = {
    "--model": "write `base`",
    "--served-model-name": "the agent names the base itself",
    "--host": "the agent lays the engine's socket",
    "--port": "the agent lays the engine's socket",
    "--uds": "the agent lays the engine's socket",
    "--ssl-keyfile": "the engine's socket is a Unix socket, which carries no TLS",
    "--ssl-certfile": "the engine's socket is a Unix socket, which carries no TLS",
    "--api-key": "every user can read a command line, and the engine's socket needs no key",
    "--enable-lora": "the agent sets it",
    "--no-enable-lora": "the agent loads adapters",
    "--max-loras": "write `batch_slots`",
    "--max-cpu-loras": "write `slots`",
    "--max-lora-rank": "write `max_rank`",
    "--lora-modules": "adapters are loaded by the agent, after it has verified them",
    "--dtype": "write `dtype`",
    "--tensor-parallel-size": "write `tensor_parallel`",
    "--config": "a file could set what the agent sets; write its flags in `args`",
}
"""Flags of vLLM's that the agent sets, or that would work against it, and what to do instead."""

SHORT_FLAGS = {"-tp": "--tensor-parallel-size", "-asc": "--api-server-count"}

OUR_VARIABLES = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "the agent sets it",
    "HF_HUB_OFFLINE": "the agent sets it",
    "VLLM_API_KEY": "the engine's socket needs no key",
    "PYTHONPATH": "install into vLLM's environment what it needs",
    "PYTHONHOME": "name that environment's `python`",
    "VLLM_LORA_RESOLVER_CACHE_DIR": "an adapter that vLLM finds by itself would be served unverified",
}


def _anchored(path: Path, info: ValidationInfo) -> Path:
    return info.context["folder"] / path.expanduser() if info.context else path


HostPath = Annotated[Path, AfterValidator(_anchored)]
"""A path on this host. In a configuration file a relative one counts from the file's own folder."""

GpuId = Annotated[str, Field(pattern=r"^GPU-[0-9A-Za-z-]+$", max_length=100)]
"""The UUID of a GPU, as `nvidia-smi -L` prints it."""

MOST_SLOTS = 4096
"""Most adapters that an engine is to keep in its memory."""

MOST_MIXED = 64
"""Adapters that a batch mixes at most where `batch_slots` is not set."""


class EngineConfig(Strict):
    """The settings that every kind of engine has."""

    name: Name
    base: HostPath = Field(description="folder of the base model")
    slots: int = Field(4, ge=1, le=MOST_SLOTS, description="adapters in its memory at once")
    batch_slots: int | None = Field(
        None, ge=1, le=MOST_SLOTS, description="of them, those that one batch mixes; None: all, at most 64"
    )
    start: Literal["always", "wanted"] = Field(
        "always", description="wanted: it runs while something names its base, and for hold_prior_s after that"
    )
    memory_gb: float | None = Field(None, gt=0, description="what it takes of the node's memory_gb")

    @property
    def mixed(self) -> int:
        """Adapters that one batch mixes at most."""
        return min(self.slots, MOST_MIXED) if self.batch_slots is None else self.batch_slots

    @property
    def attached(self) -> bool:
        """Whether somebody else starts and ends the engine."""
        return False

    @model_validator(mode="after")
    def _what_a_batch_mixes_is_in_memory(self) -> Self:
        if self.batch_slots is not None and self.batch_slots > self.slots:
            raise ValueError(f"batch_slots ({self.batch_slots}) are among the slots ({self.slots}); raise `slots`")
        return self

    @property
    def rank_limit(self) -> int | None:
        """Highest rank of an adapter that the engine takes; None where it takes any."""
        return None


class JudgeAddress(Strict):
    """A model behind an OpenAI-compatible address, which judges answers of candidates for jobs of this node."""

    name: Name = Field(description="by which gates name it")
    url: str = Field(description="http://… on this host only, or https://…; asked at /v1/chat/completions")
    model: str = Field(min_length=1, max_length=200)
    key: HostPath | None = Field(None, description="file (0600) with the key that it asks for")

    def read_key(self) -> str | None:
        """The key that is sent with every question. Raises ConfigError."""
        if self.key is None:
            return None
        return read_secret(self.key, "key", f"write the key of judge {self.name!r} into it, mode 0600")

    @field_validator("url")
    @classmethod
    def _url_is_safe_to_send_answers_to(cls, url: str) -> str:
        return _safe(url, "a judge")


class EmbeddedEngine(EngineConfig):
    """The engine that comes with the agent, started by it. `threads` is what it computes with."""

    kind: Literal["embedded"] = "embedded"
    threads: int = Field(1, ge=1, le=256)


class VllmEngine(EngineConfig):
    """A vLLM, attached to at `socket` or `url`, or launched with `python`."""

    kind: Literal["vllm"]
    socket: HostPath | None = Field(None, description="of a vLLM that runs already (its --uds)")
    url: str | None = Field(None, description="of a vLLM that runs already; http://… on this host only")
    key: HostPath | None = Field(None, description="file (0600) with the --api-key of a vLLM that runs already")
    python: HostPath | None = Field(None, description="of the environment in which vLLM is installed: it is launched")
    max_rank: Rank = Field(16, description="the --max-lora-rank it was, or is, started with")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    device: str = Field("cuda", pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="what it computes on")
    tensor_parallel: int = Field(1, ge=1, le=1024)
    args: tuple[str, ...] = Field((), description="further flags of a launched vLLM")
    env: dict[str, str] = Field(default_factory=dict, description="variables of a launched vLLM")
    gpus: tuple[GpuId, ...] = Field(
        (), description="UUIDs of those it computes on: no job is given them, and a launched vLLM sees no others"
    )

    @property
    def attached(self) -> bool:
        """Whether the engine runs already, so that the agent neither starts nor ends it."""
        return self.python is None

    @property
    def rank_limit(self) -> int | None:
        """Largest adapter rank that the engine accepts."""
        return self.max_rank

    def read_key(self) -> str | None:
        """The key that a vLLM with --api-key asks for. Raises ConfigError."""
        if self.key is None:
            return None
        return read_secret(self.key, "key", "write what vLLM was given as --api-key into it, mode 0600")

    @field_validator("url")
    @classmethod
    def _url_is_safe_to_send_prompts_to(cls, url: str | None) -> str | None:
        return _safe(url, "a vLLM") if url is not None else None

    @model_validator(mode="after")
    def _attached_or_launched(self) -> VllmEngine:
        ways = [name for name in ("socket", "url", "python") if getattr(self, name) is not None]
        if not ways:
            raise ValueError(
                "how is it reached? Write `socket` or `url` of a vLLM that runs, or `python` of the environment "
                "from which to launch one"
            )
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(f'`{way}`' for way in ways)} are different engines; write one of them")
        if self.python is None:
            if self.start == "wanted":
                raise ValueError("`start` is for an engine that the agent starts; this one is started elsewhere")
            if set_ := [name for name in ("args", "env") if getattr(self, name)]:
                raise ValueError(f"`{set_[0]}` is for a vLLM that the agent launches; this one is started elsewhere")
        elif self.key is not None:
            raise ValueError("`key` is for a vLLM that runs already; a launched one listens on a socket of ours")
        return self

    @model_validator(mode="after")
    def _gpus_are_named_once(self) -> VllmEngine:
        if self.gpus and "CUDA_VISIBLE_DEVICES" in self.env:
            raise ValueError("`gpus` sets CUDA_VISIBLE_DEVICES; leave it out of `env`")
        if self.gpus and len(self.gpus) != self.tensor_parallel:
            raise ValueError(f"`gpus` names {len(self.gpus)}, and tensor_parallel is {self.tensor_parallel}")
        return self

    @field_validator("args")
    @classmethod
    def _flags_do_not_contradict_the_agent(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        for at, arg in enumerate(args):
            flag, _, value = arg.partition("=")
            flag = SHORT_FLAGS.get(flag, flag.replace("_", "-"))
            if not flag.startswith("--"):
                continue
            if "--api-server-count".startswith(flag) and (value or "".join(args[at + 1 : at + 2])) != "1":
                raise ValueError(
                    f"{arg!r}: with more than one API server vLLM loads no adapters at run time; leave it out"
                )
            # argparse takes any unambiguous beginning of a flag for the flag.
            ours = next((ours for ours in OUR_FLAGS if len(flag) > 2 and ours.startswith(flag)), None)
            if ours is not None:
                raise ValueError(f"{arg!r} cannot be set here: {OUR_FLAGS[ours]}")
        return args

    @field_validator("env")
    @classmethod
    def _variables_do_not_contradict_the_agent(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if name in OUR_VARIABLES:
                raise ValueError(f"{name} cannot be set here: {OUR_VARIABLES[name]}")
        return env


def _kind(value: object) -> str:
    kind = value.get("kind", "embedded") if isinstance(value, dict) else getattr(value, "kind", "embedded")
    return kind if isinstance(kind, str) else ""


AnyEngine = Annotated[
    Annotated[EmbeddedEngine, Tag("embedded")] | Annotated[VllmEngine, Tag("vllm")],
    Discriminator(_kind, custom_error_type="engine_kind", custom_error_message="must be 'embedded' or 'vllm'"),
]
"""An `[[engine]]` table; without a `kind` it is an embedded one."""


def _safe(url: str, what: str) -> str:
    parts = urlsplit(url)
    bare = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/")
    if not bare or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{url!r} is not the address of {what}; write for example 'http://127.0.0.1:8000'")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError(f"{url!r} would carry prompts and the key in the clear; write https:// for another host")
    return url.rstrip("/")
