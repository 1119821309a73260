"""Prompts on their way to the batch: their characters are counted, then they are turned into tokens off the event loop.

A prompt with more characters than the context's tokens can have is refused unread. So the time that one prompt can take
is bounded by the context, and while it is read the event loop goes on with everybody else's requests.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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
