"""Text that leaves the console: to the clipboard of the terminal, through SSH and tmux, and to a file."""

import asyncio
import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path

MOST_BYTES = 74_994
"""Bytes of text that terminals accept: xterm reads sequences of up to 100,000, and base64 makes four of three.

More, cut in the middle, would be worse than nothing. tmux takes OSC 52 as it is where its `set-clipboard` is `on`.
"""

TMUX_S = 2.0
"""Seconds that tmux may take to accept a text."""


async def load_tmux_buffer(text: str) -> bool:
    """Put `text` into a buffer of the tmux around this terminal, which hands it on to the clipboard where it may.

    Returns whether tmux has it. Passing OSC 52 through tmux is off by default, so this is the way that works there.
    """
    try:
        tmux = await asyncio.create_subprocess_exec(
            "tmux",
            "load-buffer",
            "-w",
            "-",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return False
    try:
        async with asyncio.timeout(TMUX_S):
            await tmux.communicate(text.encode())
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            tmux.kill()
        await tmux.wait()
    return tmux.returncode == 0


def default_name(what: str, at_ms: int) -> Path:
    """`loradeck-tenants-20260304T031244Z.txt`, in the folder the console was started in."""
    return Path(f"loradeck-{what}-{datetime.fromtimestamp(at_ms / 1000, UTC):%Y%m%dT%H%M%SZ}.txt")


def save(path: Path, text: str) -> None:
    """Writes a new file that only this user can read. Raises: OSError; FileExistsError: it is left as it is."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
