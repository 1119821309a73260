"""The agent's configuration file: TOML, checked whole before anything starts.

An error names the file, the line, the key, what is wrong with it and what to write instead.
"""

from __future__ import annotations

import importlib.util
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from loradeck.schemas.address import is_loopback
from loradeck.schemas.ids import Name, Strict
from loradeck.schemas.link import Address
from loradeck.schemas.table import ColdQueueLimits, NodeLimits
from loradeck_agent.host.engine_config import AnyEngine, EngineConfig, GpuId, HostPath, JudgeAddress, VllmEngine
from loradeck_agent.host.errors import ConfigError
from loradeck_agent.host.secret_file import read_secret
from loradeck_agent.host.state_folder import StateFolder

OPTIONS = (
    "constraint",
    "exclude",
    "licenses",
    "mem",
    "mem-per-cpu",
    "mem-per-gpu",
    "nice",
    "nodelist",
    "qos",
    "reservation",
    "tmp",
    "wckey",
)
"""Options of sbatch that a configuration may set. What identifies, starts, ends or repeats a job is the agent's."""

Word = Annotated[str, Field(pattern=r"^[!-~]+$", max_length=200)]
"""A value of an option: printable, and without spaces."""


class SlurmConfig(Strict):
    """How jobs are submitted. What is named here lies at the same path on this host and on the cluster's nodes."""

    scratch: HostPath = Field(
        description="folder for jobs, inputs and checkpoints; in it the agent makes one of its own"
    )
    bases: tuple[HostPath, ...] = Field(min_length=1, max_length=64, description="folders of base models for jobs")
    partition: Word | None = None
    account: Word | None = None
    minutes: int | None = Field(None, ge=2, description="time limit; None: the partition's own")
    gres: Word | None = Field(None, description="what each process gets one of, as gpu or gpu:h100; None: CPUs only")
    processes_per_node: int = Field(1, ge=1, le=64, description="a recipe with more runs on several nodes")
    at_once: int = Field(16, ge=1, le=1000, description="jobs that run or wait in Slurm's queue at once")
    python: HostPath | None = Field(None, description="Python with loradeck's extra `train`; None: the agent's own")
    bin: HostPath | None = Field(
        None, description="folder of sbatch, srun, scontrol, squeue, scancel; None: found by PATH"
    )
    options: dict[str, Word] = Field(default_factory=dict, description="further options of sbatch")

    @field_validator("options")
    @classmethod
    def _are_none_of_the_agents(cls, options: dict[str, str]) -> dict[str, str]:
        for name in options:
            if name not in OPTIONS:
                raise ValueError(f"{name!r} cannot be set here; these can: {', '.join(OPTIONS)}")
        return options


class MlflowConfig(Strict):
    """Where runs are kept, and by which token."""

    url: str = Field(max_length=500, description="https://… of the server, or http://… on this host")
    token: HostPath | None = Field(None, description="file with the bearer token that it asks for, mode 0600")
    ca: HostPath | None = Field(
        None, description="authority of its certificate, PEM; None: those that this host trusts"
    )
    experiment: str = Field("loradeck", min_length=1, max_length=200, description="a tenant's is NAME/TENANT")

    @field_validator("url")
    @classmethod
    def _may_be_sent_a_token(cls, url: str) -> str:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        if not safe or not parts.hostname or parts.query or parts.username or parts.password:
            raise ValueError(f"{url!r} is no server; write https://mlflow.example.com, and its token into a file")
        return url.rstrip("/")

    def check(self) -> None:
        """Raises ConfigError where the client is not installed, or the token cannot be read."""
        if importlib.util.find_spec("mlflow") is None:
            fix = "pip install 'loradeck[mlflow]', or leave [mlflow] out"
            raise ConfigError("mlflow_missing", "[mlflow] needs the package mlflow-skinny", "it is not installed", fix)
        self.read_token()

    def read_token(self) -> str | None:
        """The token; None: the server asks for none. Raises: ConfigError: as `read_secret` does."""
        if self.token is None:
            return None
        return read_secret(self.token, "token", "write the server's token into a file of mode 0600")


SOCKET_PATH_BYTES = 107
"""Longest path of a Unix socket (sun_path less its terminating zero)."""

DEFAULT_CONFIG = "/etc/loradeck/agent.toml"


class RouterConfig(Strict):
    """Where the router listens for callers, and with which certificate."""

    listen: str = Field(description="HOST:PORT that callers of the tenants' models connect to")
    address: Address | None = Field(
        None, description="HOST:PORT by which gateways reach it; its join token was made with this host. None: none do"
    )
    tls: bool = Field(False, description="with the certificate that this node joined with")
    tls_cert: HostPath | None = None
    tls_key: HostPath | None = None
    client_ca: HostPath | None = Field(None, description="authority of the certificates that callers must show; PEM")
    limits: NodeLimits = Field(NodeLimits(), description="of each caller's key on this node, where a route sets none")
    queue: ColdQueueLimits = Field(ColdQueueLimits(), description="of requests whose release is yet to be loaded")

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{listen!r} is not HOST:PORT; write for example '127.0.0.1:7500'")
        return listen

    @model_validator(mode="after")
    def _callers_keys_are_not_sent_in_the_clear(self) -> RouterConfig:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; write both or neither")
        if self.tls and self.tls_cert is not None:
            raise ValueError("tls is for the certificate that this node joined with; leave it or tls_cert out")
        if self.address is not None and not self.tls:
            raise ValueError("address needs tls = true: gateways know nodes by the certificates that these joined with")
        if self.client_ca is not None and self.tls_cert is None and not self.tls:
            raise ValueError("client_ca needs tls = true, or tls_cert and tls_key: certificates are shown over TLS")
        host = self.listen.rpartition(":")[0].strip("[]")
        if self.tls_cert is None and not self.tls and not is_loopback(host):
            raise ValueError(
                "callers send their keys: listening beyond loopback needs tls = true, or tls_cert and tls_key"
            )
        return self


class JobsConfig(Strict):
    """What a job may take of this node."""

    threads: int = Field(1, ge=1, le=256, description="of one executor")
    user: str | None = Field(None, description="whom executors run as, where the agent is root; None: as the agent")
    confined: bool | None = Field(
        None, description="executors are kept apart by Landlock; True: jobs fail without it, None: they do not"
    )
    at_once: int = Field(1, ge=1, le=1000, description="jobs without a GPU of their own that run at once")
    gpus: tuple[GpuId, ...] = Field(
        (), description="UUIDs of those that jobs may train on, even beside an engine; (): on any that nothing uses"
    )


class HarnessConfig(Strict):
    """An environment with an evaluation harness, in which jobs run its tasks."""

    python: HostPath = Field(description="of the environment in which the harness is installed")
    tasks: HostPath = Field(description="folder of tasks and their data; `huggingface` in it is the harness's HF_HOME")


class JobBase(Strict):
    """A base model that jobs of this node read, where no engine of it has that base."""

    path: HostPath = Field(description="its folder")


class AgentConfig(Strict):
    """One node's configuration, as docs/architecture.md lists it. Paths are absolute once it is loaded."""

    node: Name
    hubs: tuple[str, ...] = Field(
        alias="hub", description="http://… (loopback only) or https://…; a list of them where several hubs share a log"
    )
    token: HostPath | None = Field(
        None, description="file with the agent's token or join token, mode 0600; needed until the node has joined"
    )
    state: HostPath
    ca: HostPath | None = Field(None, description="PEM file with the authority that signed the hub's certificate")
    labels: dict[str, str] = Field(default_factory=dict)
    signers: tuple[HostPath, ...] = Field(
        (), description="public keys (PEM); with any, adapters and merged weights serve here only if one signed them"
    )
    router: RouterConfig
    jobs: JobsConfig = JobsConfig()
    memory_gb: float | None = Field(None, gt=0, description="what all engines that run at once may take together")
    hold_prior_s: float = Field(86_400, ge=0, description="how long an engine runs on after a move to another base")
    engine: tuple[AnyEngine, ...] = ()
    judge: tuple[JudgeAddress, ...] = Field((), description="models elsewhere that judge answers of candidates")
    harness: dict[Literal["lm-eval", "inspect-ai"], HarnessConfig] = Field(default_factory=dict)
    base: tuple[JobBase, ...] = Field((), max_length=64, description="for jobs alone: no engine is started for them")
    slurm: SlurmConfig | None = Field(None, description="where jobs run instead of on this node; None: on this node")

    mlflow: MlflowConfig | None = Field(None, description="told what jobs measure; None: nobody is")

    @property
    def job_bases(self) -> tuple[Path, ...]:
        """The folders of the bases that jobs alone read, here or on the cluster."""
        return self.slurm.bases if self.slurm is not None else tuple(base.path for base in self.base)

    @property
    def private(self) -> tuple[str, ...]:
        """The agent's folders and secrets, which executors are kept out of but for what their job reads and writes."""
        shared = self.slurm.scratch / self.node if self.slurm is not None else None
        keys = *(getattr(one, "key", None) for one in (*self.engine, *self.judge)), getattr(self.mlflow, "token", None)
        return tuple(str(one) for one in (self.state, shared, self.token, self.router.tls_key, *keys) if one)

    @property
    def hub(self) -> str:
        """The first of the hubs."""
        return self.hubs[0]

    @field_validator("hubs", mode="before")
    @classmethod
    def _are_one_or_several(cls, hubs: Any) -> tuple[str, ...]:
        named = tuple(cls._safe_to_send_a_token_to(str(hub)) for hub in ([hubs] if isinstance(hubs, str) else hubs))
        if not named or len({*named}) < len(named):
            raise ValueError("write each hub once")
        return named

    @classmethod
    def _safe_to_send_a_token_to(cls, hub: str) -> str:
        url = urlsplit(hub)
        if url.scheme not in ("http", "https") or not url.hostname or url.path not in ("", "/") or url.query:
            raise ValueError(f"{hub!r} is not the URL of a hub; write for example 'https://hub.example.com:7400'")
        if url.scheme == "http" and not is_loopback(url.hostname):
            raise ValueError(f"{hub!r} would carry the token in the clear; write https:// for a hub on another host")
        return hub.rstrip("/")

    @model_validator(mode="after")
    def _what_slurm_runs_needs_nothing_of_this_node(self) -> AgentConfig:
        if self.slurm is not None and (self.engine or self.base or self.jobs != JobsConfig(threads=self.jobs.threads)):
            raise ValueError(
                "[slurm] is for a submit host: its jobs run elsewhere, as the agent's own user, and reach no engine "
                "here; leave out [[engine]], [[base]], and all but `threads` under [jobs]"
            )
        return self

    @model_validator(mode="after")
    def _engines_differ(self) -> AgentConfig:
        for what, named in (("engines", self.engine), ("judges", self.judge)):
            names = [one.name for one in named]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"two {what} are called {twice[0]!r}; give each its own name")
        places = [engine.socket or engine.url for engine in self.engine if isinstance(engine, VllmEngine)]
        shared = sorted({str(place) for place in places if place is not None and places.count(place) > 1})
        if shared:
            raise ValueError(f"two engines are attached to {shared[0]}; a vLLM is one engine")
        return self

    @model_validator(mode="after")
    def _engines_fit_the_memory(self) -> AgentConfig:
        if self.memory_gb is None:
            return self
        for engine in self.engine:
            if engine.memory_gb is None:
                raise ValueError(f"memory_gb limits the node, so engine {engine.name!r} needs its own memory_gb")
            if engine.memory_gb > self.memory_gb:
                raise ValueError(
                    f"engine {engine.name!r} takes {engine.memory_gb:g} GB, the node has {self.memory_gb:g}"
                )
        always = sum(engine.memory_gb or 0 for engine in self.engine if engine.start == "always")
        if always > self.memory_gb:
            raise ValueError(
                f"the engines that always run take {always:g} GB, the node has {self.memory_gb:g}; "
                'write start = "wanted" where one may be stopped'
            )
        return self

    @classmethod
    def load(cls, path: str | Path) -> AgentConfig:
        """Reads and checks a configuration file. Relative paths in it count from the file's own folder.

        Raises: ConfigError: the file is absent, is not TOML, has a wrong key or value, or asks for a state folder whose
        sockets' paths would be too long.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                "config_unreadable", f"cannot read {path}", error.strerror or "", "pass --config FILE"
            ) from error
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError("config_syntax", f"{path} is not TOML", str(error), "correct that line") from error
        try:
            config = cls.model_validate(data, context={"folder": path.resolve().parent})
        except ValidationError as error:
            from loradeck.client.setting_errors import setting_errors  # it suggests names, by difflib: half a megabyte

            raise ConfigError(
                "config_invalid",
                f"{path} has {error.error_count()} wrong setting" + "s" * (error.error_count() > 1),
                "\n".join(setting_errors(error, text, kind=cls, path=_place)),
                "docs/architecture.md, section 'The agent', shows every key",
            ) from error
        config._check_socket_paths(path)
        return config

    def folder(self) -> StateFolder:
        """The node's state folder; what jobs read and write lies in one of its own below a scheduler's scratch."""
        return StateFolder(self.state, self.slurm.scratch / self.node if self.slurm is not None else None)

    def replica_of(self, engine: EngineConfig) -> str:
        """Name of an engine's replica in the fleet: the node's own where it has one engine only."""
        return self.node if len(self.engine) == 1 else f"{self.node}.{engine.name}"

    def read_signers(self) -> frozenset[str]:
        """The public keys that this node asks signatures of.

        Raises: ConfigError: a file cannot be read, or holds no public key.
        """
        found = set()
        for path in self.signers:
            try:
                text = path.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError("signer_unreadable", f"cannot read {path}", str(error), "name a KEY.pub") from error
            if not text.startswith("-----BEGIN PUBLIC KEY-----"):
                raise ConfigError(
                    "signer_unreadable", f"{path} is no public key", "", "name the KEY.pub beside the key"
                )
            found.add(text)
        return frozenset(found)

    def read_token(self) -> str:
        """The bearer token. Raises: ConfigError: the file is absent, empty, or readable by others."""
        fix = f"make one on the hub's host: loradeck node token {self.node} --out FILE"
        if self.token is None:
            raise ConfigError("token_unreadable", "this node has not joined, and `token` names no file", "", fix)
        return read_secret(self.token, "token", fix)

    def check_engines(self) -> None:
        """Raises ConfigError for the first base, Python, key, token or package that is not there."""
        if self.mlflow is not None:
            self.mlflow.check()
        for judge in self.judge:
            judge.read_key()
        for base in self.base:
            if not base.path.is_dir():
                raise ConfigError(
                    "base_missing", "a [[base]] is not there", f"{base.path} is not a folder", "correct its `path`"
                )
        for engine in self.engine:
            if not engine.base.is_dir():
                raise ConfigError(
                    "base_missing",
                    f"engine {engine.name!r} has no base model",
                    f"{engine.base} is not a folder",
                    "put the base there or correct `base`",
                )
            if isinstance(engine, VllmEngine):
                engine.read_key()
                if engine.python is not None and not os.access(engine.python, os.X_OK):
                    raise ConfigError(
                        "python_missing",
                        f"engine {engine.name!r} cannot be launched",
                        f"{engine.python} is no program",
                        "install vLLM into an environment of its own and name its Python",
                    )

    def _check_socket_paths(self, path: Path) -> None:
        for engine in self.engine:
            if isinstance(engine, VllmEngine) and len(os.fsencode(engine.socket or "")) > SOCKET_PATH_BYTES:
                raise ConfigError(
                    "socket_path_too_long",
                    f"{path}: `socket` of engine {engine.name!r} is too long for a Unix socket",
                    f"{engine.socket}; at most {SOCKET_PATH_BYTES} bytes are possible",
                    "start that vLLM with a shorter --uds",
                )
        names = ["router/router.sock", *(f"engines/{engine.name}/engine.sock" for engine in self.engine)]
        longest = max(names, key=len)
        size = len(os.fsencode(self.state / longest))
        if size > SOCKET_PATH_BYTES:
            raise ConfigError(
                "socket_path_too_long",
                f"{path}: `state` is too long for a Unix socket",
                f"{self.state / longest} has {size} bytes, at most {SOCKET_PATH_BYTES} are possible",
                f"choose a state folder of at most {SOCKET_PATH_BYTES - len(longest) - 1} bytes",
            )


def _place(problem: Any) -> tuple[str | int, ...]:
    """Returns where a problem stands in the file."""
    at = tuple(problem["loc"])
    if at[:1] == ("engine",):
        at = (*at[:2], *at[3:])  # the third names the kind, which is no key in the file
    return (*at, "kind") if problem["type"] == "engine_kind" else at
