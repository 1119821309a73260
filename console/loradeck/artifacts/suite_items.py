"""Reader of a suite's items, which checks them line by line: where they are registered, in the hub, in executors."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from loradeck.artifacts.dataset_rows import rows_in
from loradeck.artifacts.errors import BadArtifact
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.manifest import SuiteManifest
from loradeck.schemas.suite import ItemKind, SuiteItem


def items_in(paths: Mapping[str, Path]) -> list[SuiteItem]:
    """Reads every item of a suite, in file order.

    `paths`: name of a file -> its path.

    Raises: BadArtifact: `bad_rows`, with file and line.
    """
    found: dict[str, str] = {}
    items = []
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
        items.append(item)
    if not items:
        raise BadArtifact("bad_rows", "the suite has no items", ", ".join(paths), "one JSON object a line")
    return items


def verify_suite(manifest: SuiteManifest, paths: Mapping[str, Path]) -> None:
    """Checks that the files hold the suite that the manifest describes.

    Raises: BadArtifact: `bad_rows`, with the line; `manifest_mismatch`.
    """
    items = items_in(paths)
    if len(items) != manifest.items:
        raise BadArtifact(
            "manifest_mismatch",
            "the files hold another number of items than the manifest",
            f"{len(items):,}, not {manifest.items:,}",
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
