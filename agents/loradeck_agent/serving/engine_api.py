"""The engine contract, typed: the calls of vLLM's that Loradeck uses, over a Unix socket or HTTP."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from loradeck.rules.serving.engine_steps import Steps
from loradeck.schemas.attestation import CanaryItem, EngineBuild
from loradeck.schemas.ids import Digest, Wire, digest_of
from loradeck.schemas.replica_state import AckLevel
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.http_client import Endpoint, HttpClient, Reply

CALL_S = 10.0
LOAD_S = 300.0
CANARY_S = 300.0
CANARY_TOKENS = 8

METRICS = "/metrics/"
"""With the slash: without it a vLLM of some versions answers a redirect."""

_OF_STEPS = re.compile(
    r"^vllm:(generation_tokens_total|prompt_tokens_total|iteration_tokens_total_count|kv_cache_usage_perc"
    r"|gpu_cache_usage_perc|num_requests_running)(?:\{[^}\n]*\})? (\S+)\s*$",
    re.MULTILINE,
)

_NO_LOGPROBS = "the engine says no log-probabilities"

Conversation = Sequence[dict[str, str]]
Canaries = tuple[tuple[dict[str, str], ...], ...]


class EngineVersion(Wire):
    """What a running engine is: its boot, its build, its base and its adapter slots."""

    boot: str
    build: EngineBuild
    base: Digest
    base_name: str
    slots: int
    batch_slots: int = Field(0, description="adapters that one batch mixes; 0: the engine does not say")


@dataclass(frozen=True)
class EngineAddress:
    """Where an engine listens: a Unix socket's path or a URL. `key`: path of the file with its key, or empty."""

    socket: str = ""
    url: str = ""
    key: str = ""


def steps_of(metrics: str) -> Steps | None:
    """Reads from an engine's metrics, as Prometheus writes them, what changes with each step of its model.

    Those are tokens that were read or made, the cache's use, which grows with each part of a long prompt, and running
    requests. None: it counts no tokens and no steps, so that nothing tells a full engine from one that hangs.
    """
    samples = _OF_STEPS.findall(metrics)
    return tuple(value for _, value in samples) if any("total" in name for name, _ in samples) else None


class EngineApi:
    """Calls to one engine. Raises `Unreachable`, or AgentError with the engine's refusal.

    `key`: bearer key that the engine asks for.
    """

    def __init__(self, address: EngineAddress, key: str | None = None) -> None:
        self.address = address
        endpoint = Endpoint(unix=Path(address.socket)) if address.socket else Endpoint.of_url(address.url)
        self._http = HttpClient(endpoint, {"authorization": f"Bearer {key}"} if key else {})

    def close(self) -> None:
        """Closes the connections; the next call opens one."""
        self._http.close()

    async def healthy(self, *, timeout: float = CALL_S) -> bool:
        """Tells whether the engine is ready to answer, within `timeout` seconds. Raises Unreachable."""
        return (await self._http.get("/health", timeout=timeout)).status == 200

    async def steps(self, *, timeout: float = CALL_S) -> Steps | None:
        """The engine's counters that change with each step of its model; None: it has none. Raises Unreachable."""
        reply = await self._http.get(METRICS, timeout=timeout)
        return steps_of(reply.text) if reply.status == 200 else None

    async def answers(self, model: str, *, timeout: float) -> bool:
        """Tells whether a model answers a request for one token within `timeout` seconds, also by refusing it."""
        body = {"model": model, "prompt": [1], "max_tokens": 1, "temperature": 0.0}
        try:
            await self._http.post("/v1/completions", body, timeout=timeout)
        except Unreachable as error:
            return not error.silent
        return True

    async def version(self) -> EngineVersion:
        """The running engine's version. Raises: AgentError: `engine_error`, its answer cannot be read."""
        reply = expect(await self._http.get("/version", timeout=CALL_S))
        with reading("the engine's version cannot be read"):
            return EngineVersion.model_validate_json(reply.body)

    async def take_over(self) -> EngineVersion:
        """Prepares an engine that has just come up for use. Called once for each start."""
        return await self.version()

    async def boot(self) -> str:
        """Boot id of the engine's process, which changes with every start."""
        return (await self.version()).boot

    async def models(self) -> dict[str, str]:
        """Names of the adapters the engine lists, with the folder each was loaded from."""
        return {name: root for name, (root, parent) in (await self._listed()).items() if parent}

    @property
    def at_once(self) -> int:
        """How many adapters the engine may be told to load at a time."""
        return 1

    async def root_of(self, name: str) -> str | None:
        """The folder that the engine lists an adapter from; None: it does not. Whether it holds it is not looked at."""
        return (await EngineApi.models(self)).get(name)

    async def _listed(self) -> dict[str, tuple[str, str | None]]:
        """Fetches all that the engine lists: name -> (root, parent); a base has no parent."""
        reply = expect(await self._http.get("/v1/models", timeout=CALL_S))
        with reading("the engine's list of models cannot be read"):
            return {m["id"]: (m.get("root") or "", m.get("parent")) for m in reply.json()["data"]}

    async def load(self, name: str, path: Path, instead: Sequence[str] = ()) -> None:
        """Loads an adapter; one that is listed under this name from this folder is loaded already.

        `instead`: names of adapters that are unloaded for it, also where it cannot be loaded then.

        Raises: AgentError: `name_taken` (listed, from another folder), `load_refused` (the adapter's fault),
        `files_missing`, `no_runtime_loading` (the engine has no such call).
        """
        for other in instead:
            await self.unload(other)
        body = {"lora_name": name, "lora_path": str(path)}
        reply = await self._http.post("/v1/load_lora_adapter", body, timeout=LOAD_S)
        if reply.status == 200:
            return
        if reply.status == 400:
            listed = (await self.models()).get(name)
            if listed is not None and same_folder(listed, path):
                return
            if listed is not None:
                raise AgentError("name_taken", f"the engine lists {name} from another folder", f"{listed}, not {path}")
        if reply.status == 404 and _has_no_such_call(reply):
            raise AgentError(
                "no_runtime_loading",
                "this vLLM loads no adapters at run time",
                "it answers 404 Not Found to /v1/load_lora_adapter",
                "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora",
            )
        detail = f"{reply.status}: {reply.text[:300]}"
        if reply.status == 404:
            raise AgentError(
                "files_missing",
                f"the engine cannot see the folder of {name}",
                detail,
                f"{path.parent} must be the same folder for the engine, and readable by its user",
            )
        raise AgentError("load_refused", f"the engine refused {name}", detail)

    async def unload(self, name: str) -> None:
        """Unloads an adapter; one that is not loaded is no error."""
        reply = await self._http.post("/v1/unload_lora_adapter", {"lora_name": name}, timeout=LOAD_S)
        if reply.status not in (200, 404):
            raise AgentError("unload_refused", f"the engine kept {name}", f"{reply.status}: {reply.text[:300]}")

    async def complete(
        self, model: str, prompt: Sequence[int], max_tokens: int, *, temperature: float = 0.0, seed: int | None = None
    ) -> tuple[str, int]:
        """Answer to a prompt of tokens, at most `max_tokens` long, greedy by default: its text, and how many tokens.

        Raises: AgentError: `engine_busy`: it may be asked again; `engine_error`.
        """
        body: dict[str, Any] = {"model": model, "prompt": list(prompt), "max_tokens": max_tokens, "stream": False}
        body |= {"temperature": temperature} if seed is None else {"temperature": temperature, "seed": seed}
        reply = _answered(await self._http.post("/v1/completions", body, timeout=CANARY_S))
        with reading("the engine's answer cannot be read"):
            document = reply.json()
            return str(document["choices"][0]["text"]), int(document["usage"]["completion_tokens"])

    async def openai(self, model: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer to the body of an OpenAI call as it is: of a chat where it has `messages`, else of a completion.

        Raises: AgentError: `engine_busy`: it may be asked again; `engine_error`.
        """
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        reply = _answered(await self._http.post(path, {**body, "model": model, "stream": False}, timeout=CANARY_S))
        with reading("the engine's answer cannot be read"):
            return dict(reply.json())

    async def log_likelihood(self, model: str, prompt: Sequence[int], last: int) -> float:
        """Log-probability of the last tokens of a prompt, in nats, summed. Of vLLM's engines alone.

        Raises: AgentError: `engine_busy`: it may be asked again; `engine_error`.
        """
        with reading(_NO_LOGPROBS):
            pairs = zip(await self._logprobs(model, prompt, last, 0), prompt[-last:], strict=True)
            found = sum(float(position[str(token)]["logprob"]) for position, token in pairs)
            if not math.isfinite(found):
                raise ValueError(f"a sum of {found}")
            return found

    async def likeliest(
        self, model: str, prompt: Sequence[int], last: int, top: int
    ) -> tuple[tuple[tuple[int, float], ...], ...]:
        """The `top` likeliest tokens at each of the last ones of a prompt, with their log-probabilities (nats).

        Of vLLM's engines alone.

        Raises: AgentError: `engine_busy`: it may be asked again; `engine_error`.
        """
        with reading(_NO_LOGPROBS):
            found = []
            for position in await self._logprobs(model, prompt, last, top):
                pairs = [(int(token), float(said["logprob"])) for token, said in position.items()]
                ordered = sorted(pairs, key=lambda pair: -pair[1])[:top]  # the prompt's own token is among them
                if len(ordered) < top or not all(math.isfinite(log) for _, log in ordered):
                    raise ValueError(f"{len(ordered)} tokens, or one without a probability")
                found.append(tuple(ordered))
            if len(found) != last:
                raise ValueError(f"{len(found)} positions")
            return tuple(found)

    async def _logprobs(self, model: str, prompt: Sequence[int], last: int, top: int) -> list[Any]:
        """At each of the last tokens of a prompt: by token what is said of it, and of the `top` likeliest ones."""
        body = {"model": model, "prompt": list(prompt), "temperature": 0, "max_tokens": 1, "prompt_logprobs": top}
        reply = _answered(await self._http.post("/v1/completions", body, timeout=CANARY_S))
        return list(reply.json()["choices"][0]["prompt_logprobs"][-last:])

    async def tokens(self, model: str, messages: Sequence[Any], tools: Sequence[Any]) -> tuple[int, ...]:
        """Tokens that the engine makes of a conversation, with its tools, up to where an answer begins.

        Raises: AgentError: `engine_busy`: it may be asked again; `engine_error`.
        """
        body = {"model": model, "messages": list(messages), **({"tools": list(tools)} if tools else {})}
        reply = await self._http.post("/tokenize", body, timeout=CALL_S)
        reply = expect(reply) if reply.status == 404 else _answered(reply)  # it has no such call
        with reading("the engine's tokens cannot be read"):
            return tuple(map(int, reply.json()["tokens"]))

    async def levels(self) -> dict[str, AckLevel] | None:
        """The levels of the adapters that it holds, by name, as the engine itself says. None: it does not say."""
        return None

    async def pin(self, names: Collection[str]) -> None:
        """Keeps some adapters, and no others, from being pushed out of an engine's memory, where it can do that."""

    async def canary(self, model: str, messages: Conversation) -> CanaryItem:
        """Greedy tokens of one canary, asked of the engine itself."""
        body = {"model": model, **canary_body(messages)}
        return canary_item(messages, await self._http.post("/v1/chat/completions", body, timeout=CANARY_S))


class EmbeddedApi(EngineApi):
    """Calls to the engine that comes with the agent, which says which adapters its batch holds."""

    async def levels(self) -> dict[str, AckLevel] | None:
        """The levels of the adapters that it holds, by name. None: it is an earlier version's, and does not say."""
        reply = expect(await self._http.get("/v1/models", timeout=CALL_S))
        try:
            rows = [row for row in reply.json()["data"] if row.get("parent")]
            return {row["id"]: AckLevel(row["level"]) for row in rows}
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


def same_folder(listed: str, path: Path) -> bool:
    """Tells whether the folder that an engine lists is a given one."""
    return Path(listed).resolve() == path.resolve()


def prompt_digest(messages: Conversation) -> str:
    """Digest by which a canary's tokens are found in a record."""
    return digest_of({"messages": [dict(m) for m in messages]})


def canary_body(messages: Conversation) -> dict[str, Any]:
    """The request by which a release's canary is taken, the model aside."""
    return {
        "messages": [dict(m) for m in messages],
        "temperature": 0,
        "max_tokens": CANARY_TOKENS,
        "logprobs": True,
        "top_logprobs": 2,
        "return_tokens_as_token_ids": True,
        "stream": False,
    }


def canary_item(messages: Conversation, reply: Reply) -> CanaryItem:
    """Tokens and margins of a canary's answer.

    Raises: AgentError: `canary_unanswered` when the engine refused, `canary_unreadable` when the answer has no token
    ids and log-probabilities.
    """
    if reply.status != 200:
        raise AgentError("canary_unanswered", f"the canary was answered {reply.status}", reply.text[:300])
    with reading("the canary's answer has no token ids", "canary_unreadable"):
        tokens, margins = [], []
        for position in reply.json()["choices"][0]["logprobs"]["content"]:
            tokens.append(_token_id(position["token"]))
            top = sorted((float(t["logprob"]) for t in position["top_logprobs"]), reverse=True)
            margins.append(top[0] - top[1])
    return CanaryItem(prompt=prompt_digest(messages), tokens=tuple(tokens), margins=tuple(margins))


def _token_id(text: str) -> int:
    prefix, _, number = text.partition(":")
    if prefix != "token_id":
        raise ValueError(f"{text!r} is not spelt token_id:N")
    return int(number)


def _has_no_such_call(reply: Reply) -> bool:
    """Tells whether a 404 is about the path that was called, not about what was asked of it."""
    try:
        return bool(reply.json() == {"detail": "Not Found"})
    except ValueError:
        return False


@contextmanager
def reading(wrong: str, code: str = "engine_error") -> Iterator[None]:
    """While an answer is read. Raises: AgentError: of this code, where it does not have what it should."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise AgentError(code, wrong, repr(error)[:300]) from error


def _answered(reply: Reply) -> Reply:
    """The reply to a question; `engine_busy` where it is overloaded, starts, or has lost the release for a moment."""
    if reply.status in (404, 429, 503):
        raise AgentError("engine_busy", f"the engine answered {reply.status}", reply.text[:300])
    return expect(reply)


def expect(reply: Reply) -> Reply:
    """The reply, if its status is 200. Raises: AgentError: `key_refused` or `engine_error`."""
    if reply.status == 401:
        raise AgentError("key_refused", "the engine does not take our key", "401", "correct the file named by `key`")
    if reply.status != 200:
        raise AgentError("engine_error", f"the engine answered {reply.status}", reply.text[:300])
    return reply
