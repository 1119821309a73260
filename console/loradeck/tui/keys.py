"""The keys, as data: help, the footer, the dispatch of key presses and the tests are all made of this table."""

from __future__ import annotations

from dataclasses import dataclass

from loradeck.tui.state import Screen

TENANTS = frozenset({Screen.TENANTS})
LISTS = frozenset(Screen)


@dataclass(frozen=True)
class Binding:
    """A key. `keys` are printable characters or the toolkit's key names; `shown` is how people read it.

    `moves`: it may change what is served, so it goes through the dispatch gate. `repeats`: it also acts when
    several keys came in one read, as they do from a key held down over a slow link. It only moves the selection or
    leaves something, so nothing is sent by it; every other key is no command then.
    """

    does: str
    keys: tuple[str, ...]
    shown: str
    label: str
    help: str
    where: frozenset[Screen] = LISTS
    moves: bool = False
    footer: bool = True
    repeats: bool = False


BINDINGS: tuple[Binding, ...] = (
    Binding(
        "rollback",
        ("R",),
        "R",
        "roll back",
        "Roll back to what `R goes to` shows. Acts at once when the preview has been on your screen for half a "
        "second and nothing stands against it; else it says why, or asks for y. With marks: all marked rows.",
        TENANTS,
        moves=True,
    ),
    Binding(
        "undo",
        ("u",),
        "u",
        "undo",
        "Undo the last move of this row. At once if it is your own and under 60 s old; else asks for y.",
        TENANTS,
        moves=True,
    ),
    Binding(
        "fallback",
        ("F",),
        "F",
        "base",
        "Fall back to the base alone. Asks for y.",
        TENANTS,
        moves=True,
    ),
    Binding(
        "promote",
        ("p",),
        "p",
        "promote",
        "Offer the newest release that is not live, with its gate; asks for y. Another one: `:promote vN`. Against "
        "the gate: `:promote! vN`, with a typed reason.",
        TENANTS,
        moves=True,
    ),
    Binding(
        "override",
        ("o",),
        "o",
        "override",
        "What p does, against the gate: offers the newest release that is not live and asks for a typed reason, which "
        "the event shows for ever. Needs the role releaser.",
        TENANTS,
        moves=True,
        footer=False,
    ),
    Binding(
        "hold",
        ("h",),
        "h",
        "hold",
        "Set or release the hold that keeps automation from promoting. Asks for y.",
        TENANTS,
        moves=True,
    ),
    Binding(
        "rewind",
        ("W",),
        "W",
        "rewind",
        "Put every pointer back as it was at a time (14:05, 20m ago) or a rev, in one transaction. With marks: only "
        "the pointers of the marked tenants. Shows what would move and what would stay; asks for y.",
        TENANTS,
        moves=True,
        footer=False,
    ),
    Binding(
        "incident",
        ("i",),
        "i",
        "incident",
        "Add an incident and a reason to the last move of the row, or to the selected event: INC-2210 what happened.",
        frozenset({Screen.TENANTS, Screen.EVENTS}),
        footer=False,
    ),
    Binding("confirm", ("y",), "y", "yes", "Do what the question above the footer says.", moves=True, footer=False),
    Binding(
        "copy",
        ("c",),
        "c",
        "copy",
        "Copy what names the selection: the live release's id, a node, a job, an event, a digest. While a move is not "
        "done: the command for the node that does not answer.",
        footer=False,
    ),
    Binding("mark", ("space",), "space", "mark", "Mark or unmark the row; esc clears.", TENANTS, footer=False),
    Binding(
        "mark_shown",
        ("*",),
        "*",
        "mark all",
        "Mark every row that the filter shows, or unmark them when all are marked.",
        TENANTS,
        footer=False,
    ),
    Binding(
        "related",
        ("m",),
        "m",
        "mark related",
        "Mark the rows of the ALSO line: live releases that share its dataset, recipe, move to another base, or batch "
        "of promotes. Unmark them when all are marked.",
        TENANTS,
        footer=False,
    ),
    Binding(
        "diff",
        ("d",),
        "d",
        "diff",
        "The live release beside the one that R goes to: what differs first, then what is alike.",
        TENANTS,
        footer=False,
    ),
    Binding(
        "mark_version",
        ("space",),
        "space",
        "mark",
        "Mark the version to compare with, or unmark it.",
        frozenset({Screen.ADAPTERS}),
    ),
    Binding(
        "compare",
        ("d",),
        "d",
        "compare",
        "The marked version beside the selected one: what differs first, then what is alike.",
        frozenset({Screen.ADAPTERS}),
    ),
    Binding(
        "traces",
        ("l",),
        "l",
        "traces",
        "The row's newest requests as its routers know them: who was served by which release, how long, and how it was "
        "judged.",
        TENANTS,
        footer=False,
    ),
    Binding(
        "export",
        ("x",),
        "x",
        "export ids",
        "Write the ids of the requests that the left release answered to a file; it says what may be missing.",
        TENANTS,
        footer=False,
    ),
    Binding(
        "drain",
        ("D",),
        "D",
        "drain",
        "Give the node no new jobs and let go of its GPU driver. Names what it serves and runs; asks for y.",
        frozenset({Screen.NODES}),
        moves=True,
    ),
    Binding(
        "cordon", ("C",), "C", "cordon", "Give the node no new jobs. Asks for y.", frozenset({Screen.NODES}), moves=True
    ),
    Binding(
        "uncordon",
        ("U",),
        "U",
        "uncordon",
        "End a cordon or a drain. Asks for y.",
        frozenset({Screen.NODES}),
        moves=True,
    ),
    Binding(
        "cancel",
        ("X",),
        "X",
        "cancel",
        "Stop the job. Says what will not come of it; asks for y.",
        frozenset({Screen.JOBS}),
        moves=True,
    ),
    Binding(
        "resume",
        ("S",),
        "S",
        "resume",
        "Queue a failed or cancelled job again, as its next attempt, on its node where that is free. Asks for y.",
        frozenset({Screen.JOBS}),
        moves=True,
    ),
    Binding(
        "sign",
        ("V",),
        "V",
        "sign",
        "Sign the review of the candidate with your name, once you have found each of its sampled answers good or bad "
        "(enter). Says how many are bad; asks for y.",
        frozenset({Screen.GATES}),
        moves=True,
        footer=False,  # the page of answers names it, where there is something to sign
    ),
    Binding(
        "sort",
        ("s",),
        "s",
        "sort",
        "Sort by attention, tenant, live release or newest move in turn; the header says which. Not by figures: those "
        "of rows that nobody looks at are not known.",
        TENANTS,
        footer=False,
    ),
    Binding("json", ("J",), "J", "json", "The selected row as the hub sent it, in JSON.", footer=False),
    Binding("filter", ("/",), "/", "filter", "Show only rows that match a regular expression; `!` in front inverts."),
    Binding(
        "command",
        (":",),
        ":",
        "command",
        "Type a command; tab completes it, up and down go through the earlier ones, `:help` lists them.",
    ),
    Binding("tenants", ("1",), "1", "tenants", "Every tenant's pointer, what it serves, and where R would go."),
    Binding("nodes", ("2",), "2", "nodes", "Nodes, their GPUs, engines and loaded releases."),
    Binding("jobs", ("3",), "3", "jobs", "Training, evaluation and prepare jobs with their progress."),
    Binding("gates", ("4",), "4", "gates", "A candidate against what was live, check by check."),
    Binding("adapters", ("5",), "5", "adapters", "Adapter versions: origin, scores, where each is live."),
    Binding("events", ("6",), "6", "events", "The log, newest first, and whether its chain holds."),
    Binding("data", ("7",), "7", "data", "Datasets and suites: origin, consent, licence, purpose."),
    Binding("down", ("j", "down"), "j/down", "", "Next row.", footer=False, repeats=True),
    Binding("up", ("k", "up"), "k/up", "", "Previous row.", footer=False, repeats=True),
    Binding("page_down", ("pagedown", "ctrl+f", "ctrl+d"), "PgDn", "", "One page down.", footer=False, repeats=True),
    Binding("page_up", ("pageup", "ctrl+b", "ctrl+u"), "PgUp", "", "One page up.", footer=False, repeats=True),
    Binding("first", ("g", "home"), "g", "", "First row.", footer=False),
    Binding("last", ("G", "end"), "G", "", "Last row.", footer=False),
    Binding(
        "enter",
        ("enter",),
        "enter",
        "",
        "On a tenant: its events. On an event: its tenant. On a node: everything about it. On a job: its plots and "
        "its log. On a gate result: the sampled answers to look at, one by one. On an adapter: what it was built from.",
        LISTS - {Screen.DATA},
        footer=False,
    ),
    Binding(
        "escape",
        ("escape",),
        "esc",
        "",
        "Leave a question, the rollback panel, the last result, a filter, the marks, then the screen.",
        footer=False,
        repeats=True,
    ),
    Binding("help", ("?",), "?", "help", "This page.", footer=False),
    Binding("quit", ("q", "ctrl+c", "ctrl+q"), "q", "quit", "Back; on the tenants screen quit. Asks while a move "
            "of yours has not settled."),
)  # fmt: skip


def lookup(pressed: str, screen: Screen) -> Binding | None:
    """The binding of a key on a screen; None when it means nothing there."""
    for binding in BINDINGS:
        if pressed in binding.keys and screen in binding.where:
            return binding
    return None


def elsewhere(pressed: str, screen: Screen) -> Binding | None:
    """A binding of a key that means something on another screen only."""
    for binding in BINDINGS:
        if pressed in binding.keys and screen not in binding.where:
            return binding
    return None


def hints(screen: Screen) -> list[Binding]:
    """What the footer shows."""
    return [binding for binding in BINDINGS if screen in binding.where and binding.footer]


COMMANDS: dict[str, str] = {
    "tenants": "the tenants screen",
    "nodes": "the nodes screen",
    "jobs": "the jobs screen",
    "gates": "the gates screen",
    "adapters": "the adapters screen",
    "events": "the events screen; with a word: filtered by it",
    "data": "the data screen",
    "promote": "promote vN on the selected row",
    "promote!": "the same against its gate, with a typed reason",
    "rollback": "what R does",
    "undo": "what u does",
    "fallback": "what F does",
    "hold": "what h does",
    "rewind": "rewind TIME or REV: what W does",
    "save": "save FILE: the list in front and its pane as text; without FILE a name with the time",
    "export": "export FILE.md or FILE.json: the events that the events screen lists, as a timeline for the post-mortem",
    "ctx": "ctx NAME: another hub of config.toml; without NAME: which there are",
    "help": "keys and commands",
    "q": "quit",
}
"""What `:` understands, and what each does."""


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
