"""The default keys and the commands typed after `:`, as data: help, footer, manual and tests come of these tables."""

from dataclasses import dataclass
from functools import partial
from os.path import commonprefix

from loradeck.tui.keys.action import Action, Screen

TENANTS = frozenset({Screen.TENANTS})
LISTS = frozenset(Screen)

_READ_AS = {"escape": "esc", "pageup": "PgUp", "pagedown": "PgDn"}


@dataclass(frozen=True)
class Binding:
    """An action with its keys on some screens.

    `keys` are printable characters or the toolkit's names of keys; `reads` is how people read them, where it is not
    all of them. `help` may name another action in braces, which stands for the key of that action. `moves`: the action
    may change what is served, so `key_checks` decides on it. `repeats`: it also acts when several keys came in one
    read, as from a key held down over a slow link; such an action only moves the selection or leaves something, so it
    sends nothing. `hint`: how soon the footer names it, 1 first; 0: never. What does not fit is dropped from the
    highest on.
    """

    action: Action
    keys: tuple[str, ...]
    label: str
    help: str
    where: frozenset[Screen] = LISTS
    moves: bool = False
    hint: int = 0
    repeats: bool = False
    reads: str = ""

    @property
    def shown(self) -> str:
        """The keys as people read them."""
        return self.reads or "/".join(_READ_AS.get(key, key) for key in self.keys)


_Row = tuple[Action, str, str, int, str]
"""A binding's action, its keys with spaces between, its label, hint and help."""


def _on(where: frozenset[Screen], *rows: _Row, moves: bool = False) -> tuple[Binding, ...]:
    """Bindings on the same screens."""
    return tuple(
        Binding(action, tuple(keys.split()), label, help_, where, moves, hint)
        for action, keys, label, hint, help_ in rows
    )


_moving = partial(_on, moves=True)
"""Bindings on the same screens, of actions that may change what is served."""


BINDINGS: tuple[Binding, ...] = (
    *_moving(TENANTS,
        (Action.ROLLBACK, "R", "roll back", 1,
         "Roll back to what `R goes to` shows. Acts at once when the preview has been on your screen for half a "
         "second and nothing stands against it; else it says why, or asks for {confirm}. With marks: all marked rows."),
        (Action.UNDO, "u", "undo", 2,
         "Undo the last move of this row. At once if it is your own, under 60 s old, and does not serve again what is "
         "quarantined, breached, left by R or cold; else asks for {confirm}. Rows that one R moved together go back "
         "together, and so do marked rows."),
        (Action.FALLBACK, "F", "base", 3, "Fall back to the base alone. Asks for {confirm}."),
        (Action.PROMOTE, "p", "promote", 8,
         "Offer the newest release that is not live, with its gate; asks for {confirm}. Another one: `:promote vN`. "
         "Against the gate: `:promote! vN`, with a typed reason."),
        (Action.OVERRIDE, "o", "override", 0,
         "What {promote} does, against the gate: offers the newest release that is not live and asks for a typed "
         "reason, which the event shows for ever. Needs the role releaser."),
        (Action.HOLD, "h", "hold", 9,
         "Set or release the hold that keeps automation from promoting. Asks for {confirm}."),
        (Action.REWIND, "W", "rewind", 6,
         "Put every pointer back as it was at a time (14:05, 20m ago) or a rev, in one transaction. With marks: only "
         "the pointers of the marked tenants. Shows what would move and what would stay; asks for {confirm}."),
    ),
    *_on(frozenset({Screen.TENANTS, Screen.EVENTS}),
        (Action.ANNOTATE, "i", "incident", 12,
         "Open an incident over the row and marked ones. Type its id and what happened: INC-2210 answers are empty. "
         "{mark_related} marks related rows. Where a row is in it already, what is typed goes to its last move; on an "
         "event, to that event. - instead of an id is a note without an incident."),
    ),
    Binding(Action.CONFIRM, ("y",), "yes", "Do what the question above the footer says.", moves=True),
    *_on(TENANTS,
        (Action.MARK, "space", "mark", 10, "Mark or unmark the row; {close} clears."),
        (Action.MARK_ALL, "*", "mark all", 0,
         "Mark every row that the filter shows, or unmark them when all are marked."),
        (Action.MARK_RELATED, "m", "mark related", 11,
         "Mark the rows of the ALSO line: live releases that share its dataset, recipe, move to another base, batch "
         "of promotes or signer. Unmark them when all are marked."),
        (Action.DIFF, "d", "diff", 11,
         "The live release beside the one that {rollback} goes to: what differs first, then what is alike."),
    ),
    *_on(frozenset({Screen.ADAPTERS}),
        (Action.MARK_VERSION, "space", "mark", 2, "Mark the version to compare with, or unmark it."),
        (Action.COMPARE, "d", "compare", 3,
         "The marked version beside the selected one: what differs first, then what is alike."),
    ),
    *_on(TENANTS,
        (Action.TRACES, "l", "traces", 12,
         "The row's newest requests as its routers know them: who was served by which release, how long, and how it "
         "was judged."),
        (Action.EXPORT_IDS, "x", "export ids", 13,
         "Write the ids of the requests that the left release answered to a file; it says what may be missing."),
    ),
    *_moving(frozenset({Screen.NODES}),
        (Action.DRAIN, "D", "drain", 1,
         "Cordon the node, have routes of pools leave it, and let go of its GPU driver. Names what it serves and runs; "
         "asks for {confirm}."),
        (Action.CORDON, "C", "cordon", 2, "Give the node no new jobs and no new routes of pools. Asks for {confirm}."),
        (Action.UNCORDON, "U", "uncordon", 3, "End a cordon or a drain. Asks for {confirm}."),
    ),
    *_moving(frozenset({Screen.JOBS}),
        (Action.CANCEL, "X", "cancel", 1, "Stop the job. Says what will not come of it; asks for {confirm}."),
        (Action.RESUME, "S", "resume", 2,
         "Queue a failed or cancelled job again, as its next attempt, on its node where that is free. Asks for "
         "{confirm}."),
    ),
    *_moving(frozenset({Screen.CAMPAIGNS}),
        (Action.PAUSE, "P", "pause", 1, "Begin nothing more; what is under way ends. Asks for {confirm}."),
        (Action.GO_ON, "S", "resume", 2, "Let a paused campaign go on. Needs the role releaser; asks for {confirm}."),
        (Action.REWIND, "W", "rewind", 3,
         "Put every route that is as the campaign has moved it back to what it had before. Shows what would move and "
         "what would stay; asks for {confirm}."),
    ),
    *_moving(frozenset({Screen.GATES}),
        # The page of answers names it in its bar, where there is something to sign.
        (Action.SIGN, "V", "sign", 0,
         "Sign the review of the candidate with your name, once you have found each of its sampled answers good or bad "
         "({open}). Says how many are bad; asks for {confirm}."),
    ),
    *_on(TENANTS,
        (Action.SORT, "s", "sort", 14,
         "Sort by attention, tenant, live release or newest move in turn; the header says which. By attention the "
         "rows that need a person come first, the one that does most harm on top; other figures order nothing: those "
         "of rows that nobody looks at are not known."),
    ),
    *_on(LISTS,
        (Action.COPY, "c", "copy", 15,
         "Copy what names the selection: the live release's id, a node, a job, an event, a digest. While a move is not "
         "done: the command for the node that does not answer."),
        (Action.JSON, "J", "json", 16, "The selected row as the hub sent it, in JSON."),
        (Action.FILTER, "/", "filter", 4, "Show only rows that match a regular expression; `!` in front inverts."),
        (Action.COMMAND, ":", "command", 7,
         "Type a command; tab completes it, up and down go through the earlier ones, `:help` lists them."),
        (Action.TENANTS, "1", "tenants", 0, "Every tenant's pointer, what it serves, and where {rollback} would go."),
        (Action.NODES, "2", "nodes", 0, "Nodes, their GPUs, engines and loaded releases."),
        (Action.JOBS, "3", "jobs", 0, "Training, evaluation and prepare jobs with their progress."),
        (Action.GATES, "4", "gates", 0, "A candidate against what was live, check by check."),
        (Action.ADAPTERS, "5", "adapters", 0, "Adapter versions: origin, scores, where each is live."),
        (Action.EVENTS, "6", "events", 0, "The log, newest first, and whether its chain holds."),
        (Action.DATA, "7", "data", 0, "Datasets and suites: origin, consent, licence, purpose."),
        (Action.CAPACITY, "8", "capacity", 0,
         "What pools and nodes hold at each level, hit rate, cold starts, who waits, and what was turned out."),
        (Action.ML, "9", "ml", 0,
         "Where each tenant stands between a signal and new weights: signals, what is called wrong, labels, training."),
    ),
    *_on(frozenset({Screen.ML}),
        (Action.CAMPAIGNS, "0", "campaigns", 1,
         "Campaigns: waves, budget, who moved and is proven, what stopped them. Also `:campaigns`, on every screen."),
    ),
    Binding(Action.DOWN, ("j", "down"), "", "Next row.", repeats=True),
    Binding(Action.UP, ("k", "up"), "", "Previous row.", repeats=True),
    Binding(Action.PAGE_DOWN, ("pagedown", "ctrl+f", "ctrl+d"), "", "One page down.", repeats=True, reads="PgDn"),
    Binding(Action.PAGE_UP, ("pageup", "ctrl+b", "ctrl+u"), "", "One page up.", repeats=True, reads="PgUp"),
    Binding(Action.FIRST, ("g", "home"), "", "First row.", reads="g"),
    Binding(Action.LAST, ("G", "end"), "", "Last row.", reads="G"),
    *(
        Binding(Action.OPEN, ("enter",), label, says, frozenset({screen}), hint=hint)
        for screen, label, says, hint in (
            (Screen.TENANTS, "events", "The row's events.", 10),
            (Screen.NODES, "details", "Everything about the node, with its last five minutes.", 3),
            (Screen.JOBS, "plots, log", "The job's plots and its log.", 1),
            (Screen.GATES, "answers", "The candidate's sampled answers, to look at one by one and to sign for.", 1),
            (Screen.ADAPTERS, "built from", "What the version was built from.", 1),
            (Screen.CAMPAIGNS, "routes", "Every route or node of the campaign, with its wave and why it is there.", 1),
            (Screen.EVENTS, "its row", "The event's row on the tenants screen.", 1),
        )
    ),
    Binding(Action.CLOSE, ("escape",), "",
            "Leave a question, the rollback panel, the last result, a filter, the marks, then the screen.",
            repeats=True),
    Binding(Action.HELP, ("?",), "help", "This page."),
    Binding(Action.QUIT, ("q", "ctrl+c", "ctrl+q"), "back", "Back to the tenants screen.",
            LISTS - TENANTS, hint=14, reads="q"),
    Binding(Action.QUIT, ("q", "ctrl+c", "ctrl+q"), "quit", "Quit. Asks while a move of yours is not finished.",
            TENANTS, hint=14, reads="q"),
)  # fmt: skip


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
    return commonprefix(matches) if typed and matches else typed  # noqa: RUF071 - by characters, as is meant
