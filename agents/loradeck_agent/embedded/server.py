"""The embedded engine's base, loaded, behind the engine contract: vLLM's calls and statuses, on a Unix socket.

A prompt's characters are counted, then it is turned into tokens off the event loop. One with more characters than the
context's tokens can have is refused unread. So the time that one prompt can take is bounded by the context, and while
it is read the event loop goes on with everybody else's requests.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from aiohttp import web
from transformers import AutoModelForCausalLM, AutoTokenizer

from loradeck.artifacts import base_manifest
from loradeck.schemas.attestation import EngineBuild
from loradeck_agent.embedded import openai
from loradeck_agent.embedded.adapter_bank import AdapterFault
from loradeck_agent.embedded.batch import Output, Sequence
from loradeck_agent.embedded.inference import BASE, Inference, Overloaded
from loradeck_agent.host.body_reader import BodyReader, BodyUnread

log = logging.getLogger(__name__)

LONG = 16 * 1024
"""Characters from which on a prompt is read in the thread of the long ones, so that no short one waits behind it."""


class PromptRefused(Exception):
    """The prompt cannot be answered, by its caller's fault. The text says why."""


class Prompts:
    """Tokens of callers' prompts.

    Args:
        tokenizer: the base's, of transformers.
        max_length: tokens of prompt and answer together.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._vocabulary = len(tokenizer)
        self._longest_token = max(map(len, tokenizer.get_vocab()))
        self._short = ThreadPoolExecutor(1, "short-prompts")
        self._long = ThreadPoolExecutor(1, "long-prompts")

    async def of_messages(self, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> list[int]:
        """Tokens of a conversation, with its tools, under the base's chat template. Raises PromptRefused."""
        size = sum(len(message.get("content") or "") for message in messages)
        return await self._read(size, lambda: self._rendered(messages, tools))

    async def of_prompt(self, prompt: str | list[int]) -> list[int]:
        """Tokens of a text, or the token ids that stand for one. Raises PromptRefused."""
        if isinstance(prompt, str):
            return await self._read(len(prompt), lambda: self._tokens(prompt))
        self._fit(len(prompt), "token ids")
        if any(not 0 <= token < self._vocabulary for token in prompt):
            raise PromptRefused(f"prompt must be text or token ids from 0 to {self._vocabulary - 1}")
        return self._some(prompt)

    async def _read(self, characters: int, read: Callable[[], list[int]]) -> list[int]:
        self._fit(characters, "characters", self._longest_token)
        thread = self._short if characters < LONG else self._long
        return self._some(await asyncio.get_running_loop().run_in_executor(thread, read))

    def _rendered(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> list[int]:
        try:
            template = self._tokenizer.apply_chat_template
            text = template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # a template is a program of the base's and may raise anything on what it dislikes
            raise PromptRefused(f"the chat template refused the messages: {error}") from error
        self._fit(len(text), "characters", self._longest_token)  # the template's own among them
        return self._tokens(text, add_special_tokens=False)

    def _tokens(self, text: str, **settings: Any) -> list[int]:
        try:
            return list(self._tokenizer(text, **settings)["input_ids"])
        except Exception as error:  # such as half a character, which JSON allows
            raise PromptRefused(f"the prompt cannot be turned into tokens: {error}") from error

    def _fit(self, size: int, unit: str, in_a_token: int = 1) -> None:
        if size > self._max_length * in_a_token:
            most = f", each of at most {in_a_token} characters" if in_a_token > 1 else ""
            raise PromptRefused(f"the context holds {self._max_length} tokens{most}; the prompt has {size} {unit}")

    @staticmethod
    def _some(tokens: list[int]) -> list[int]:
        if not tokens:
            raise PromptRefused("the prompt has no token")
        return tokens


@dataclass(frozen=True)
class LoadedModel:
    """What an engine is ready to answer with."""

    inference: Inference
    tokenizer: Any
    base_digest: str
    max_length: int  # tokens of prompt and answer together
    eos: frozenset[int]

    def decode(self, ids: list[int]) -> str:
        """Decodes tokens to the text of an answer, without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def spell(self, token: int) -> str:
        """Decodes a token to text, also a special one, as log-probabilities name it."""
        text: str = self.tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


@dataclass
class _Listed:
    handle: int
    root: str


@dataclass
class EngineServer:
    """One engine. It answers 503 until `ready` was called."""

    boot: str
    build: EngineBuild
    base_name: str
    slots: int
    _model: LoadedModel | None = None
    _prompts: Prompts | None = None
    _adapters: dict[str, _Listed] = field(default_factory=dict)
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _chats: BodyReader = field(default_factory=lambda: BodyReader(openai.read_chat))
    _completions: BodyReader = field(default_factory=lambda: BodyReader(openai.read_completion))

    def ready(self, model: LoadedModel) -> None:
        """From now on requests are answered."""
        self._prompts = Prompts(model.tokenizer, model.max_length)
        self._model = model

    def app(self) -> web.Application:
        """Builds the engine's HTTP application with all its routes."""
        app = web.Application(client_max_size=8 * 2**20, middlewares=[_json_errors])
        app.cleanup_ctx.append(self._end_readers)
        app.add_routes(
            [
                web.get("/health", self.health),
                web.get("/version", self.version),
                web.get("/metrics/", self.metrics),
                web.get("/v1/models", self.models),
                web.post("/v1/load_lora_adapter", self.load),
                web.post("/v1/unload_lora_adapter", self.unload),
                web.post("/tokenize", self.tokenize),
                web.post("/v1/chat/completions", self.chat),
                web.post("/v1/completions", self.completion),
            ]
        )
        return app

    async def _end_readers(self, _: web.Application) -> AsyncIterator[None]:
        yield
        await self._chats.close()
        await self._completions.close()

    async def health(self, _: web.Request) -> web.Response:
        """Answers `GET /health`: 200 once the model is loaded, 503 before."""
        return web.Response(status=200 if self._model else 503)

    async def version(self, _: web.Request) -> web.Response:
        """Answers `GET /version`: boot id, build, base and slots of this engine."""
        model = self._require()
        return web.json_response(
            {
                "boot": self.boot,
                "build": self.build.model_dump(),
                "base": model.base_digest,
                "base_name": self.base_name,
                "slots": self.slots,
                "batch_slots": model.inference.mixed,
            }
        )

    async def metrics(self, _: web.Request) -> web.Response:
        """Answers `GET /metrics/`: how many requests wait, and the steps of the model, under vLLM's names for them."""
        inference = self._require().inference
        lines = (
            f"vllm:num_requests_waiting {inference.waiting}",
            f"vllm:iteration_tokens_total_count {inference.steps}",
        )
        return web.Response(text="".join(f"{line}\n" for line in lines))

    async def models(self, _: web.Request) -> web.Response:
        """Answers `GET /v1/models`: the base, and the loaded adapters with their folders as `root` and their levels."""
        base = {"id": self.base_name, "object": "model", "root": self.base_name, "parent": None}
        stacked = self._model.inference.stacked if self._model is not None else frozenset()
        adapters = [
            {
                "id": name,
                "object": "model",
                "root": listed.root,
                "parent": self.base_name,
                "level": "device" if listed.handle in stacked else "host",
            }
            for name, listed in self._adapters.items()
        ]
        return web.json_response({"object": "list", "data": [base, *adapters]})

    async def load(self, request: web.Request) -> web.Response:
        """200; 400 name empty, taken or the base's, or no slot; 404 no such folder; 500 fault of the adapter."""
        model = self._require()
        body = await _json(request)
        name, path = body.get("lora_name"), body.get("lora_path")
        if not isinstance(name, str) or not name or not isinstance(path, str) or not path:
            return _error(400, "InvalidUserInput", "both lora_name and lora_path are needed, as strings")
        # Shielded: a caller that goes away half-way must not leave an adapter resident that is not listed.
        return await asyncio.shield(self._load(model, name, path))

    async def _load(self, model: LoadedModel, name: str, path: str) -> web.Response:
        async with self._loading:  # so that two loads of one name, or of the last slot, cannot both pass the checks
            if name == self.base_name or name in self._adapters:
                return _error(400, "InvalidUserInput", f"the name {name!r} is already in use; unload it first")
            if len(self._adapters) >= self.slots:
                return _error(400, "InvalidUserInput", f"all {self.slots} slots are taken; unload an adapter first")
            try:
                weights = await asyncio.to_thread(model.inference.read, Path(path))
                handle, installed = model.inference.install(weights)
                await asyncio.wrap_future(installed)
            except FileNotFoundError:
                return _error(404, "NotFoundError", f"no adapter found at {path}")
            except AdapterFault as error:
                log.warning("refused adapter %s: %s", name, error)
                return _error(500, "InternalServerError", f"adapter {name!r}: {error}")
            self._adapters[name] = _Listed(handle, path)
        log.info("loaded adapter %s (rank %d)", name, weights.rank)
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: web.Request) -> web.Response:
        """Unloads an adapter: 200, or 404. Answers under way are finished; new requests get 404 from this moment."""
        model = self._require()
        name = (await _json(request)).get("lora_name")
        if not isinstance(name, str) or not name:
            return _error(400, "InvalidUserInput", "lora_name is needed, as a string")
        listed = self._adapters.pop(name, None)
        if listed is None:
            return _error(404, "NotFoundError", f"the adapter {name!r} is not loaded")
        model.inference.retire(listed.handle)
        log.info("unloaded adapter %s", name)
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")

    async def tokenize(self, request: web.Request) -> web.Response:
        """Answers `POST /tokenize`: the tokens of `messages`, with their `tools`, up to where an answer begins."""
        body, model = await _json(request), self._require()
        assert self._prompts is not None
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
            return _error(400, "BadRequestError", "messages are needed, as a list of objects")
        try:
            tokens = await self._prompts.of_messages(messages, body.get("tools"))
        except PromptRefused as refused:
            return _error(400, "BadRequestError", str(refused))
        return web.json_response({"count": len(tokens), "max_model_len": model.max_length, "tokens": tokens})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answers `POST /v1/chat/completions`."""
        body = openai.ChatRequest.model_validate(await _read(request, self._chats))
        messages = [{"role": message.role, "content": message.text} for message in body.messages]
        return await self._answer(request, body, lambda prompts: prompts.of_messages(messages))

    async def completion(self, request: web.Request) -> web.StreamResponse:
        """Answers `POST /v1/completions`; a prompt may be text or token ids."""
        body = openai.CompletionRequest.model_validate(await _read(request, self._completions))
        return await self._answer(request, body, lambda prompts: prompts.of_prompt(body.prompt))

    async def _answer(
        self, http: web.Request, request: openai.Request, read: Callable[[Prompts], Awaitable[list[int]]]
    ) -> web.StreamResponse:
        model = self._require()
        assert self._prompts is not None
        try:
            prompt = await read(self._prompts)
        except PromptRefused as refused:
            return _error(400, "BadRequestError", str(refused))
        adapter = self._handle(request.model)
        if adapter is None:
            return _error(404, "NotFoundError", f"the model {request.model!r} does not exist")
        room = model.max_length - len(prompt)
        if room < 1 or (request.limit or 1) > room:
            return _error(
                400,
                "BadRequestError",
                f"the context holds {model.max_length} tokens; the prompt has {len(prompt)} "
                f"and max_tokens is {request.limit or 'not given'}",
            )
        answer = openai.Answer(
            request, len(prompt), _spelt_as_id if request.return_tokens_as_token_ids else model.spell
        )
        loop = asyncio.get_running_loop()

        def deliver(output: Output) -> None:
            loop.call_soon_threadsafe(answer.outputs.put_nowait, output)

        sampling = request.sampling(request.limit or room)
        sequence = Sequence(prompt, adapter, sampling, deliver, model.decode, model.eos)
        try:
            model.inference.submit(sequence)
        except Overloaded:
            return _error(503, "ServiceUnavailable", "too many requests are waiting", {"Retry-After": "1"})
        try:
            if request.stream:
                return await _stream(http, answer)
            return web.json_response(await answer.whole())
        except openai.AnswerFailed as error:
            return _error(500, "InternalServerError", str(error))
        finally:
            # Reached early when the caller has gone away: its row is given to others.
            model.inference.cancel(sequence)

    def _handle(self, name: str) -> int | None:
        if name == self.base_name:
            return BASE
        listed = self._adapters.get(name)
        return listed.handle if listed else None

    def _require(self) -> LoadedModel:
        if self._model is None:
            raise web.HTTPServiceUnavailable(text="the engine is starting", headers={"Retry-After": "1"})
        return self._model


def _spelt_as_id(token: int) -> str:
    return f"token_id:{token}"


async def _stream(http: web.Request, answer: openai.Answer) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(http)
    async for event in answer.events():
        await response.write(event)
    await response.write_eof()
    return response


async def _json(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body must be a JSON object")
    return body


async def _read(request: web.Request, bodies: BodyReader) -> Any:
    """Reads a request's body in its reader, and returns the served part of it, for the request's model to validate.

    Raises: HTTPBadRequest: the body is refused, or could not be read in time.
    """
    try:
        made = await bodies.read(await request.read())
    except BodyUnread as error:
        raise web.HTTPBadRequest(text=f"the body takes too long to read: {error}") from error
    if made.startswith(openai.REFUSED):
        raise web.HTTPBadRequest(text=made.removeprefix(openai.REFUSED).decode())
    return json.loads(made[1:])


@web.middleware
async def _json_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
        return response
    except web.HTTPException as error:
        headers = {k: v for k, v in error.headers.items() if k == "Retry-After"}
        return _error(error.status, type(error).__name__.removeprefix("HTTP"), error.text or error.reason, headers)


def _error(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response(openai.error_body(status, kind, message), status=status, headers=headers)


MAX_LENGTH = 1024
"""Tokens of a prompt and its answer together, where the base has room for more."""


def embedded_build(dtype: str = "float32") -> EngineBuild:
    """The build under which the embedded engine answers, and under which `evaluate` records canaries.

    The two compute an adapter's effect by different code (the engine's own batched forward; peft), so a canary
    that both agree on was not produced by one mistake. Positions whose margin is small do not count for either.
    """
    libraries = " ".join(f"{name}-{version(name)}" for name in ("transformers", "peft", "torch"))
    return EngineBuild(engine=f"embedded {libraries}", device="cpu", dtype=dtype)


def pad_token(tokenizer: Any) -> int:
    """Id to pad with: never the end-of-answer token, whatever the tokenizer's own configuration says."""
    eos = tokenizer.eos_token_id
    for token in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if token is not None and token != eos:
            return int(token)
    return 0 if eos != 0 else 1


def stop_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens at which an engine ends an answer: of the base's generation settings, and the tokenizer's own."""
    named = model.generation_config.eos_token_id
    ends = named if isinstance(named, list) else [named]
    return frozenset(int(end) for end in (*ends, tokenizer.eos_token_id) if end is not None)


def load_model(base: Path, threads: int, mixed: int) -> LoadedModel:
    """Reads the base, takes its digest and starts the inference thread. `mixed`: adapters of one batch at most.

    Raises: OSError, ValueError: the folder is no complete model.
    """
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    digest = base_manifest(base, "-", "-").digest  # the names are no part of it
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, use_kernels=False)
    model.eval().requires_grad_(False)
    inference = Inference(model, pad_token(tokenizer), threads, mixed)
    inference.start()
    length = min(MAX_LENGTH, int(model.config.max_position_embeddings))
    return LoadedModel(inference, tokenizer, digest, length, stop_tokens(model, tokenizer))
