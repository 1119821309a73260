"""Sanitising of foreign text for a terminal: names, reasons, errors and log lines are data.

The console and the commands both print through this, so that no reason or file can move the cursor, change colours or
the window's title, reverse the reading order, or show a space that is none.
"""


def clean(text: str) -> str:
    """Replaces every character that steers a terminal or hides itself by a visible one, on one line.

    Line breaks and tabs become spaces, the other C0 controls their pictures (`␛`), and C1 controls, bidirectional and
    zero-width formats, surrogates, unassigned characters and every space but the ordinary one U+FFFD. The length in
    characters stays.
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else _visible(char) for char in text)


def _visible(char: str) -> str:
    if char in "\n\r\t":
        return " "
    return chr(0x2400 + ord(char)) if ord(char) < 0x20 else "\N{REPLACEMENT CHARACTER}"
