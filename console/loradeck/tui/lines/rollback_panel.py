"""The rollback panel: the progress of a move, replica by replica. Only acknowledgements are counted."""

from rich.cells import cell_len

from loradeck.client.terminal_text import clean
from loradeck.rules.serving.counting import flip_counts
from loradeck.rules.serving.proof import Reached
from loradeck.schemas.ids import short
from loradeck.schemas.log import Event, EventKind
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.state import ReplicaRow, TenantRow
from loradeck.tui.key_checks.verdict import Verdict
from loradeck.tui.keys.action import Action
from loradeck.tui.keys.personal_keys import Keys
from loradeck.tui.lines.preview import WIDE, armed_line, goes_to, tell_lines
from loradeck.tui.model.sent_moves import OwnMove, Phase, is_done, is_preparing, proof_counts, reached
from loradeck.tui.model.state import OVERDUE_S, ConsoleState
from loradeck.tui.text.spans import Line, Span, age, clock, count, fit, line, percent, plural, title, width_of

WATCHED_S = 60.0
"""How long somebody else's move shows its panel instead of the preview while it is under way."""

_KEY = {
    EventKind.ROLLBACK: "R",
    EventKind.UNDO: "u",
    EventKind.FALLBACK: "F",
    EventKind.PROMOTE: "p",
    EventKind.REWIND: "W",
    EventKind.RECOVER: "recover",
}


def wants_panel(state: ConsoleState, row: TenantRow) -> bool:
    """Tells whether a row shows its last move instead of its preview: under way, or one's own until esc."""
    own = state.own_move(row)
    if is_preparing(own, row):
        return False
    if own is not None and own.phase in (Phase.SENDING, Phase.UNKNOWN):
        return True
    last = row.pointer.last_move
    if last is None or last in state.dismissed:
        return False
    moved = state.age_of(row.pointer.moved_ms)
    if not row.settled and moved is not None and moved < WATCHED_S and state.last_move(row) is not None:
        return True  # somebody's move is under way
    return own is not None and own.phase is Phase.COMMITTED and own.event is not None


def has_preview(state: ConsoleState, row: TenantRow) -> bool:
    """Tells whether a row's panel also shows the target of R: only once its move is done."""
    own = state.own_move(row)
    return is_done(row) and not (own is not None and (own.phase in (Phase.SENDING, Phase.UNKNOWN) or _ahead(own, row)))


def panel_lines(
    state: ConsoleState, row: TenantRow, width: int, height: int, *, rollback: Verdict, undo: Verdict
) -> list[Line]:
    """The move's lines, at most `height`; the TELL line comes last, in whatever room is left."""
    own = state.own_move(row)
    if own is not None and (own.phase in (Phase.SENDING, Phase.UNKNOWN) or _ahead(own, row)):
        lines = _under_way(state, row, own, width)
    elif is_done(row):
        lines = _done(state, row, width, height, rollback, undo)
    else:
        old = (state.age_of(row.pointer.moved_ms) or 0.0) >= OVERDUE_S
        failed = any(replica.state is AckState.FAILED for replica in row.replicas)
        lines = _moving(state, row, width, height - 4, not_done=old or failed or row.settled)
    lines = lines[: height - 1]
    return [*lines, *tell_lines(state, state.tell, width, max(1, height - len(lines)))]


def _ahead(own: OwnMove, row: TenantRow) -> bool:
    """Tells whether a move is committed and its row has not come yet."""
    return (own.generation or 0) > row.pointer.generation


def _under_way(state: ConsoleState, row: TenantRow, own: OwnMove, width: int) -> list[Line]:
    name = f"{row.tenant}/{row.route}  gen {row.pointer.generation}"
    waited = state.clock() - own.sent_at
    if own.phase is Phase.UNKNOWN:
        return [
            title(f"{name}   OUTCOME UNKNOWN", width, "bad"),
            line(f" {clean(own.move.says)}   sent {clock(own.sent_ms, seconds=True)}, {age(waited)} ago"),
            line(Span(" its answer was lost: it may have moved, and it may not", "bad")),
            line(f" no answer from {clean(own.trouble)}"),
            line(f" being looked up by its key {own.move.key[:12]}; the same key never moves twice"),
            line(f" {state.keys.shown(Action.ROLLBACK)} locked until it is known"),
        ]
    word = "committed, its row is on the way" if own.phase is Phase.COMMITTED else "SENDING"
    return [
        title(f"{name}   {own.move.says}", width),
        line(f" {word}   {age(waited)}"),
        line(f" {state.keys.shown(Action.ROLLBACK)} locked: your move is being sent"),
    ]


def _head(state: ConsoleState, row: TenantRow, event: Event | None, width: int) -> list[Span]:
    if event is None:
        return [Span(f" gen {row.pointer.generation}")]
    spans = [Span(f" {' >> '.join(map(state.name_of, event.path))}", "bold")]
    own = state.own_move(row)
    took = own.result.commit_ms if own is not None and own.result is not None else None
    spans.append(Span(f"   COMMITTED rev {event.rev}{f' +{took:.0f}ms' if took is not None else ''}"))
    left = state.view(event.left)
    if event.kind in (EventKind.ROLLBACK, EventKind.FALLBACK) and any(
        entry.release == event.left for entry in row.pointer.quarantined
    ):
        spans.append(Span(f"   {clean(left.label) if left else short(event.left)} quarantined"))
    if row.pointer.held:
        whole = Span("   HELD: automation cannot promote")
        spans.append(whole if width_of([*spans, whole]) <= width else Span("   HELD"))
    return spans


def _left(state: ConsoleState, event: Event | None) -> str:
    view = state.view(event.left) if event else None
    return clean(view.label) if view else short(event.left) if event and event.left else "the left release"


def _moving(state: ConsoleState, row: TenantRow, width: int, room: int, *, not_done: bool) -> list[Line]:
    event = state.last_move(row)
    left = _left(state, event)
    who = (
        f"{_KEY.get(event.kind, event.kind.value)} by {clean(event.actor)} {clock(event.at_ms, seconds=True)}"
        if event
        else ""
    )
    missing = [replica for replica in row.replicas if not _flipped(replica)]
    name = f"{row.tenant}/{row.route}"
    lines: list[Line] = []
    if not_done:
        what = f"{plural(len(missing), 'replica')} may still answer with {left}" if missing else "not proven everywhere"
        lines.append(title(f"{name}  gen {row.pointer.generation}   NOT DONE: {what}", width, "bad"))
    else:
        before = row.pointer.generation - 1
        lines.append(title(f"{name}  gen {before}>{row.pointer.generation}   {who}", width))
        lines.append(tuple(_head(state, row, event, width)))
    command = pin_command(row, state) if not_done else None
    command_shown = command_lines(state.keys, command, width) if command is not None else []
    lines += replica_table(state, row, left, room - max(0, len(command_shown) - 1), not_done=not_done)
    lines.append(_tally(state.keys, row, not_done=not_done))
    return lines + command_shown


def command_lines(keys: Keys, command: str, width: int) -> list[Line]:
    """A command to run elsewhere, whole: one line where it fits, else lines that a shell takes as one."""
    label = f" {keys.shown(Action.COPY)} copies "
    room = width - cell_len(label)
    if cell_len(command) <= room:
        return [line(Span(label, "label"), Span(command, "bold"))]
    parts: list[str] = []
    for word in command.split(" "):
        if parts and cell_len(f"{parts[-1]} {word} \\") <= room:
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    *wrapped, last = parts
    lines = [Span(f"{part} \\", "bold") for part in wrapped] + [Span(last, "bold")]
    return [line(Span(" " * cell_len(label) if n else label, "label"), span) for n, span in enumerate(lines)]


def _flipped(replica: ReplicaRow) -> bool:
    return replica.state in (AckState.FLIPPED, AckState.PROVEN, AckState.LISTED)


def replica_table(state: ConsoleState, row: TenantRow, left: str, room: int, *, not_done: bool) -> list[Line]:
    """Writes a line for each replica, those that need attention first; the ones that do not fit are counted."""
    heads = f" {'replica':<16}{'flipped':<11}{f'admitted to {left} since':<24}{'proven':<12}heard"
    lines = [line(Span(heads, "head"))]
    rank = {None: 0, AckState.FAILED: 0, AckState.WAITING: 1, AckState.FLIPPED: 2}
    replicas = sorted(row.replicas, key=lambda replica: (rank.get(replica.state, 3), replica.replica))
    fits = max(1, room - 1)
    if len(replicas) > fits:
        rest = replicas[fits - 1 :]
        replicas = replicas[: fits - 1]
    else:
        rest = []
    since = state.since_received(row.key)
    lines += [_replica(state, replica, since, not_done=not_done) for replica in replicas]
    if rest:
        good = sum(replica.state is AckState.PROVEN for replica in rest)
        listed = sum(replica.state is AckState.LISTED for replica in rest)
        more = f", {listed} listed" if listed else ""
        lines.append(line(Span(f" and {len(rest)} more, {good} of them proven{more}", "dim")))
    return lines


def _replica(state: ConsoleState, replica: ReplicaRow, since: float, *, not_done: bool) -> Line:
    heard = replica.heard_age_s + since if replica.heard_age_s is not None else None
    lost = replica.lost or not replica.linked
    flipped = Span(f"+{replica.flipped_ms:.0f}ms" if replica.flipped_ms is not None else "yes")
    if replica.cold:
        flipped = Span(f"{flipped.text} cold", "warn")
    if replica.state is AckState.FAILED:
        flipped = Span("FAILED", "bad")
    elif not _flipped(replica):
        flipped = Span("NO ACK", "bad") if not_done else Span("waiting", "warn")
    if replica.pinned:
        flipped = Span(f"PIN {clean(state.label_of(replica.pinned))}", "warn")
    admitted = Span("unknown", "warn") if replica.admitted_left is None else Span(f"{replica.admitted_left:,}")
    if replica.admitted_left:
        admitted = Span(admitted.text, "bad")
    if replica.state is AckState.PROVEN:
        took = f" +{replica.proven_ms / 1000:.1f}s" if replica.proven_ms is not None else ""
        proof = Span("was proven", "warn") if lost else Span(f"yes{took}", "good")
    elif replica.state is AckState.LISTED:
        proof = Span("was listed" if lost else "listed", "warn")
    elif replica.pinned:
        proof = Span("pinned", "warn")
    elif replica.state is AckState.FLIPPED:
        before = "last load" if replica.proof_age_s is not None else "once loaded" if replica.cold else "checking"
        proof = Span(before)
    else:
        proof = Span("unproven", "warn")
    wrong = "" if replica.cold else "warn" if replica.state is AckState.LISTED else "bad"
    age_shown = Span(age(heard) if heard is not None else "never")
    if replica.lost:
        age_shown = Span(f"{age_shown.text} unheard, may answer", "bad")
    elif lost:
        age_shown = Span(f"{age_shown.text} LINK LOST", "bad")
    elif replica.withdrawn:
        age_shown = Span(f"{age_shown.text} leaving, may answer", "warn")
    return (
        Span(fit(f" {clean(replica.replica)}", 17)),
        Span(fit(flipped.text, 11), flipped.style),
        Span(fit(admitted.text, 24), admitted.style),
        Span(fit(proof.text, 12), proof.style),
        age_shown,
        Span(f"  {clean(replica.code)} {clean(replica.detail)}" if replica.code else "", wrong),
    )


def _tally(keys: Keys, row: TenantRow, *, not_done: bool) -> Line:
    complete = row.flipped >= row.placed
    spans = [
        Span(f" {flip_counts(row)}", "good" if complete else "warn"),
        Span(f"   {proof_counts(row)}", "good" if reached(row) is Reached.PROVEN else "warn"),
    ]
    if row.preview.streams:
        spans.append(Span(f"   {plural(row.preview.streams, 'stream')} under way"))
    if not_done:
        if row.bad_now is not None:
            spans.append(Span(f"   bad now {percent(row.bad_now)}% of {count(row.bad_n)}"))
        spans.append(Span(f"   {keys.shown(Action.ROLLBACK)} asks {keys.shown(Action.CONFIRM)}"))
    else:
        spans.append(Span(f"   {keys.shown(Action.ROLLBACK)} locked: still moving"))
    return tuple(spans)


def pin_command(row: TenantRow, state: ConsoleState, *, whole: bool = False) -> str | None:
    """The command for the first node that has not acknowledged. `whole`: with the full id, for the clipboard."""
    to = row.pointer.release
    missing = [r for r in row.replicas if not _flipped(r)]
    if to is None or not missing:
        return None
    node = min(missing, key=lambda replica: replica.linked).node
    return f"ssh {node} loradeck-agent pin {row.tenant} {row.route} --to {to if whole else short(to)} --reason ..."


def _done(state: ConsoleState, row: TenantRow, width: int, height: int, rollback: Verdict, undo: Verdict) -> list[Line]:
    event = state.last_move(row)
    to = state.name_of(row.pointer.release)
    back = event is not None and event.kind in (EventKind.ROLLBACK, EventKind.UNDO, EventKind.REWIND)
    word = "BACK ON" if back else "NOW ON"
    left = _left(state, event)
    name = f"{row.tenant}/{row.route}  gen {row.pointer.generation}"
    proven = reached(row) is Reached.PROVEN
    style, only = ("good", "") if proven else ("warn", "   LISTED, not proven")
    lines = [title(f"{name}   {word} {to}{only}", width, style), tuple(_head(state, row, event, width))]
    proof_ages = [r.proof_age_s for r in row.replicas if r.proof_age_s is not None]
    oldest = ""
    if proof_ages:
        oldest = f" oldest {age(max(proof_ages) + state.since_received(row.key))}"
    tally = [Span(f" {flip_counts(row)}   {proof_counts(row)}{oldest}", style)]
    if row.last_left_ms:
        tally.append(Span(f"   last {left} token {clock(row.last_left_ms, seconds=True)}"))
    lines.append(tuple(tally))
    if row.left_answered:
        exports = f"{state.keys.shown(Action.EXPORT_IDS)} export ids"
        lines.append(line(f" {left} answered {count(row.left_answered)} requests while it was live   {exports}"))
    now = f"{percent(row.bad_now)}% of {count(row.bad_n)}" if row.bad_now is not None else "none checked yet"
    hold = f"{state.keys.shown(Action.HOLD)} releases the hold   " if row.pointer.held else ""
    lines.append(line(f" bad {percent(row.bad_before)} > {now}   {hold}{state.keys.shown(Action.CLOSE)} closes"))
    lines.append(goes_to(row, width >= WIDE)[0])
    lines.append(armed_line(state.keys, rollback, undo, width))
    room = height - 1 - len(lines)
    if room >= 3:
        lines += replica_table(state, row, left, room, not_done=False)
    return lines
