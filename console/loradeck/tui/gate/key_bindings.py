"""The keys, as data: help, the footer, the dispatch of key presses and the tests are all made of this table."""

from __future__ import annotations

from dataclasses import dataclass

from loradeck.tui.model.state import Screen

TENANTS = frozenset({Screen.TENANTS})
LISTS = frozenset(Screen)


@dataclass(frozen=True)
class Binding:
    """A key. `keys` are printable characters or the toolkit's key names; `shown` is how people read it.

    `moves`: it may change what is served, so it goes through the dispatch gate. `repeats`: it also acts when
    several keys came in one read, as they do from a key held down over a slow link. It only moves the selection or
    leaves something, so nothing is sent by it; every other key is no command then. `hint`: how soon the footer names
    it, 1 first; 0: never. What does not fit is dropped from the highest on.
    """

    does: str
    keys: tuple[str, ...]
    shown: str
    label: str
    help: str
    where: frozenset[Screen] = LISTS
    moves: bool = False
    hint: int = 0
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
        hint=1,
    ),
    Binding(
        "undo",
        ("u",),
        "u",
        "undo",
        "Undo the last move of this row. At once if it is your own and under 60 s old; else asks for y.",
        TENANTS,
        moves=True,
        hint=2,
    ),
    Binding(
        "fallback",
        ("F",),
        "F",
        "base",
        "Fall back to the base alone. Asks for y.",
        TENANTS,
        moves=True,
        hint=3,
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
        hint=8,
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
    ),
    Binding(
        "hold",
        ("h",),
        "h",
        "hold",
        "Set or release the hold that keeps automation from promoting. Asks for y.",
        TENANTS,
        moves=True,
        hint=9,
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
        hint=6,
    ),
    Binding(
        "incident",
        ("i",),
        "i",
        "incident",
        "Add an incident and a reason to the last move of the row, or to the selected event: INC-2210 what happened.",
        frozenset({Screen.TENANTS, Screen.EVENTS}),
        hint=12,
    ),
    Binding("confirm", ("y",), "y", "yes", "Do what the question above the footer says.", moves=True),
    Binding("mark", ("space",), "space", "mark", "Mark or unmark the row; esc clears.", TENANTS, hint=10),
    Binding(
        "mark_shown",
        ("*",),
        "*",
        "mark all",
        "Mark every row that the filter shows, or unmark them when all are marked.",
        TENANTS,
    ),
    Binding(
        "related",
        ("m",),
        "m",
        "mark related",
        "Mark the rows of the ALSO line: live releases that share its dataset, recipe, move to another base, or batch "
        "of promotes. Unmark them when all are marked.",
        TENANTS,
        hint=11,
    ),
    Binding(
        "diff",
        ("d",),
        "d",
        "diff",
        "The live release beside the one that R goes to: what differs first, then what is alike.",
        TENANTS,
        hint=11,
    ),
    Binding(
        "mark_version",
        ("space",),
        "space",
        "mark",
        "Mark the version to compare with, or unmark it.",
        frozenset({Screen.ADAPTERS}),
        hint=2,
    ),
    Binding(
        "compare",
        ("d",),
        "d",
        "compare",
        "The marked version beside the selected one: what differs first, then what is alike.",
        frozenset({Screen.ADAPTERS}),
        hint=3,
    ),
    Binding(
        "traces",
        ("l",),
        "l",
        "traces",
        "The row's newest requests as its routers know them: who was served by which release, how long, and how it was "
        "judged.",
        TENANTS,
        hint=12,
    ),
    Binding(
        "export",
        ("x",),
        "x",
        "export ids",
        "Write the ids of the requests that the left release answered to a file; it says what may be missing.",
        TENANTS,
        hint=13,
    ),
    Binding(
        "drain",
        ("D",),
        "D",
        "drain",
        "Give the node no new jobs and let go of its GPU driver. Names what it serves and runs; asks for y.",
        frozenset({Screen.NODES}),
        moves=True,
        hint=1,
    ),
    Binding(
        "cordon",
        ("C",),
        "C",
        "cordon",
        "Give the node no new jobs. Asks for y.",
        frozenset({Screen.NODES}),
        moves=True,
        hint=2,
    ),
    Binding(
        "uncordon",
        ("U",),
        "U",
        "uncordon",
        "End a cordon or a drain. Asks for y.",
        frozenset({Screen.NODES}),
        moves=True,
        hint=3,
    ),
    Binding(
        "cancel",
        ("X",),
        "X",
        "cancel",
        "Stop the job. Says what will not come of it; asks for y.",
        frozenset({Screen.JOBS}),
        moves=True,
        hint=1,
    ),
    Binding(
        "resume",
        ("S",),
        "S",
        "resume",
        "Queue a failed or cancelled job again, as its next attempt, on its node where that is free. Asks for y.",
        frozenset({Screen.JOBS}),
        moves=True,
        hint=2,
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
        # The page of answers names it in its bar, where there is something to sign.
    ),
    Binding(
        "sort",
        ("s",),
        "s",
        "sort",
        "Sort by attention, tenant, live release or newest move in turn; the header says which. Not by figures: those "
        "of rows that nobody looks at are not known.",
        TENANTS,
        hint=14,
    ),
    Binding(
        "copy",
        ("c",),
        "c",
        "copy",
        "Copy what names the selection: the live release's id, a node, a job, an event, a digest. While a move is not "
        "done: the command for the node that does not answer.",
        hint=15,
    ),
    Binding("json", ("J",), "J", "json", "The selected row as the hub sent it, in JSON.", hint=16),
    Binding(
        "filter",
        ("/",),
        "/",
        "filter",
        "Show only rows that match a regular expression; `!` in front inverts.",
        hint=4,
    ),
    Binding(
        "command",
        (":",),
        ":",
        "command",
        "Type a command; tab completes it, up and down go through the earlier ones, `:help` lists them.",
        hint=7,
    ),
    Binding("tenants", ("1",), "1", "tenants", "Every tenant's pointer, what it serves, and where R would go."),
    Binding("nodes", ("2",), "2", "nodes", "Nodes, their GPUs, engines and loaded releases."),
    Binding("jobs", ("3",), "3", "jobs", "Training, evaluation and prepare jobs with their progress."),
    Binding("gates", ("4",), "4", "gates", "A candidate against what was live, check by check."),
    Binding("adapters", ("5",), "5", "adapters", "Adapter versions: origin, scores, where each is live."),
    Binding("events", ("6",), "6", "events", "The log, newest first, and whether its chain holds."),
    Binding("data", ("7",), "7", "data", "Datasets and suites: origin, consent, licence, purpose."),
    Binding("down", ("j", "down"), "j/down", "", "Next row.", repeats=True),
    Binding("up", ("k", "up"), "k/up", "", "Previous row.", repeats=True),
    Binding("page_down", ("pagedown", "ctrl+f", "ctrl+d"), "PgDn", "", "One page down.", repeats=True),
    Binding("page_up", ("pageup", "ctrl+b", "ctrl+u"), "PgUp", "", "One page up.", repeats=True),
    Binding("first", ("g", "home"), "g", "", "First row."),
    Binding("last", ("G", "end"), "G", "", "Last row."),
    *(
        Binding("enter", ("enter",), "enter", label, says, frozenset({screen}), hint=hint)
        for screen, label, says, hint in (
            (Screen.TENANTS, "events", "The row's events.", 10),
            (Screen.NODES, "details", "Everything about the node, with its last five minutes.", 3),
            (Screen.JOBS, "plots, log", "The job's plots and its log.", 1),
            (Screen.GATES, "answers", "The candidate's sampled answers, to look at one by one and to sign for.", 1),
            (Screen.ADAPTERS, "built from", "What the version was built from.", 1),
            (Screen.EVENTS, "its row", "The event's row on the tenants screen.", 1),
        )
    ),
    Binding(
        "escape",
        ("escape",),
        "esc",
        "",
        "Leave a question, the rollback panel, the last result, a filter, the marks, then the screen.",
        repeats=True,
    ),
    Binding("help", ("?",), "?", "help", "This page."),
    Binding("quit", ("q", "ctrl+c", "ctrl+q"), "q", "back", "Back to the tenants screen.", LISTS - TENANTS, hint=14),
    Binding("quit", ("q", "ctrl+c", "ctrl+q"), "q", "quit", "Quit. Asks while a move of yours has not settled.",
            TENANTS, hint=14),
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


def means_nothing(pressed: str, screen: Screen) -> str:
    """What is said of a key that does nothing on a screen: where it does something, if anywhere."""
    other = elsewhere(pressed, screen)
    if other is None:
        name = pressed if len(pressed) > 1 or pressed.isprintable() else repr(pressed)
        return f"{name} is no key here; ? shows which are"
    where = ", ".join(one.value for one in Screen if one in other.where)
    return f"{other.shown} ({other.label or other.does}) is a key of the {where} screen; ? shows those of this one"


def hints(screen: Screen) -> list[Binding]:
    """What the footer may name, in the table's order."""
    return [binding for binding in BINDINGS if screen in binding.where and binding.hint]


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
