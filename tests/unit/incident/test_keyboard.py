"""The keyboard of the demo, on a program that answers as the console does."""

from __future__ import annotations

import sys

from incident.keyboard import Keyboard

ASKS = """
import os, sys, tty
tty.setraw(0)
for said in ("y or esc?", "y or esc?  y not taken", "taken"):
    sys.stdout.write("\\x1b[2J\\x1b[H" + said)
    sys.stdout.flush()
    os.read(0, 1)
os.read(0, 100)
"""
"""Takes the second `y` and not the first, which comes before its terminal has said that the question is shown."""


def test_a_y_that_was_not_taken_is_typed_again_until_it_is() -> None:
    with Keyboard((sys.executable, "-c", ASKS)) as keyboard:
        keyboard.wait("its question", lambda text: "y or esc?" in text, 30)
        keyboard.confirm()
        assert keyboard.text.split() == ["taken"]
