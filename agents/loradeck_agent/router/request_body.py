"""A caller's request as the router reads it: the settings that it needs itself, and the rest as the engine gets it.

The parameters in `PASSING` pass to every engine; what else an engine knows has to be allowed by the route. They are
OpenAI's, and those of vLLM's that shape this request's own answer. What reaches beyond one request stays out: its place
in the queue (`priority`), the engine's memory (`kv_transfer_params`, `cache_salt`), its programs (`chat_template`,
`logits_processors`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, TypeGuard

from loradeck_agent.host.body_reader import DEPTH, too_deep

# fmt: off
_BOTH = (
    "model", "stream", "stream_options", "temperature", "top_p", "n", "seed", "stop", "user", "metadata", "store",
    "service_tier", "logit_bias", "logprobs", "max_tokens", "frequency_penalty", "presence_penalty",
)
_CHAT = (
    "messages", "max_completion_tokens", "top_logprobs", "response_format", "tools", "tool_choice",
    "parallel_tool_calls", "functions", "function_call", "modalities", "audio", "prediction", "reasoning_effort",
    "verbosity", "prompt_cache_key", "safety_identifier", "add_generation_prompt", "continue_final_message",
)
_COMPLETION = ("prompt", "best_of", "echo", "suffix")
_SAMPLING = (
    "top_k", "min_p", "repetition_penalty", "length_penalty", "min_tokens", "ignore_eos", "stop_token_ids", "bad_words",
    "allowed_token_ids", "include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens",
    "truncate_prompt_tokens", "add_special_tokens", "return_tokens_as_token_ids", "return_token_ids", "guided_json",
    "guided_regex", "guided_choice", "guided_grammar", "structured_outputs",
)
# fmt: on

PASSING = frozenset((*_BOTH, *_CHAT, *_COMPLETION, *_SAMPLING))

_NUMBERS = (
    "temperature",
    "top_p",
    "n",
    "seed",
    "logprobs",
    "top_logprobs",
    "max_tokens",
    "max_completion_tokens",
    "frequency_penalty",
    "presence_penalty",
    "best_of",
    "echo",
    "parallel_tool_calls",
    "add_generation_prompt",
    "continue_final_message",
    "top_k",
    "min_p",
    "repetition_penalty",
    "length_penalty",
    "min_tokens",
    "ignore_eos",
    "skip_special_tokens",
    "truncate_prompt_tokens",
    "add_special_tokens",
)
"""Parameters whose numbers and switches the answer ledger names."""

_RECORDED = frozenset(_NUMBERS)

_FORMATS = frozenset({"text", "json_object", "json_schema", "structural_tag"})


def recorded(asked: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Picks what the answer ledger names of a request's body: numbers, switches and known words, and no text."""
    found: dict[str, bool | int | float | str] = {
        name: value for name, value in asked.items() if name in _RECORDED and isinstance(value, (bool, int, float))
    }
    form = asked.get("response_format")
    if isinstance(form, dict) and isinstance(kind := form.get("type"), str) and kind in _FORMATS:
        found["response_format"] = kind
    if isinstance(tools := asked.get("tools"), list):
        found["tools"] = len(tools)
    return found


NUMBERS = 2**63
"""No engine reads numbers beyond 64 bits, or NaN and infinity: a setting with one of these is its caller's mistake."""

ANSWER_TOKENS = 256
"""Tokens that an answer counts as where its request sets no limit."""

_SETTINGS = ("stream", "stream_options", "max_tokens", "max_completion_tokens", "n")
"""Settings that the router reads or changes; they stand apart from the rest of the body."""

_UNLISTED = 64
"""Most parameters of a body that not every route lets pass."""

_LONGEST = 512
"""Characters of a setting, as JSON, of `user` and of a parameter's name. A longer setting stays in the rest."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for one model. `rest`: the body as JSON, without the model and the settings."""

    model: str
    user: str | None
    settings: dict[str, Any]
    unlisted: list[str]
    """Parameters that not every route lets pass."""
    rest: bytes
    recorded: dict[str, bool | int | float | str] = field(default_factory=dict)
    """What the answer ledger names of it."""

    @property
    def streamed(self) -> bool:
        """Whether the answer is to come as events."""
        return bool(self.settings.get("stream"))

    @property
    def tokens(self) -> int:
        """Tokens that the request may cost: those that its answers may have, and one for every four bytes of it."""
        most = [self.settings.get(name) for name in ("max_completion_tokens", "max_tokens")]
        answer = next((limit for limit in most if _counts(limit)), ANSWER_TOKENS)
        answers = self.settings.get("n")
        return answer * (answers if _counts(answers) else 1) + len(self.rest) // 4

    def body(self, model: str) -> bytes:
        """The request as an engine gets it, for a model of that engine."""
        return self._with({"model": model, **self.settings})

    def whole(self, model: str) -> bytes:
        """The request for an answer in one piece."""
        settings = {name: value for name, value in self.settings.items() if name not in ("stream", "stream_options")}
        return self._with({"model": model, **settings})

    def for_one_token(self, model: str) -> bytes:
        """The request for one token of one answer, which is not streamed."""
        return self._with({"model": model, "max_tokens": 1})

    def _with(self, settings: dict[str, Any]) -> bytes:
        head = json.dumps(settings).encode()
        return head if self.rest == b"{}" else head[:-1] + b", " + self.rest[1:]


def _counts(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and value > 0


@dataclass(frozen=True, slots=True)
class Unfit:
    """Why a body cannot be taken, and what to do about it."""

    code: str
    message: str
    fix: str


def parse(raw: bytes) -> Asked | Unfit:
    """Reads a body."""
    try:
        asked = json.loads(raw)
    except RecursionError:
        return _TOO_DEEP
    except ValueError:
        return Unfit("bad_json", "The body is not JSON.", "Send a JSON object.")
    if too_deep(raw, asked):
        return _TOO_DEEP
    if not isinstance(asked, dict) or not isinstance(model := asked.pop("model", None), str):
        return _NO_MODEL
    for name, value in asked.items():
        if isinstance(value, _NUMBER) and not -NUMBERS <= value < NUMBERS:
            fix = "Send a finite one between -2^63 and 2^63 - 1."
            return Unfit("bad_number", f"The number of `{name[:64]}` is out of range.", fix)
    unlisted = [name for name in asked if name not in PASSING]
    if asked.get("echo") and asked.get("logprobs") is not None:
        unlisted.append("echo")  # together they are `prompt_logprobs`, which ends a vLLM on CPU for everybody
    if len(unlisted) > _UNLISTED or any(len(name) > _LONGEST for name in unlisted):
        return Unfit("unknown_parameter", "The body has parameters that no engine knows.", "Leave them out.")
    user, named = asked.get("user"), recorded(asked)
    return Asked(
        model=model,
        user=user if isinstance(user, str) and len(user) <= _LONGEST else None,
        settings={name: asked.pop(name) for name in _SETTINGS if name in asked and _is_short(asked[name])},
        unlisted=unlisted,
        rest=json.dumps(asked).encode(),
        recorded=named,
    )


def read(raw: bytes) -> bytes:
    """Reads a body in the child: a line of JSON with all but the rest, and then the rest."""
    made = parse(raw)
    head = {"unfit": astuple(made)} if isinstance(made, Unfit) else {**asdict(made), "rest": None}
    return json.dumps(head).encode() + b"\n" + (b"" if isinstance(made, Unfit) else made.rest)


def asked_of(made: bytes) -> Asked | Unfit:
    """Parses the child process's answer: the request it read, or why the body is refused."""
    line, _, rest = made.partition(b"\n")
    head = json.loads(line)
    return Unfit(*head["unfit"]) if "unfit" in head else Asked(**{**head, "rest": rest})


def _is_short(value: Any) -> bool:
    return value is None or isinstance(value, _NUMBER) or len(json.dumps(value)) <= _LONGEST


_NUMBER = (int, float)
_NO_MODEL = Unfit("no_model", "The body has no `model`.", "Name a tenant, or tenant/route; GET /v1/models lists them.")
_TOO_DEEP = Unfit(
    "bad_json", f"The body has objects or lists in each other more than {DEPTH} deep.", "Send it flatter."
)
