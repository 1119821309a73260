"""The names of the console's lists, and of everything a person can ask of it. Keys stand in the key table alone."""

from enum import StrEnum


class Action(StrEnum):
    """A name that a key, a command or a line of the `[keys]` table stands for."""

    # Moves of pointers.
    ROLLBACK = "rollback"
    UNDO = "undo"
    FALLBACK = "fallback"
    PROMOTE = "promote"
    OVERRIDE = "override"
    HOLD = "hold"
    REWIND = "rewind"
    ANNOTATE = "annotate"
    # Orders to nodes, jobs and campaigns, and signatures.
    DRAIN = "drain"
    CORDON = "cordon"
    UNCORDON = "uncordon"
    CANCEL = "cancel"
    RESUME = "resume"
    SIGN = "sign"
    PAUSE = "pause"
    GO_ON = "go_on"
    # Answers, and ways out.
    CONFIRM = "confirm"
    CLOSE = "close"
    QUIT = "quit"
    # Rows and marks.
    OPEN = "open"
    MARK = "mark"
    MARK_ALL = "mark_all"
    MARK_RELATED = "mark_related"
    MARK_VERSION = "mark_version"
    COMPARE = "compare"
    DIFF = "diff"
    TRACES = "traces"
    EXPORT_IDS = "export_ids"
    SORT = "sort"
    COPY = "copy"
    JSON = "json"
    # Typing.
    FILTER = "filter"
    COMMAND = "command"
    HELP = "help"
    # Screens, named as they are.
    TENANTS = "tenants"
    NODES = "nodes"
    JOBS = "jobs"
    GATES = "gates"
    ADAPTERS = "adapters"
    EVENTS = "events"
    DATA = "data"
    CAPACITY = "capacity"
    ML = "ml"
    CAMPAIGNS = "campaigns"
    # The selection.
    DOWN = "down"
    UP = "up"
    PAGE_DOWN = "page_down"
    PAGE_UP = "page_up"
    FIRST = "first"
    LAST = "last"


TO_CAMPAIGNS = frozenset({Action.PAUSE, Action.GO_ON})
ORDERS = frozenset(
    {Action.DRAIN, Action.CORDON, Action.UNCORDON, Action.CANCEL, Action.RESUME, Action.SIGN, *TO_CAMPAIGNS}
)
"""Orders to nodes, jobs and campaigns, and a signature. They move no pointer: a hub that refuses moves accepts them."""


class Screen(StrEnum):
    """A list of the console, in the order of its keys."""

    TENANTS = "tenants"
    NODES = "nodes"
    JOBS = "jobs"
    GATES = "gates"
    ADAPTERS = "adapters"
    EVENTS = "events"
    DATA = "data"
    CAPACITY = "capacity"
    ML = "ml"
    CAMPAIGNS = "campaigns"
