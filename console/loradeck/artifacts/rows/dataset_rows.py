"""The rows of a dataset: their provenance counted into a ledger entry, scans for personal data, searches for erasure.

Reading a large dataset takes long, so the hub leaves it to a child process, which receives a `Task`.
"""

from __future__ import annotations

import heapq
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from loradeck.artifacts import child_process
from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows.barred_rows import Barred, content_of, row_digest, texts_in
from loradeck.artifacts.rows.contamination import folded_words, holding
from loradeck.artifacts.rows.name_search import TEXTS, NameSearch
from loradeck.artifacts.rows.near_duplicates import Likeness, triples
from loradeck.artifacts.rows.personal_data import DESCRIBED, NAME, NOT_LOOKED_FOR, PERSONAL, kinds_in, secrets
from loradeck.schemas.dataset_ledger import (
    LISTED,
    Finding,
    LedgerEntry,
    NameModels,
    Place,
    Reading,
    ScanReport,
    ToxicRows,
)
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.ids import Digest, Strict, digest_of
from loradeck.schemas.manifest import DatasetManifest, Origin, Provenance, QualityTier
from loradeck.schemas.route import Conversation, RowPrompt
from loradeck.schemas.training import WordList

LONGEST_ROW = 1 << 20
"""Longest JSONL row, in bytes."""

NOTHING_BARRED = Barred()

MOST_COMPARED = 1000
"""Most rows of a search with which others are compared: past that, nothing is looked for that is nearly the same."""

DEEPEST = 100
"""Levels of lists and objects in a row."""


def rows_in(paths: Mapping[str, Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields every row of a dataset with its place, such as `tickets.jsonl, line 3`. Blank lines are skipped.

    `paths`: name of a file in the manifest -> its path.

    Raises: BadArtifact: `bad_rows`, with the line.
    """
    for name, path in sorted(paths.items()):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{name}, line {number}"
                if len(line) > LONGEST_ROW:
                    raise BadArtifact("bad_rows", "a row is too long", where, f"at most {LONGEST_ROW:,} bytes")
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):  # its message would repeat the row's content
                    raise BadArtifact("bad_rows", "a row is not JSON", where, "one JSON object a line") from None
                if not isinstance(row, dict):
                    raise BadArtifact("bad_rows", "a row is not a JSON object", where, "one JSON object a line")
                if line.count(b"[") + line.count(b"{") > DEEPEST and _is_deep(row):
                    raise BadArtifact("bad_rows", "a row is nested too deep", where, f"at most {DEEPEST} levels")
                yield where, row


def _is_deep(row: dict[str, Any]) -> bool:
    level: list[Any] = [row]
    for _ in range(DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return bool(level)


def entry_of(
    manifest: DatasetManifest,
    paths: Mapping[str, Path],
    *,
    barred: Barred = NOTHING_BARRED,
    also: Callable[[str, Mapping[str, Any]], None] = lambda where, row: None,
) -> LedgerEntry:
    """Reads every row of a dataset and counts its provenance into a ledger entry.

    Args:
        barred: what must not come in.
        also: called with the place and content of every row.

    Raises: BadArtifact: `bad_rows`; `ledger_incomplete`: a row's provenance lacks something or contradicts itself;
    `erased_row`, `regulated_source`, `regulated_column`, `opted_out`.
    """
    counts = {"human": 0, "program": 0, "model": 0}
    sources, licences, consents, generators = set[str](), set[str](), set[str](), set[str]()
    tiers, days, biases = set(), set[int](), set[str]()
    purposes: set[str] | None = None
    depths, qualities = Counter[int](), Counter[QualityTier]()
    whole = manifest.provenance.model_dump(mode="json")
    if manifest.provenance.origin is not Origin.MIXED:
        _check(manifest.provenance, "the dataset's provenance")
    opted_out = list[str]()
    for where, row in rows_in(paths):
        barred.check(row, where)
        if barred.opted_out(row):
            opted_out.append(where)
        also(where, row)
        found = _provenance(manifest.provenance, whole, row, where)
        if found.origin is Origin.HUMAN:
            counts["human"] += 1
        else:
            counts["model" if found.synthetic_depth else "program"] += 1
            depths[found.synthetic_depth] += 1
        assert found.source is not None  # checked
        if found.source not in sources:
            barred.check_source(found.source, where)
            sources.add(found.source)
        licences.add(found.licence_class)
        consents.add(found.consent)
        tiers.add(found.tier)
        if found.known_biases is not None:
            biases.add(found.known_biases)
        if found.quality is not None:
            qualities[found.quality] += 1
        if found.retention_days is not None:
            days.add(found.retention_days)
        if found.generator_release is not None:
            generators.add(found.generator_release)
        purposes = set(found.purpose) if purposes is None else purposes & set(found.purpose)
    barred.refuse(opted_out)
    rows, deepest = sum(counts.values()), max(depths, default=0)
    if rows != manifest.rows:
        raise BadArtifact(
            "bad_rows", "the files hold another number of rows than the manifest", f"{rows:,}, not {manifest.rows:,}"
        )
    return LedgerEntry.model_validate(
        {
            "dataset": manifest.digest,
            "rows": rows,
            **counts,
            "deepest": deepest,
            "by_depth": [depths[depth] for depth in range(1, deepest + 1)] if deepest > 1 else (),
            "sources": sorted(sources)[:LISTED],
            "distinct_sources": len(sources),
            "licence_classes": sorted(licences),
            "consents": sorted(consents),
            "tiers": sorted(tiers),
            "purposes": sorted(purposes or ()),
            "retention_days": min(days, default=None),
            "generators": sorted(generators),
            "qualities": qualities,
            "biases": sorted(biases)[:LISTED],
        }
    )


def _provenance(dataset: Provenance, whole: Mapping[str, Any], row: Mapping[str, Any], where: str) -> Provenance:
    own = row.get("provenance")
    if own is None and dataset.origin is not Origin.MIXED:
        return dataset
    # The depth of a dataset of people's rows says nothing of those that are not.
    stated = dataset.origin is Origin.SYNTHETIC or dataset.synthetic_depth
    inherited = whole if stated else {key: value for key, value in whole.items() if key != "synthetic_depth"}
    try:
        found = Provenance.model_validate({**inherited, **(own or {})})
    except (ValidationError, TypeError) as error:
        what = first_wrong(error) if isinstance(error, ValidationError) else "it is not a JSON object"
        what = what.replace("Value error, ", "", 1)
        raise BadArtifact("ledger_incomplete", "a row's own provenance does not fit", f"{where}: {what}") from None
    return _check(found, where)


def _check(found: Provenance, where: str) -> Provenance:
    missing = [name for name, value in (("source", found.source), ("tier", found.tier)) if value is None]
    if found.origin is Origin.MIXED:
        missing.append("origin (human or synthetic)")
    if missing:
        raise BadArtifact(
            "ledger_incomplete",
            f"the ledger needs to know more of every row: {', '.join(missing)}",
            where,
            "set it in the provenance of the dataset, or in the row's own `provenance`",
        )
    if found.origin is Origin.HUMAN and (found.synthetic_depth or found.generator_release):
        raise BadArtifact(
            "ledger_incomplete",
            "a human row has no synthetic depth and no generator",
            where,
            "remove both, or set the origin to synthetic",
        )
    if found.generator_release and not found.synthetic_depth:
        raise BadArtifact(
            "ledger_incomplete", "a row that a release wrote has a depth of at least 1", where, "set synthetic_depth"
        )
    return found


class Scan:
    """A scan of rows for personal data, secrets and duplicates, row by row; see `personal_data`. Use it in a `with`.

    Names are looked for by `names`, and rows that hold a word of `toxic` are counted; None: not at all.

    Raises: BadArtifact: as `NameSearch`.
    """

    def __init__(self, names: NameModels | None, toxic: WordList | None = None) -> None:
        self._list, self._toxic = toxic, list[str]()
        self._is_toxic = holding(toxic.words) if toxic is not None else None
        self._context, self._detect, self._secrets = secrets()
        self._names = NameSearch(names) if names is not None else None
        self._waiting: list[tuple[str, Mapping[str, Any]]] = []
        self._open = ExitStack()
        self._found: dict[str, list[str]] = {}
        self._seen = set[str]()
        self._rows = 0

    def __enter__(self) -> Scan:
        self._open.enter_context(self._context)
        if self._names is not None:
            self._open.enter_context(self._names)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def row(self, where: str, row: Mapping[str, Any]) -> None:
        """Scans one row. `where` is its place, as reports name it."""
        self._rows += 1
        self._seen.add(row_digest(row))
        content = content_of(row)
        for kind in kinds_in(texts_in(content), self._detect):
            self._found.setdefault(kind, []).append(where)
        if self._is_toxic is not None and any(map(self._is_toxic, texts_in({**content, "rejected": None}))):
            self._toxic.append(where)
        if self._names is not None:
            self._waiting.append((where, content))
            if len(self._waiting) == TEXTS:
                self._search()

    def _search(self) -> None:
        if self._names is not None:
            found = self._names.in_rows([content for _, content in self._waiting])
            places = [where for (where, _), names in zip(self._waiting, found, strict=True) if names]
            self._found.setdefault(NAME, []).extend(places)
        self._waiting.clear()

    def report(self, dataset: Digest) -> ScanReport:
        """Findings of the rows so far, with at most `LISTED` places each, and the number of repeated rows."""
        self._search()
        findings = [Finding(kind=k, rows=len(w), where=tuple(w[:LISTED])) for k, w in sorted(self._found.items()) if w]
        toxic = None
        if (named := self._list) is not None:
            places = tuple(self._toxic[:LISTED])
            toxic = ToxicRows(list=named.name, digest=digest_of(named), rows=len(self._toxic), where=places)
        by = self._names.loaded.items() if self._names is not None else ()
        names = self._names.not_looked_for() if self._names is not None else ("names",)
        return ScanReport(
            dataset=dataset,
            rows=self._rows,
            looked_for=(*PERSONAL, *DESCRIBED, *(f"names in {language}, by {model}" for language, model in by)),
            secrets=self._secrets,
            not_looked_for=(*names, *NOT_LOOKED_FOR),
            findings=tuple(findings),
            duplicates=self._rows - len(self._seen),
            toxic=toxic,
        )


def reading_of(
    manifest: DatasetManifest,
    paths: Mapping[str, Path],
    barred: Barred = NOTHING_BARRED,
    names: NameModels | None = None,
    toxic: WordList | None = None,
) -> Reading:
    """Reads a dataset once for both its ledger entry and its scan. Raises as `entry_of` and `Scan` do."""
    with Scan(names, toxic) as scan:
        entry = entry_of(manifest, paths, barred=barred, also=scan.row)
        return Reading(entry=entry, scan=scan.report(manifest.digest))


class Held(Strict):
    """Files of a dataset to read, of a suite to scan, or of either to search.

    `paths`: name of a file in the manifest -> its path. `manifest`: needed to read a dataset.
    """

    digest: Digest
    manifest: DatasetManifest | None = None
    paths: dict[str, Path]


def scan_of(held: Held, barred: Barred = NOTHING_BARRED, names: NameModels | None = None) -> ScanReport:
    """Scans the items of a suite. Raises: BadArtifact: `bad_rows`, `opted_out`, as `Barred.check` and as `Scan`."""
    opted_out = list[str]()
    with Scan(names) as scan:
        for where, row in rows_in(held.paths):
            barred.check(row, where)
            if barred.opted_out(row):
                opted_out.append(where)
            scan.row(where, row)
        barred.refuse(opted_out)
        return scan.report(held.digest)


class Task(Strict):
    """A task that the hub gives to the child process that reads rows.

    `read` one dataset or `scan` one suite, refusing what is `barred`, looking for `names` and counting what is `toxic`;
    `find` in many: `rows`, and those `containing` a text; or choose `most` `prompts` of one.
    """

    do: Literal["read", "scan", "find", "prompts"]
    datasets: tuple[Held, ...]
    barred: Barred = NOTHING_BARRED
    names: NameModels | None = None
    toxic: WordList | None = None
    rows: tuple[Digest, ...] = ()
    containing: str | None = None
    most: int = 0


def find(task: Task) -> list[Place]:
    """Finds the wanted rows in every dataset, and those that are nearly the same as one of them (`alike`).

    A text matches any value of a row that holds it, ignoring case; or whose words, folded as in `contamination`, hold
    its words, so that accents in one character or two, letters that look alike and punctuation make no difference.
    Nothing is compared with more than `MOST_COMPARED` rows.

    Raises: BadArtifact: `bad_rows`.
    """
    wanted = set(task.rows)
    if task.containing:
        text, words = task.containing.casefold(), " ".join(folded_words(task.containing))
        for _, _, row in _every(task):
            for value in texts_in(row):
                if text in value.casefold() or (words and words in " ".join(folded_words(value))):
                    wanted.add(row_digest(row))  # and so its copies under another id or provenance
    own = {digest: row for _, _, row in _every(task) if (digest := row_digest(row)) in wanted}
    likeness = Likeness(map(_triples, own.values()) if len(own) <= MOST_COMPARED else ())
    places = []
    for dataset, where, row in _every(task):
        if (digest := row_digest(row)) in wanted or likeness.holds(_triples(row)):
            places.append(Place(dataset=dataset, where=where, row=digest, alike=digest not in wanted))
    return places


def _every(task: Task) -> Iterator[tuple[Digest, str, dict[str, Any]]]:
    for held in task.datasets:
        for where, row in rows_in(held.paths):
            yield held.digest, where, row


def _triples(row: Mapping[str, Any]) -> set[str]:
    return set[str]().union(*map(triples, texts_in(content_of(row))))


LONGEST_PROMPT = 2000
"""Most characters of a prompt that is proposed as a canary: every replica answers it once a minute."""


def prompt_of(row: Mapping[str, Any]) -> Conversation | None:
    """The messages of a row before its answer, as a caller would send them; None: none, with tools, or too long."""
    messages = row.get("messages") or [{"role": "user", "content": row.get("prompt")}]
    if not isinstance(messages, list):
        return None
    if "answer" not in row and "chosen" not in row:
        messages = messages[:-1]
    plain = all(isinstance(m, Mapping) and m.keys() == {"role", "content"} for m in messages)
    if not messages or row.get("tools") or not plain or messages[-1]["role"] != "user":
        return None
    texts = [text for message in messages for text in message.values()]
    if not all(isinstance(text, str) for text in texts) or not 0 < sum(map(len, texts)) <= LONGEST_PROMPT:
        return None
    return tuple(dict(message) for message in messages)


def prompts_of(held: Held, most: int) -> list[RowPrompt]:
    """Different prompts of a dataset, `most` of them, spread over its rows by their digests: always the same ones.

    Raises: BadArtifact: `bad_rows`.
    """
    kept: dict[Digest, RowPrompt] = {}
    for where, row in rows_in(held.paths):
        messages = prompt_of(row)
        if messages is not None:
            kept.setdefault(digest_of({"messages": messages}), RowPrompt(where=where, messages=messages))
        if len(kept) > 2 * most:
            kept = dict(heapq.nsmallest(most, kept.items(), key=lambda found: found[0]))
    return [prompt for _, prompt in heapq.nsmallest(most, kept.items(), key=lambda found: found[0])]


def _work(request: bytes) -> Any:
    task = Task.model_validate_json(request)
    if task.do == "read":
        (held,) = task.datasets
        assert held.manifest is not None
        return reading_of(held.manifest, held.paths, task.barred, task.names, task.toxic).model_dump(mode="json")
    if task.do == "scan":
        (held,) = task.datasets
        return scan_of(held, task.barred, task.names).model_dump(mode="json")
    if task.do == "prompts":
        (held,) = task.datasets
        return [prompt.model_dump(mode="json") for prompt in prompts_of(held, task.most)]
    return [place.model_dump() for place in find(task)]


if __name__ == "__main__":
    sys.exit(child_process.answer(_work))
