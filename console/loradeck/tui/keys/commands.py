"""The commands typed after `:`."""

COMMANDS: dict[str, str] = {
    "tenants": "the tenants screen",
    "nodes": "the nodes screen",
    "jobs": "the jobs screen",
    "gates": "the gates screen",
    "adapters": "the adapters screen",
    "events": "the events screen; with a word: filtered by it",
    "data": "the data screen",
    "capacity": "the capacity screen",
    "ml": "the ml screen: from a signal to new weights",
    "campaigns": "the campaigns screen: waves, budget, who moved, what stopped it",
    "promote": "promote vN on the selected row",
    "promote!": "the same against its gate, with a typed reason",
    "rollback": "what {rollback} does",
    "undo": "what {undo} does",
    "fallback": "what {fallback} does",
    "hold": "what {hold} does",
    "rewind": "rewind TIME or REV: what {rewind} does",
    "save": "save FILE: the list in front and its pane as text; without FILE a name with the time",
    "export": "export FILE.md or FILE.json: the events that the events screen lists, as a timeline for the post-mortem",
    "ctx": "ctx NAME: another hub of config.toml; without NAME: which there are",
    "help": "keys and commands",
    "q": "quit",
}
"""Every command by its name, and what it does. A name in braces stands for the key of that action."""


class CommandError(ValueError):
    """No such command, or an ambiguous beginning of several."""


def parse(text: str) -> tuple[str, str]:
    """A command's full name and its argument; ('', '') for nothing typed. Raises: CommandError."""
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


def complete(typed: str) -> str:
    """The command a prefix stands for, as far as it is unambiguous."""
    matches = [name for name in COMMANDS if name.startswith(typed)]
    if not typed or not matches:
        return typed
    first = matches[0]
    for size in range(len(first), 0, -1):
        if all(name.startswith(first[:size]) for name in matches):
            return first[:size]
    return typed
