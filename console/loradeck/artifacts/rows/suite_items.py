"""Reader of a suite's items, which checks them line by line: where they are registered, in the hub, in executors."""

import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from pydantic import ValidationError

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows.dataset_rows import rows_in
from loradeck.artifacts.rows.near_duplicates import clusters
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.manifest import SuiteManifest
from loradeck.schemas.suite import Groups, HarnessTask, ItemKind, SuiteItem

NAMED = 8
"""Lines that a refusal names; the others are counted."""


def items_in(paths: Mapping[str, Path]) -> list[SuiteItem]:
    """Reads every item of a suite, in file order; none where a harness has them.

    `paths`: name of a file -> its path.

    Raises: BadArtifact: `bad_rows`, with file and line.
    """
    return [item for _, item in _placed(paths)]


def harness_in(paths: Mapping[str, Path]) -> HarnessTask | None:
    """Reads the task of a harness that a suite names in its one row; None: the suite has items of its own.

    Raises: BadArtifact: `bad_rows`.
    """
    rows = list(islice(rows_in(paths), 2))
    if not any("harness" in row for _, row in rows):
        return None
    try:
        (where, row), *more = rows
        if more:
            raise BadArtifact("bad_rows", "a row with a harness's task stands alone", where, "leave the others out")
        return HarnessTask.model_validate(row)
    except ValidationError as error:
        raise BadArtifact("bad_rows", f"this is no task of a harness: {first_wrong(error)}", where) from None


def groups_in(paths: Mapping[str, Path]) -> Groups:
    """Reads which items of a suite ask the same as an earlier one, or nearly so, and the slices that they name.

    Two items ask the same if the model is shown the same: equal messages but for white space and forms of characters
    (Unicode's NFKC), equal tools and equal choices. They ask nearly the same if what the user says, with the choices,
    nearly repeats (`near_duplicates.clusters`); what the system says is mostly the same for all.

    Raises: as `items_in`.
    """
    first: dict[str, str] = {}
    copies, slices, changed, items = {}, {}, set(), items_in(paths)
    for item in items:
        if (known := first.setdefault(_asked(item), item.id)) != item.id:
            copies[item.id] = known
        if item.slice is not None:
            slices[item.id] = item.slice
        if item.changed_on is not None:
            changed.add(item.id)
    single = [item for item in items if item.id not in copies]
    leads = clusters([_question(item) for item in single])
    near = {item.id: single[lead].id for item, lead in zip(single, leads, strict=True) if single[lead] is not item}
    return Groups(copies=copies, near=near, slices=slices, asked=first, changed=frozenset(changed))


def _question(item: SuiteItem) -> str:
    said = [message["content"] for message in item.prompt if message["role"] == "user"]
    return "\n".join([*said, *item.choices])


def _asked(item: SuiteItem) -> str:
    messages = [
        [message["role"], " ".join(unicodedata.normalize("NFKC", message["content"]).split())]
        for message in item.prompt
    ]
    return hashlib.sha256(json.dumps([messages, item.tools, item.choices], sort_keys=True).encode()).hexdigest()


def _placed(paths: Mapping[str, Path]) -> Iterator[tuple[str, SuiteItem]]:
    """Yields every item with its place; raises as `items_in` does."""
    found: dict[str, str] = {}
    if harness_in(paths) is not None:
        return
    for where, row in rows_in(paths):
        try:
            item = SuiteItem.model_validate(row)
        except ValidationError as error:
            title = first_wrong(error).replace("Value error, ", "", 1)
            raise BadArtifact("bad_rows", title, where, "docs/gates.md lists what each kind needs") from None
        if item.id in found:
            raise BadArtifact(
                "bad_rows",
                f"two items have the id {item.id!r}",
                f"{where}; the first is {found[item.id]}",
                "give each item an id of its own",
            )
        found[item.id] = where
        yield where, item
    if not found:
        raise BadArtifact("bad_rows", "the suite has no items", ", ".join(paths), "one JSON object a line")


def verify_suite(manifest: SuiteManifest, paths: Mapping[str, Path]) -> None:
    """Checks that the files hold the suite that the manifest describes.

    Raises: BadArtifact: `bad_rows`, with the line; `manifest_mismatch`.
    """
    task, placed = harness_in(paths), list(_placed(paths))
    _check_asked_once(placed)
    items = [item for _, item in placed]
    count = len(items) if task is None else task.items
    if count != manifest.items:
        raise BadArtifact(
            "manifest_mismatch",
            "the files hold another number of items than the manifest",
            f"{count:,}, not {manifest.items:,}",
        )
    strange = sorted(set(manifest.canaries) - {item.id for item in items})
    if strange:
        raise BadArtifact(
            "manifest_mismatch", f"no item has the id {strange[0]!r}", "canaries", "name items of this suite"
        )
    bare = [item.id for item in items if item.kind is ItemKind.JSON and item.answer_schema is None]
    if bare and manifest.answer_schema is None:
        raise BadArtifact(
            "bad_rows",
            f"the json item {bare[0]!r} has no schema, and neither has the suite",
            manifest.name,
            "give the item a `schema`, or the suite an answer schema",
        )


def _check_asked_once(placed: list[tuple[str, SuiteItem]]) -> None:
    """Raises BadArtifact `bad_rows` where items ask the same: they would count as many, and say no more than one."""
    first: dict[str, str] = {}
    again = [
        f"{where} is {known}" for where, item in placed if (known := first.setdefault(_asked(item), where)) != where
    ]
    if again:
        more = f", and {len(again) - NAMED} more" if len(again) > NAMED else ""
        raise BadArtifact(
            "bad_rows",
            f"{len(again)} of {len(placed)} items ask what an earlier one asks",
            "; ".join(again[:NAMED]) + more,
            "leave the copies out: all that ask the same are one item",
        )
