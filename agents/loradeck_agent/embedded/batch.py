"""The rows that a model is decoding together, each at its own position and under its own adapter.

A row is one request under way, with the tokens it has been answered so far. Rows share one cache whose columns are
padded on the left. New rows are prefilled on their own and then joined; finished rows are dropped, with the columns
only they used. So a short request neither waits for a long one nor for others to arrive.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional
from transformers import Cache

from loradeck_agent.embedded.adapter_bank import AdapterBank
from loradeck_agent.embedded.prefix_cache import Prefixes, growing_cache

log = logging.getLogger(__name__)

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


class Batch:
    """Rows under way in `model`. Used from the inference thread only.

    `pad`: id of the padding token; never the end-of-answer token.
    """

    def __init__(self, model: torch.nn.Module, bank: AdapterBank, pad: int) -> None:
        self.rows: list[Sequence] = []
        self._model = model
        self._bank = bank
        self._pad = pad
        self._prefixes = Prefixes()
        self._cache: Cache | None = None
        self._mask = torch.empty(0, 0, dtype=torch.long)  # [rows, columns]: 1 where a column is the row's own

    def to_compute(self, row: Sequence) -> int:
        """Tokens of a waiting row's prompt that its prefill must compute."""
        return len(row.prompt) - self._prefixes.find(row.adapter, row.prompt).count

    def forget(self, adapter: int) -> None:
        """Drops what is kept for an adapter that no row uses any more."""
        self._prefixes.drop(adapter)

    @torch.inference_mode()
    def admit(self, group: list[Sequence]) -> None:
        """Prefills new rows together, gives each its first token, and joins those that go on to the batch.

        Where they cannot be prefilled together, each is tried alone, so that only the row at fault fails.
        """
        try:
            logits, cache, mask = self._prefill(group)
        except Exception as error:
            log.exception("a prefill of %d requests failed", len(group))
            if len(group) == 1:
                group[0].crash(error)
            else:
                for row in group:
                    self.admit([row])
            return
        _advance(group, logits)
        if self._cache is None or not self.rows:
            self.rows, self._cache, self._mask = list(group), cache, mask
        else:
            self._join(cache, mask)
            self.rows.extend(group)
        self.drop_finished()

    @torch.inference_mode()
    def step(self) -> None:
        """Gives every row its next token and drops those that ended.

        Where that fails for all together, each takes this step alone, so that only the row at fault fails.
        """
        assert self._cache is not None
        columns = self._mask.shape[1]
        try:
            logits = self._decode(self.rows, self._mask, self._cache)
        except Exception as error:
            log.exception("a step of %d requests failed", len(self.rows))
            if len(self.rows) == 1:
                self.rows[0].crash(error)
            else:
                self._step_alone(columns)
        else:
            self._mask = functional.pad(self._mask, (0, 1), value=1)
            _advance(self.rows, logits)
        self.drop_finished()

    def _step_alone(self, columns: int) -> None:
        """Gives each row its next token on its own. `columns`: of the cache, before the failed step wrote to it."""
        assert self._cache is not None
        before = [(layer.keys[:, :, :columns], layer.values[:, :, :columns]) for layer in self._cache.layers]
        rows, caches = [], []
        for number, row in enumerate(self.rows):
            one = slice(number, number + 1)
            cache = growing_cache()
            for layer, (keys, values) in enumerate(before):
                cache.update(keys[one], values[one], layer)
            try:
                logits = self._decode([row], self._mask[one], cache)
            except Exception as error:
                log.exception("a step of one request failed")
                row.crash(error)
                continue
            _advance([row], logits)
            rows.append(number)
            caches.append(cache)
        if not rows:
            self.clear()
            return
        self.rows = [self.rows[number] for number in rows]
        self._mask = functional.pad(self._mask[rows], (0, 1), value=1)
        for number, layer in enumerate(self._cache.layers):
            layer.keys = torch.cat([cache.layers[number].keys for cache in caches])
            layer.values = torch.cat([cache.layers[number].values for cache in caches])

    @torch.inference_mode()
    def drop_finished(self) -> None:
        """Drops rows that ended or were cancelled, and the columns that nobody else used."""
        keep = [i for i, row in enumerate(self.rows) if row.finished is None and not row.cancelled]
        if len(keep) == len(self.rows):
            return
        if not keep:
            self.clear()
            return
        self.rows = [self.rows[i] for i in keep]
        index = torch.tensor(keep)
        mask = self._mask[index]
        first = int(mask.any(0).int().argmax())
        self._mask = mask[:, first:]
        assert self._cache is not None
        for layer in self._cache.layers:
            layer.keys = layer.keys[index, :, first:]
            layer.values = layer.values[index, :, first:]

    def clear(self) -> None:
        """Forgets every row and its cache."""
        self.rows, self._cache, self._mask = [], None, torch.empty(0, 0, dtype=torch.long)

    def _prefill(self, group: list[Sequence]) -> tuple[torch.Tensor, Cache, torch.Tensor]:
        """Logits, cache and mask of new rows. The batch is as before."""
        shared = [self._prefixes.find(row.adapter, row.prompt) for row in group]
        fresh = [row.prompt[begin.count :] for row, begin in zip(group, shared, strict=True)]
        begun, width = max(begin.count for begin in shared), max(map(len, fresh))
        ids = torch.tensor([[self._pad] * (width - len(tokens)) + tokens for tokens in fresh])
        mask = torch.tensor(
            [
                [0] * (begun - begin.count) + [1] * begin.count + [0] * (width - len(tokens)) + [1] * len(tokens)
                for begin, tokens in zip(shared, fresh, strict=True)
            ]
        )
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, begun:]
        cache = self._prefixes.start(shared)
        logits = self._forward(group, ids, mask, positions, cache)
        for number, row in enumerate(group):
            self._prefixes.keep(row.adapter, row.prompt, cache, number, mask[number])
        return logits, cache, mask

    def _decode(self, rows: list[Sequence], mask: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Logits of the rows' next tokens. `mask`: of the cache, to which their newest tokens are added."""
        ids = torch.tensor([[row.tokens[-1]] for row in rows])
        positions = torch.tensor([[row.length - 1] for row in rows])
        return self._forward(rows, ids, functional.pad(mask, (0, 1), value=1), positions, cache)

    def _forward(
        self, rows: list[Sequence], ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache
    ) -> torch.Tensor:
        """Logits of the last column, `[rows, vocabulary]`."""
        self._bank.select([row.adapter for row in rows])
        out = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, cache=cache, use_cache=True, logits_to_keep=1
        )
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def _join(self, cache: Cache, mask: torch.Tensor) -> None:
        assert self._cache is not None
        ours, theirs = self._mask.shape[1], mask.shape[1]
        left, right = max(0, theirs - ours), max(0, ours - theirs)
        self._mask = torch.cat([functional.pad(self._mask, (left, 0)), functional.pad(mask, (right, 0))])
        for mine, new in zip(self._cache.layers, cache.layers, strict=True):
            mine.keys = _stack(mine.keys, left, new.keys, right)
            mine.values = _stack(mine.values, left, new.values, right)


def _advance(rows: list[Sequence], logits: torch.Tensor) -> None:
    """Gives each row its next token, by logits `[rows, vocabulary]`. A row in which that fails ends alone."""
    for row, row_logits in zip(rows, logits, strict=True):
        try:
            row.advance(row_logits)
        except Exception as error:
            log.exception("a request failed")
            row.crash(error)


def _stack(a: torch.Tensor, a_left: int, b: torch.Tensor, b_left: int) -> torch.Tensor:
    """Rows of `b` under those of `a`, both padded on the left with zero columns to the same width."""
    return torch.cat([functional.pad(a, (0, 0, a_left, 0)), functional.pad(b, (0, 0, b_left, 0))])
