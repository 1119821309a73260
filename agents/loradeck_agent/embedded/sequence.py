"""One request under way in the engine, with the tokens it has been answered so far."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

REPLACEMENT = "\ufffd"

GREEDY_BELOW = 1e-5
"""Temperatures below this are greedy, as vLLM's: logits divided by less than this may not be finite."""


@dataclass(frozen=True)
class TokenOut:
    """One answered token. `top`: the likeliest tokens at this position, best first, with log-probabilities (nats)."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Output:
    """The part of an answer that one step added. The text may lag behind the tokens by a partial character."""

    tokens: tuple[TokenOut, ...] = ()
    text: str = ""
    finish: str | None = None  # stop | length | error
    error: str = ""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: greedily below the temperature GREEDY_BELOW. A request with a seed samples repeatably."""

    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # None: none wanted; 0: of the chosen token; n: of the n likeliest too
    ignore_eos: bool = False


@dataclass
class Sequence:
    """A request in the engine's queue or batch. `deliver` is called from the inference thread."""

    prompt: list[int]
    adapter: int
    sampling: Sampling
    deliver: Callable[[Output], None]
    decode: Callable[[list[int]], str]
    eos: frozenset[int]
    cancelled: bool = False
    tokens: list[int] = field(default_factory=list)
    finished: str | None = None
    _sent: int = 0  # characters of the answer already delivered
    _generator: torch.Generator | None = None

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.prompt) + len(self.tokens)

    def choose(self, logits: torch.Tensor) -> int:
        """The next token by these logits `[vocabulary]`."""
        if self.sampling.temperature < GREEDY_BELOW:
            return int(logits.argmax())
        if self._generator is None:
            self._generator = torch.Generator()
            if self.sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self.sampling.seed)
        probabilities = torch.softmax(logits.float() / self.sampling.temperature, -1)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))

    def advance(self, logits: torch.Tensor) -> None:
        """Takes one step: chooses a token, delivers it with its text, and notes whether the answer has ended."""
        if not bool(torch.isfinite(logits).all()):
            self.fail("the model's output is not finite under this adapter")
            return
        token = self.choose(logits)
        self.tokens.append(token)
        if token in self.eos and not self.sampling.ignore_eos:
            self.finished = "stop"
        elif len(self.tokens) >= self.sampling.max_tokens:
            self.finished = "length"
        text = self._final_text()
        self.deliver(Output((self._describe(token, logits),), text, self.finished))

    def fail(self, why: str) -> None:
        """Ends the answer with an error."""
        self.finished = "error"
        self.deliver(Output(finish="error", error=why))

    def crash(self, error: Exception) -> None:
        """Ends the answer because of an error in the engine."""
        self.fail(f"the engine failed: {type(error).__name__}: {error}")

    def _final_text(self) -> str:
        """Returns the text that is final: no half characters, nothing that may yet turn out to begin a stop string."""
        answer = self.tokens[:-1] if self.finished == "stop" else self.tokens
        text = self.decode(answer)
        end = len(text)
        found = [at for at in (text.find(stop) for stop in self.sampling.stop) if at >= 0]
        if found:
            self.finished, end = "stop", min(found)
        elif self.finished is None:
            end = len(text.rstrip(REPLACEMENT)) - self._withheld(text.rstrip(REPLACEMENT))
        end = max(end, self._sent)
        out, self._sent = text[self._sent : end], end
        return out

    def _withheld(self, text: str) -> int:
        """Characters at the end of `text` that are the beginning of a stop string."""
        longest = 0
        for stop in self.sampling.stop:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _describe(self, token: int, logits: torch.Tensor) -> TokenOut:
        wanted = self.sampling.logprobs
        if wanted is None:
            return TokenOut(token)
        logprobs = torch.log_softmax(logits.float(), -1)
        top: Any = torch.topk(logprobs, wanted) if wanted else None
        pairs = tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)) if wanted else ()
        return TokenOut(token, float(logprobs[token]), pairs)
