"""Putting text on the clipboard of the terminal one sits at, through SSH and tmux."""

import asyncio
import contextlib

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
            *("load-buffer", "-w", "-"),
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
