"""The golden messages: one file per message type, as it is on the wire (indented, for people to read).

Run as a program, it reads every file with today's types and writes it again. That is what to do after a field
was *added*: the difference then shows the new field and nothing else. A field that was renamed or removed
loses its value here, which is what these files are there to show.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from loradeck.schemas.feed import FeedMessage, FeedShow
from loradeck.schemas.link import DownMessage, UpMessage
from loradeck.schemas.table import Pin, TableEntry

FOLDER = Path(__file__).parent / "golden"
FOLDER_1 = Path(__file__).parent / "golden_1"
"""The messages of version 1 of the wire. They are never written again."""

TYPES: dict[str, Any] = {
    "down": DownMessage,
    "up": UpMessage,
    "feed": FeedMessage,
    "feed/show": FeedShow,
    "table/entry": TableEntry,
    "table/candidate": TableEntry,
    "table/shadow": TableEntry,
    "table/callers": TableEntry,
    "table/content": TableEntry,
    "table/on_demand": TableEntry,
    "table/tombstone": TableEntry,
    "table/pin": Pin,
}
"""Family, or family/name where a file is no member of its family's union."""


def files(folder: Path = FOLDER) -> list[Path]:
    return sorted(folder.glob("*/*.json"))


def name_of(path: Path) -> str:
    """'down/desired'."""
    return f"{path.parent.name}/{path.stem}"


def adapter_of(path: Path) -> TypeAdapter[Any]:
    name = name_of(path)
    return TypeAdapter(TYPES[name] if name in TYPES else TYPES[path.parent.name])


def written(message: BaseModel) -> bytes:
    return message.model_dump_json(indent=2).encode() + b"\n"


def main() -> None:
    for path in files():
        path.write_bytes(written(adapter_of(path).validate_json(path.read_bytes())))


if __name__ == "__main__":
    main()
