"""Training rows in other people's formats, read as ours: ShareGPT, Alpaca, prompt/completion, folders, parquet.

A row that fits none of them is passed on as it is, and refused by whoever checks rows. One that is of a format here and
says something that ours cannot say is refused with its place: nothing is left out without a word.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows.dataset_rows import rows_in

_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bing": "assistant",
    "system": "system",
}
"""ShareGPT's names of who speaks -> roles."""

_OURS = frozenset({"id", "provenance", "negative", "good", "tools"})
"""Fields of a row that are kept as they are."""

_KNOWN = ("conversations", "instruction", "completion", "chosen", "messages")
"""The fields by which formats are known, in this order. Fields that a format has beside its texts are left out."""

_SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-z])")
"""How the names of files begin that are of one split."""

_AT_ONCE = 1000
"""Rows of a table that are in memory at once."""

SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow")


def rows_of_any(path: Path, split: str = "train") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields every row of a file or of a folder of the datasets library as one of ours, with its place.

    `split`: which of a folder's splits.

    Raises: BadArtifact: `bad_rows`, with the place; `parquet_unavailable`: pyarrow is not installed.
    """
    for file in _files(path, split):
        rows = _columns(file) if file.suffix in (".parquet", ".arrow") else _texts(file)
        for where, row in rows:
            yield where, as_ours(row, where)


def is_foreign(path: Path) -> bool:
    """Tells whether rows have to be written anew as JSONL before they are registered.

    Raises: BadArtifact: `bad_rows`: one is of a format here and cannot be read. What is no row is left to later checks.
    """
    if path.is_dir() or path.suffix in SUFFIXES[1:]:
        return True
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and as_ours(row, f"{path.name}, line {number}") != row:
                return True
    return False


def as_ours(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A row as ours; one of no format that is known here stays as it is.

    Raises: BadArtifact: `bad_rows`: it is of such a format and cannot be read.
    """
    known = next((name for name in _KNOWN if row.get(name) is not None), None)
    match known:
        case "conversations":
            found: dict[str, Any] = {"messages": _sharegpt(row, where)}
        case "instruction":
            found = _alpaca(row, where)
        case "completion":
            found = _completion(row, where)
        case "chosen":
            found = _preference(row, where)
        case "messages":
            found = {**row, "messages": _messages(row["messages"], where)}
        case _:
            return dict(row)
    return found | {key: row[key] for key in _OURS & row.keys() if row[key] is not None}


def _sharegpt(row: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        raise _bad("conversations is not a list of turns", where, 'write [{"from": "human", "value": ...}, ...]')
    messages = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    for turn in turns:
        if isinstance(turn, dict) and "role" in turn:  # messages under ShareGPT's name
            messages += _messages([turn], where)
            continue
        speaker = turn.get("from") if isinstance(turn, dict) else None
        if speaker not in _SPEAKERS:
            raise _bad(
                f"a turn is from {speaker!r}",
                where,
                f"one of {', '.join(sorted(_SPEAKERS))}; calls of tools as messages with tool_calls (docs/training.md)",
            )
        messages.append({"role": _SPEAKERS[speaker], "content": _text(turn.get("value"), "value", where)})
    return messages


def _alpaca(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    if row.get("history"):
        raise _bad("a row of Alpaca's with a history", where, 'write it as {"messages": [...]}, turn by turn')
    question = _text(row["instruction"], "instruction", where)
    if row.get("input"):
        question += "\n\n" + _text(row["input"], "input", where)
    answer = _text(row.get("output"), "output", where)
    if not row.get("system"):
        return {"prompt": question, "answer": answer}
    turns = (("system", _text(row["system"], "system", where)), ("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def _completion(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    prompt, answer = row.get("prompt"), row["completion"]
    if row.get("label") is not None:  # trl's rows for KTO
        if not isinstance(row["label"], bool):
            raise _bad("label is neither true nor false", where, "true where the answer is one to learn")
        return _completion({**row, "label": None}, where) | {"good": row["label"]}
    if isinstance(prompt, list) or isinstance(answer, list):
        if not isinstance(prompt, list) or not isinstance(answer, list):
            raise _bad("prompt and completion are not both texts or both messages", where, "write both the same way")
        return {"messages": [*_messages(prompt, where), *_messages(answer, where)]}
    return {"prompt": _text(prompt, "prompt", where), "answer": _text(answer, "completion", where)}


def _preference(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    if row.get("messages") is not None:
        return {**row, "messages": _messages(row["messages"], where)}
    if all(isinstance(row.get(name), str | None) for name in ("prompt", "chosen", "rejected")):
        return dict(row)
    found: dict[str, Any] = {}
    for name in ("chosen", "rejected"):
        answer = row.get(name)
        if isinstance(answer, list):
            turns = _messages(answer, where)
            if len(turns) != 1 or row.get("prompt") is None:
                raise _bad(f"{name} is a whole conversation", where, "put what both begin with into prompt")
            answer = turns[0]["content"]
        found[name] = _text(answer, name, where)
    if isinstance(row.get("prompt"), list):
        return {"messages": _messages(row["prompt"], where), **found}
    return {"prompt": row.get("prompt"), **found}


def _messages(turns: Any, where: str) -> list[dict[str, Any]]:
    """Messages, with content that is a list of texts joined to one text. Anything else stays for whoever checks it."""
    if not isinstance(turns, list):
        return turns  # type: ignore[no-any-return]
    made = []
    for turn in turns:
        content = turn.get("content") if isinstance(turn, dict) else None
        if isinstance(content, list):
            strange = [p for p in content if not isinstance(p, dict) or p.get("type") != "text"]
            if strange:
                raise _bad("a message holds something other than text", where, "take it out: texts are trained alone")
            turn = {**turn, "content": "".join(str(part.get("text", "")) for part in content)}
        made.append(turn)
    return made


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise _bad(f"a row has no {name}, as text", where, "correct it, or take the row out")
    return value


def _files(path: Path, split: str) -> list[Path]:
    """The files of rows: the path itself, or those of one split of a folder."""
    if not path.is_dir():
        return [path]
    folder = path / split if (path / split).is_dir() else path
    found = sorted(file for file in folder.rglob("*") if file.suffix in SUFFIXES[:1] + SUFFIXES[2:])
    parts = {file: file.relative_to(folder).parts for file in found}
    found = [file for file in found if not any(part.startswith((".", "cache-")) for part in parts[file])]
    of_split = [file for file in found if re.match(rf"{re.escape(split)}[-._]", file.name)]
    if folder == path and (of_split or any(_SPLIT.match(file.name) for file in found)):
        found = of_split
    if not found:
        raise _bad("the folder holds no rows of this split", f"{path}, {split}", "name another with --split")
    return found


def _texts(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if file.suffix != ".json":
        yield from rows_in({file.name: file})
        return
    try:
        rows = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        raise _bad("the file is not JSON", str(file), "one list of objects, or JSONL in a file that ends so") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _bad("the file is no list of objects", str(file), "one list of objects, or JSONL in a file that ends so")
    for number, row in enumerate(rows, start=1):
        yield f"{file.name}, row {number}", row


def _columns(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError:
        raise BadArtifact(
            "parquet_unavailable",
            "parquet and arrow files are read by pyarrow, which is not installed here",
            str(file),
            "pip install 'loradeck[train]', or write the rows as JSONL",
        ) from None
    number = 0
    try:
        if file.suffix == ".parquet":
            batches: Any = pyarrow.parquet.ParquetFile(file).iter_batches(_AT_ONCE)
        else:
            batches = pyarrow.ipc.open_stream(pyarrow.memory_map(str(file)))
        for batch in batches:
            for start in range(0, batch.num_rows, _AT_ONCE):
                for row in batch.slice(start, _AT_ONCE).to_pylist():
                    number += 1
                    yield f"{file.name}, row {number}", _filled(row)
    except (pyarrow.ArrowException, OSError) as error:
        raise _bad("the file cannot be read as a table", f"{file}: {error}", "write it anew") from None


def _filled(value: Any) -> Any:
    """A row without the columns that it does not use: they are there all the same, as nothing."""
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items() if inner is not None}
    return [_filled(inner) for inner in value] if isinstance(value, list) else value


def _bad(title: str, where: str, fix: str) -> BadArtifact:
    return BadArtifact("bad_rows", title, where, fix)
