"""The parameters of a request that pass to every engine. What else an engine knows has to be allowed by the route.

They are OpenAI's, and those of vLLM's that shape this request's own answer. What reaches beyond one request stays out:
its place in the queue (`priority`), the engine's memory (`kv_transfer_params`, `cache_salt`), its programs
(`chat_template`, `logits_processors`).
"""

from collections.abc import Mapping
from typing import Any

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
    *("temperature", "top_p", "n", "seed", "logprobs", "top_logprobs", "max_tokens", "max_completion_tokens"),
    *("frequency_penalty", "presence_penalty", "best_of", "echo", "parallel_tool_calls", "add_generation_prompt"),
    *("continue_final_message", "top_k", "min_p", "repetition_penalty", "length_penalty", "min_tokens", "ignore_eos"),
    *("skip_special_tokens", "truncate_prompt_tokens", "add_special_tokens"),
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
