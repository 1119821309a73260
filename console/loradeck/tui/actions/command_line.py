"""What is typed after `:`."""

from __future__ import annotations

from loradeck.tui.gate.key_bindings import COMMANDS


class CommandError(ValueError):
    """No such command, or an ambiguous beginning of several."""


def parse(text: str) -> tuple[str, str]:
    """A command's full name and its argument; ('', '') for nothing typed.

    Raises: CommandError.
    """
    typed, _, argument = text.strip().partition(" ")
    if not typed:
        return ("", "")
    if typed in ("quit", "q!"):
        typed = "q"
    if typed in COMMANDS:
        return (typed, argument.strip())
    matches = [name for name in COMMANDS if name.startswith(typed)]
    if len(matches) == 1:
        return (matches[0], argument.strip())
    if matches:
        raise CommandError(f":{typed} could be {', '.join(matches)}")
    raise CommandError(f"no command :{typed}; known are {' '.join(COMMANDS)}")
