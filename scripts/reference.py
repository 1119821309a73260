"""Tables of the docs, written from what they list: commands, key bindings, and the rooms of the sources.

    python -m scripts.reference

rewrites what stands between the two markers of each document; a test fails when one is out of date.
"""

from __future__ import annotations

from pathlib import Path

from scripts import reference_commands, reference_keys, reference_rooms

DOCS = Path(__file__).parents[1] / "docs"

BEGIN = "<!-- written by python -m scripts.reference -->"
END = "<!-- /written -->"


def updated(document: str, reference: str) -> str:
    """Returns a document with another reference between its markers.

    Raises:
        ValueError: it lacks a marker.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document needs {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{reference}\n\n{END}{after}"


def documents() -> dict[Path, str]:
    """Returns the documents as they have to be."""
    written = {
        DOCS / "architecture.md": reference_rooms.reference(),
        DOCS / "cli.md": reference_commands.reference(),
        DOCS / "console.md": reference_keys.reference(),
    }
    return {path: updated(path.read_text(encoding="utf-8"), reference) for path, reference in written.items()}


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
