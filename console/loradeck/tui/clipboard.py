"""Putting text on the clipboard of the terminal one sits at, through SSH and tmux."""

from __future__ import annotations

import base64
from collections.abc import Mapping


def copied(text: str, env: Mapping[str, str]) -> str:
    """The OSC 52 sequence that copies `text`; inside tmux wrapped so that it reaches the outer terminal."""
    payload = base64.b64encode(text.encode()).decode()
    sequence = f"\x1b]52;c;{payload}\x07"
    if env.get("TMUX"):
        return "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    return sequence
