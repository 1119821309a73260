"""Names of people in rows, where the operator has named models for them: a process beside looks, batch by batch.

The process (`names_worker`) is another environment's where one is named, so that nothing of what the models need is
imported here. A row is searched by the model of its language, one whose language is not recognised by every model; how
many rows had no model of their own is counted.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows.barred_rows import texts_in
from loradeck.artifacts.rows.personal_data import Span, one_form
from loradeck.artifacts.rows.text_language import language
from loradeck.schemas.dataset_ledger import NameModels

TEXTS, CHARACTERS = 64, 50_000
"""Most texts of a batch, and most characters of all of them; a longer text is searched in pieces."""

LOAD_S, BATCH_S = 300, 120
"""Seconds after which a process that has not loaded, or not answered a batch, is given up."""

_WORKER = Path(__file__).with_name("names_worker.py")


class NameSearch:
    """Looks for names in rows. Use it in a `with`: the process is started by it and ends with it.

    `loaded`: language -> its model and the digest of its files. `without`: language -> rows for which there is no
    model; None: their language is not recognised.

    Raises: BadArtifact: `names_unavailable`, `model_differs`.
    """

    def __init__(self, models: NameModels) -> None:
        self._models = models
        self.loaded: dict[str, str] = {}
        self.without: Counter[str | None] = Counter()

    def __enter__(self) -> NameSearch:
        python = self._models.python or sys.executable
        try:
            self._process = subprocess.Popen(
                [python, "-I", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise _unavailable(f"{python}: {error.strerror}") from None
        try:
            self.loaded = self._ask(self._models.model_dump(include={"models"}), "loaded", LOAD_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._kill()
        self._process.communicate()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # an interpreter may be a script that has started it

    def in_rows(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, list[Span]]]:
        """Finds names in each row: text in one form -> places, only of texts in which some stand.

        Raises: BadArtifact: `names_unavailable`: the process has ended, or has not answered in time.
        """
        found: list[dict[str, list[Span]]] = [{} for _ in rows]
        asked: dict[str, list[tuple[int, str]]] = {}
        for number, row in enumerate(rows):
            texts = [one_form(text) for text in dict.fromkeys(texts_in(row)) if any(map(str.isalpha, text))]
            spoken = language("\n".join(texts))
            if texts and spoken not in self.loaded:
                self.without[spoken] += 1
            for one in self.loaded if spoken is None else self.loaded.keys() & {spoken}:
                asked.setdefault(one, []).extend((number, text) for text in texts)
        for spoken, those in asked.items():
            for batch in _batches(those):
                texts = [text[at : at + CHARACTERS] for _, text, at in batch]
                answers = self._ask({"language": spoken, "texts": texts}, "found", BATCH_S)
                for (number, text, at), spans in zip(batch, answers, strict=True):
                    if spans:
                        places = [(at + start, at + end) for start, end in spans]
                        found[number].setdefault(text, []).extend(places)
        return found

    def not_looked_for(self) -> list[str]:
        """Says in how many rows names were not looked for by a model of their language."""
        unknown = "whose language is not recognised, but for what these models find"
        return [
            f"names in {rows} rows {f'in {spoken}' if spoken else unknown}"
            for spoken, rows in sorted(self.without.items(), key=str)
        ]

    def _ask(self, line: dict[str, Any], wanted: str, seconds: float) -> Any:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(seconds, self._kill)
        late.start()
        try:
            process.stdin.write(json.dumps(line).encode() + b"\n")
            process.stdin.flush()
            said = process.stdout.readline()
        except BrokenPipeError:
            said = b""
        finally:
            late.cancel()
        if not said.endswith(b"\n"):
            raise _unavailable(f"the process that looks for names has ended, or not answered in {seconds} s")
        answer = json.loads(said)
        if "fault" in answer:
            code, title, fix = answer["fault"]
            raise BadArtifact(code, title, fix=fix)
        if wanted not in answer:
            raise _unavailable("the process that looks for names has ended")
        return answer[wanted]


def _unavailable(title: str) -> BadArtifact:
    return BadArtifact("names_unavailable", title, fix="see that its interpreter has loradeck[names] and memory enough")


def _batches(those: Sequence[tuple[int, str]]) -> Iterator[list[tuple[int, str, int]]]:
    """Yields batches of (row, text, where the piece of it begins)."""
    batch: list[tuple[int, str, int]] = []
    size = 0
    for number, text in those:
        for at in range(0, len(text), CHARACTERS):
            piece = min(CHARACTERS, len(text) - at)
            if batch and (len(batch) == TEXTS or size + piece > CHARACTERS):
                yield batch
                batch, size = [], 0
            batch.append((number, text, at))
            size += piece
    if batch:
        yield batch
