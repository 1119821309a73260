"""The TELL line: outcomes of this console's own moves, in words."""

from collections.abc import Sequence

from loradeck.client.errors import ClientError
from loradeck.client.job_words import prepare_progress
from loradeck.client.terminal_text import clean
from loradeck.rules.serving.counting import flip_counts
from loradeck.rules.serving.proof import Reached
from loradeck.tui.model.sent_moves import OPEN, OwnMove, Phase, Tell, is_preparing, proof_counts, reached
from loradeck.tui.model.state import ConsoleState


def tell_of(state: ConsoleState, own: OwnMove) -> Tell:
    """The outcome of one move so far."""
    move = own.move
    key, _, path = move.says.partition(" ")
    at = move.tenant if move.route in ("", "production") else f"{move.tenant}/{move.route}"
    name = " ".join(part for part in (key, at, path) if part)
    row = state.tenants.get(move.row)
    job = state.preparing(row) if row is not None and is_preparing(own, row) else None
    match own.phase:
        case Phase.SENDING | Phase.PENDING if job is not None and state.hub_now_ms is not None:
            return Tell(f"{name}: {clean(prepare_progress(job, state.hub_now_ms))}", "warn", own.sent_ms, closes=False)
        case Phase.SENDING:
            return Tell(f"{name}: sending", "warn", own.sent_ms, closes=False)
        case Phase.UNKNOWN:
            return Tell(f"OUTCOME UNKNOWN {name}: being looked up by its key", "bad", own.sent_ms, closes=False)
        case Phase.REFUSED:
            return Tell(f"REFUSED {name}: {own.trouble}", "bad", own.sent_ms)
        case Phase.NOT_SENT:
            return Tell(f"NOT MOVED {name}: {own.trouble}", "bad", own.sent_ms)
        case Phase.CANCELLED:
            return Tell(f"{name}: the prepare is cancelled, nothing moved", "good", own.sent_ms)
        case Phase.ALREADY:
            first = own.result.already if own.result is not None else None
            by = f" by {clean(first.actor)}, rev {first.rev}" if first is not None else ""
            return Tell(f"{name}: done already{by}; nothing more moved", "good", own.sent_ms)
        case Phase.PENDING:
            return Tell(f"{name}: preparing on the nodes, not committed yet", "warn", own.sent_ms)
        case Phase.COMMITTED:
            return _many(state, own, name) if not move.tenant else _committed(state, own, name)


def tell_of_all(state: ConsoleState, owns: Sequence[OwnMove]) -> Tell:
    """The outcomes of several marked rows so far: failures first, by name."""
    words = {
        Phase.UNKNOWN: "OUTCOME UNKNOWN",
        Phase.REFUSED: "REFUSED",
        Phase.NOT_SENT: "NOT MOVED",
        Phase.SENDING: "sending",
        Phase.PENDING: "preparing",
        Phase.CANCELLED: "prepares cancelled",
        Phase.ALREADY: "done already",
    }
    parts = []
    for phase, word in words.items():
        of_phase = [own for own in owns if own.phase is phase]
        if of_phase and phase in (Phase.UNKNOWN, Phase.REFUSED, Phase.NOT_SENT):
            names = ", ".join(own.move.tenant for own in of_phase[:3])
            more = f" and {len(of_phase) - 3} more" if len(of_phase) > 3 else ""
            parts.append(f"{word} {names}{more}" + (f": {of_phase[0].trouble}" if of_phase[0].trouble else ""))
        elif of_phase:
            parts.append(f"{len(of_phase)} {word}")
    committed = [own for own in owns if own.phase is Phase.COMMITTED]
    levels = [_level(state, own) for own in committed]
    if committed:
        listed = levels.count(Reached.LISTED)
        only = f", LISTED {listed}" if listed else ""
        parts.append(f"COMMITTED {len(committed)}, PROVEN {levels.count(Reached.PROVEN)}{only}")
    done = sum(level in (Reached.PROVEN, None) for level in levels)
    key = owns[0].move.says.partition(" ")[0]
    wrong = any(own.phase in (Phase.UNKNOWN, Phase.REFUSED, Phase.NOT_SENT) for own in owns)
    style = "bad" if wrong else "good" if done == len(owns) else "warn"
    text = f"{key} {len(owns)} rows: {'; '.join(parts)}"
    return Tell(text, style, owns[0].sent_ms, closes=all(own.phase not in OPEN for own in owns))


def _level(state: ConsoleState, own: OwnMove) -> Reached | None:
    """Says how far a committed move of one row has come; None: the row has moved again since."""
    row = state.tenants.get(own.move.row)
    if row is None or row.pointer.generation > (own.generation or 0):
        return None
    return reached(row) if row.pointer.generation == own.generation else Reached.COMMITTED


def _committed(state: ConsoleState, own: OwnMove, name: str) -> Tell:
    result = own.result
    took = f" +{result.commit_ms:.0f}ms" if result is not None and result.commit_ms is not None else ""
    rev = f" rev {result.rev}" if result is not None else ""
    row = state.tenants.get(own.move.row)
    committed = f"COMMITTED{rev}{took}" + (" 1 COPY" if result is not None and result.copies == 1 else "")
    if row is None or own.generation is None or row.pointer.generation < own.generation:
        return Tell(f"{name} {committed}", "good", own.sent_ms)
    if row.pointer.generation > own.generation:
        return Tell(f"{name} {committed}; moved again since", "", own.sent_ms)
    slowest = [replica.flipped_ms for replica in row.replicas if replica.flipped_ms is not None]
    last = f" +{max(slowest):.0f}ms" if slowest and row.flipped >= row.placed else ""
    # What one waits for comes first: a narrow terminal cuts the end.
    text = f"{name} {proof_counts(row)} {flip_counts(row)}{last} {committed}"
    return Tell(text, "good" if reached(row) is Reached.PROVEN else "warn", own.sent_ms)


def _many(state: ConsoleState, own: OwnMove, name: str) -> Tell:
    """A rewind, or its undo, counts pointers: one is flipped or proven when all its replicas are."""
    result = own.result
    assert result is not None
    if not own.moved:
        return Tell(f"{name}: nothing moved, every pointer has moved since the plan", "warn", own.sent_ms)
    took = f" +{result.commit_ms:.0f}ms" if result.commit_ms is not None else ""
    stayed = f", {len(result.skipped)} stayed" if result.skipped else ""
    rows = {key: state.tenants.get(key) for key in own.moved}
    here = [row for key, row in rows.items() if row is not None and row.pointer.generation == own.moved[key]]
    since = sum(row is not None and row.pointer.generation > own.moved[key] for key, row in rows.items())
    flipped = sum(row.flipped >= row.placed for row in here)
    done = sum(reached(row) is Reached.PROVEN for row in here)
    listed = sum(reached(row) is Reached.LISTED for row in here)
    only = f" LISTED {listed}" if listed else ""
    text = f"{name} PROVEN {done}/{len(rows)}{only} FLIPPED {flipped}/{len(rows)}{stayed}"
    text += f", {since} moved again since" if since else ""
    text += f" COMMITTED rev {result.rev}{took}"
    return Tell(text, "good" if done + since == len(rows) else "warn", own.sent_ms)


def error_line(error: ClientError) -> str:
    """An error in one line: title, detail and fix."""
    return clean(error.sentence)
