"""Putting text on the clipboard of the terminal one sits at, through SSH and tmux."""

from __future__ import annotations

import base64
from collections.abc import Mapping

MOST_BYTES = 74_994
"""Bytes of text that terminals accept: xterm reads sequences of up to 100,000, and base64 makes four of three."""


class TooLong(ValueError):
    """More text than terminals accept; cut in the middle it would be worse than nothing."""


def copied(text: str, env: Mapping[str, str]) -> str:
    """The OSC 52 sequence that copies `text`; inside tmux wrapped so that it reaches the outer terminal.

    Raises: TooLong.
    """
    data = text.encode()
    if len(data) > MOST_BYTES:
        raise TooLong(f"{len(data):,} bytes; terminals take {MOST_BYTES:,}")
    payload = base64.b64encode(data).decode()
    sequence = f"\x1b]52;c;{payload}\x07"
    if env.get("TMUX"):
        return "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    return sequence
