"""The help page, made from the binding table."""

import textwrap

from loradeck.tui.keys.action import Screen
from loradeck.tui.keys.default_bindings import COMMANDS
from loradeck.tui.keys.personal_keys import Keys
from loradeck.tui.text.spans import BLANK, Line, Span, line

FLAGS = (
    ("BAD", "the live release passed the route's limit of bad answers or errors"),
    ("UNPRVN", "a placed replica is not proven, listed, cold, or proven at its last load"),
    ("FAILED", "the last promote failed, nothing moved; until a promote, a move, or a person's hold or incident"),
    ("SLOW", "answers begin, or their tokens follow, later than the route promises"),
    ("GLASS", "somebody acted alone where two are asked for; until somebody else runs loradeck event countersign"),
    ("AHEAD", "a node has seen moves that the log lacks: it waits for a recover"),
    ("NOPRIOR", "there is no release R could go back to"),
    ("DRIFT", "checks that make no answer bad notice more of them than the route promises"),
    ("OVR", "the live release was promoted against its gate"),
    ("HELD", "automation cannot promote until a person releases it"),
    ("PIN", "a node serves something else, chosen on the node"),
    ("PREP", "a promote is being prepared; R cancels it"),
    ("CAND", "a candidate is out, for a share of callers or in shadow"),
    ("SUSP", "the tenant is suspended"),
)

READY = (
    ("res", "resident, at the level device or host of a running engine: R is a pointer move"),
    ("warm", "at the level disk; the engine of its base runs"),
    ("cached", "at the level disk; an engine of its base is to be started first"),
    ("absent", "no files on the node: they have to be fetched first"),
    ("prep 2/3", "a promote is being prepared: done on two of three nodes; R cancels it"),
    ("y?", "R asks for y first"),
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
    Screen.TENANTS: (("Flags", FLAGS), ("READY", READY)),
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
        for name, says in words:
            lines += _entry(name, says, room)
    return lines


def _entry(name: str, says: str, room: int) -> list[Line]:
    wrapped = textwrap.wrap(says, room) or [""]
    first = line(Span(f" {name:<10} ", "key"), wrapped[0])
    return [first, *(line(" " * 12 + more) for more in wrapped[1:])]
