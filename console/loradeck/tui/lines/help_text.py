"""The help page, made from the binding table."""

import textwrap
from itertools import zip_longest

from loradeck.tui.keys.action import Screen
from loradeck.tui.keys.default_bindings import COMMANDS
from loradeck.tui.keys.personal_keys import Keys
from loradeck.tui.text.spans import BLANK, Line, Span, line

FLAGS = (
    (
        "BAD",
        "bad answers, errors, overdue answers",
        "the live release passed the route's limit of bad answers or errors",
    ),
    ("AHEAD", "waits for recover", "a node has seen moves that the log lacks: it waits for a recover"),
    ("UNPRVN", "2 unproven", "a placed replica is not proven, listed, cold, or proven at its last load"),
    (
        "FAILED",
        "promote failed",
        "the last promote failed, nothing moved; until a promote, a move, or a person's hold or incident",
    ),
    ("SLOW", "slow", "answers begin, or their tokens follow, later than the route promises"),
    (
        "GLASS",
        "acted alone",
        "somebody acted alone where two are asked for; until somebody else runs loradeck event countersign",
    ),
    ("NOPRIOR", "no way back", "there is no release R could go back to"),
    ("DRIFT", "drift", "checks that make no answer bad notice more of them than the route promises"),
    ("OVR", "overridden", "the live release was promoted against its gate"),
    ("HELD", "held", "automation cannot promote until a person releases it"),
    ("PIN", "pinned", "a node serves something else, chosen on the node"),
    ("PREP", "preparing", "a promote is being prepared; R cancels it"),
    ("CAND", "candidate 5 %, shadow 5 %", "a candidate is out, for a share of callers or in shadow"),
    ("SUSP", "suspended", "the tenant is suspended"),
)
"""Flags, as `--once`, JSON and alerts have them, their words under WHY, and what they mean."""

WHY = (
    *((words, f"{says} ({flag})") for flag, words, says in FLAGS),
    ("2 listed", "checked on two nodes, where nothing tells the release from its base or its prior"),
    ("proof 4 min old", "the proven replicas were not asked again since"),
)

FIGURES = (
    ("BEFORE", "share of bad answers under the release before, or before the move"),
    ("BAD", "share of bad answers among the checked ones, in the last minute of this release"),
    ("ERRORS", "share of failed requests in the last minute"),
    ("FIRST TOKEN", "how long it takes, at the 95th percentile"),
    ("SERVED BY", "the live release"),
    ("FOR", "how long ago the last move was"),
    ("PROVEN", "replicas that were seen to answer with the release, of those that it is placed on"),
)

WAY_BACK = (
    ("loaded", "at the level device or host of a running engine on all nodes: R is a pointer move"),
    ("loads", "from the disk of a node; the engine of its base runs"),
    ("starts", "from the disk of a node; an engine of its base is to be started first"),
    ("fetches", "its files first: a node has none"),
    ("unknown", "no node reports"),
    ("asks", "R asks for y first"),
    ("cancels", "a promote is being prepared; R cancels it"),
    ("none: base", "there is no release to go back to; F puts the base alone in its place"),
)

NODE_WORDS = (
    ("2x 48% 65C", "two GPUs, their mean use, the temperature of the hottest"),
    (
        "!",
        "a GPU is slowed, or reports XIDs, memory errors, or NVLinks that are down or count errors; enter says which",
    ),
    ("MIG", "in place of a GPU's use: it is divided, and its use as a whole is not known; enter shows the instances"),
    ("1/2 up", "engines that run, of those the node has"),
    ("was", "what the node said last, before it went silent"),
    ("cordoned", "it is given no new jobs and no new routes of pools; it serves on"),
    ("drained", "cordoned, and routes of pools leave it once others serve them; it has let go of the GPU driver"),
)

DATA_WORDS = (("d2", "a model wrote the rows, itself trained on rows that a model wrote; d3 is one further"),)

CAPACITY_WORDS = (
    ("DEVICE", "releases in batch slots, and the slots; unknown where an engine does not say"),
    ("HOST", "releases in the engines' memory, and the slots there"),
    ("DISK", "releases whose verified files lie on the nodes"),
    ("HIT", "requests for on-demand routes that met a loaded release, since the routers' start"),
    ("COLD/MIN", "of the last minute, those that waited until theirs was loaded"),
    ("TURNED OUT", "releases unloaded to make room, since the engines' start"),
    ("2/3", "nodes heard now, of those the pool has; only these count for its figures"),
)

ML_WORDS = (
    ("SIGNALS", "meters of freshness that have found a lasting change"),
    ("replayed", "some of the days that they compare were imported, and not counted here"),
    ("ADVICE", "nothing, prompt, retrieval or train; nothing follows by itself"),
    ("WRONG", "answers called wrong since the newest dataset of the backlog was built"),
    ("LABELLED", "rows of that dataset"),
    ("STEP", "how far it has come, and by which job or version"),
)

CAMPAIGN_WORDS = (
    ("MOVED", "routes whose new release has soaked, or nodes that answer on the new build; of all"),
    ("HELD", "kept back by what is no fault of the release; they go on once that is over"),
    ("ASIDE", "somebody else has moved them since the campaign began"),
    ("GPU HOURS", "of the trainings that have begun, of the budget"),
)

LEGENDS: dict[Screen, tuple[tuple[str, tuple[tuple[str, str], ...]], ...]] = {
    Screen.TENANTS: (("WHY", WHY), ("What stands in the columns", FIGURES), ("R GOES TO", WAY_BACK)),
    Screen.NODES: (("What stands in the columns", NODE_WORDS),),
    Screen.DATA: (("ORIGIN", DATA_WORDS),),
    Screen.CAPACITY: (("What stands in the columns", CAPACITY_WORDS),),
    Screen.ML: (("What stands in the columns", ML_WORDS),),
    Screen.CAMPAIGNS: (("What stands in the columns", CAMPAIGN_WORDS),),
}
"""What a screen abbreviates."""

TWINS: dict[Screen, tuple[str, ...]] = {
    Screen.TENANTS: ("route ls",),
    Screen.NODES: ("node ls",),
    Screen.JOBS: ("job ls",),
    Screen.GATES: ("gate ls",),
    Screen.ADAPTERS: ("adapter ls",),
    Screen.EVENTS: ("event ls",),
    Screen.DATA: ("dataset ls", "suite ls"),
    Screen.CAPACITY: ("capacity ls",),
    Screen.ML: ("loop",),
    Screen.CAMPAIGNS: ("campaign ls",),
}
"""The commands that print what a screen lists; with --json for programs."""


def help_lines(keys: Keys, screen: Screen, width: int) -> list[Line]:
    """Keys that mean something on a screen, commands, and what its columns abbreviate."""
    lines: list[Line] = [line(Span(f" Keys on the {screen.value} screen", "head")), BLANK]
    room = max(30, width - 14)
    for binding in keys.bindings:
        if screen in binding.where:
            lines += _entry(binding.shown, keys.text(binding.help), room)
    lines += [BLANK, line(Span(" Commands after :", "head")), BLANK]
    for name, says in COMMANDS.items():
        lines += _entry(name, keys.text(says), room)
    lines += [BLANK, line(Span(" Without the console", "head")), BLANK]
    lines += [line(f" loradeck {twin} [--json]") for twin in TWINS[screen]]
    for head, words in LEGENDS.get(screen, ()):
        lines += [BLANK, line(Span(f" {head}", "head")), BLANK]
        cells = max(_NAME, *(min(len(name), 2 * _NAME) for name, _ in words))
        for name, says in words:
            lines += _entry(name, says, room + _NAME - cells, cells)
    return lines


_NAME = 10
"""Cells for what is explained, at least."""


def _entry(name: str, says: str, room: int, cells: int = _NAME) -> list[Line]:
    names = textwrap.wrap(name, cells)
    wrapped = textwrap.wrap(says, room)
    pairs = zip_longest(names, wrapped, fillvalue="")
    return [line(Span(f" {name:<{cells}} ", "key"), words) for name, words in pairs]
