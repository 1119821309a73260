"""Preview, rollback panel and details: what they say, and that they never say more than is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from tests.fakes import console_fleet as seed
from tests.fakes.console_stage import Clock

from loradeck.schemas.candidate import Candidate
from loradeck.schemas.counts import AskedAgain, Counts
from loradeck.schemas.feed import FeedStatus
from loradeck.schemas.jobs import JobState
from loradeck.schemas.log import EventKind
from loradeck.schemas.lost_tail import LostRevs
from loradeck.schemas.moves import MoveResult
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.state import (
    AskedAgainRow,
    CallerSeen,
    CandidateRow,
    Cause,
    CountSource,
    DeprecationRow,
    PreviewAction,
    Readiness,
    TenantRow,
)
from loradeck.schemas.table import CohortUnit
from loradeck.schemas.telemetry import MigInstance, NvLink, NvmlState
from loradeck.tui.key_checks.decide import decide
from loradeck.tui.key_checks.seen_frames import Frame
from loradeck.tui.key_checks.verdict import Act
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.lines.columns import heading, laid_out, node_cells, shown, whole_items
from loradeck.tui.lines.events import event_lines
from loradeck.tui.lines.header_footer import header_line, summary_line
from loradeck.tui.lines.jobs import job_lines
from loradeck.tui.lines.nodes import node_lines, node_page
from loradeck.tui.lines.outcome import tell_of, tell_of_all
from loradeck.tui.lines.preview import also_line, preview_lines
from loradeck.tui.lines.rollback_panel import has_preview, panel_lines, pin_command, replica_table, wants_panel
from loradeck.tui.lines.tenants import tenant_cells, tenant_columns
from loradeck.tui.model import packed_rows
from loradeck.tui.model.sent_moves import OwnMove, Phase, is_done
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span
from loradeck.tui.text.why import why

ACME = ("acme", "production")
Armed = Callable[[], Frame]


def text(lines: Sequence[Line]) -> str:
    return "\n".join("".join(span.text for span in line) for line in lines)


def preview(state: ConsoleState, frame: Frame, width: int = 100) -> str:
    row = state.row
    assert row is not None
    verdicts = {
        name: decide(action, state, frame) for name, action in (("rollback", Action.ROLLBACK), ("undo", Action.UNDO))
    }
    return text(preview_lines(state, row, width, 10, **verdicts))


def panel(state: ConsoleState, row: TenantRow, *, width: int = 100, height: int = 9) -> str:
    verdict = decide(Action.ROLLBACK, state, Frame())
    return text(panel_lines(state, row, width, height, rollback=verdict, undo=verdict))


def moved(state: ConsoleState, *, acks: int, proofs: int, ago_s: float = 1) -> TenantRow:
    """Somebody rolled acme back."""
    at_ms = int(seed.NOW_MS - ago_s * 1000)
    event, row = seed.rolled_back(state.tenants[ACME], seed.Log(), acks=acks, proofs=proofs, at_ms=at_ms)
    state.events[event.rev] = event
    state.tenants[ACME] = row
    return row


def test_the_preview_says_with_how_many_keys_a_deprecated_release_is_still_called(
    state: ConsoleState, armed: Armed
) -> None:
    row = state.tenants[ACME]
    said = DeprecationRow(from_ms=seed.NOW_MS, reason="v2 is out", callers=(CallerSeen(key="k1", last_ms=seed.NOW_MS),))
    state.tenants[ACME] = row.model_copy(update={"deprecated": said})
    assert "DEPRECATED, still called with 1 key" in preview(state, armed(), width=200)


def with_candidate(state: ConsoleState, *, to_live: bool) -> TenantRow:
    """acme on v9 with v10 for a share of the users, after its start."""
    before = state.tenants[ACME]
    assert before.live is not None
    view = before.live.model_copy(update={"id": "d" * 64, "label": "v10"})
    out = Candidate(
        release=view.id, generation=2, permille=25, salt="s" * 8, unit=CohortUnit.USER, named=("ann", "bob")
    )
    target = before.live if to_live else before.preview.target
    row = before.model_copy(
        update={
            "pointer": before.pointer.model_copy(update={"candidate": out}),
            "candidate": CandidateRow(release=view),
            "preview": before.preview.model_copy(update={"target": target}),
        }
    )
    state.tenants[ACME] = row
    return row


def test_the_preview_says_who_gets_the_candidate_and_who_goes_where_with_R(state: ConsoleState, armed: Armed) -> None:
    before = state.tenants[ACME]
    with_candidate(state, to_live=True)
    shown = preview(state, armed(), width=140)
    assert "v10 for 2.5 % of the users and 2 named" in shown
    assert "all callers get v9; v10 is out and quarantined" in shown
    verdict = decide(Action.ROLLBACK, state, armed())
    assert isinstance(verdict, Act)
    assert verdict.moves[0].says == "R v10/B2 > v9/B2"
    state.tenants[ACME] = before
    with_candidate(state, to_live=False)
    shown = preview(state, armed(), width=140)
    target = state.tenants[ACME].preview.target
    assert target is not None
    assert f"all callers get {target.label}; v9 is quarantined, its candidate v10 is out" in shown


def test_the_preview_says_what_the_next_step_of_a_candidate_awaits(state: ConsoleState, armed: Armed) -> None:
    row = with_candidate(state, to_live=True)
    assert row.candidate is not None
    waiting = row.candidate.model_copy(update={"waits": ("upper bound 3.1 > 2 points", "3 of 10 minutes")})
    state.tenants[ACME] = row.model_copy(update={"candidate": waiting})
    now = "v10 awaits upper bound 3.1 > 2 points; for 2.5 % of the users and 2 named"
    assert now in preview(state, armed(), width=140)
    narrow = preview(state, armed(), width=80).splitlines()[1][:80]
    assert "v10 awaits upper bound 3.1 > 2 points; for 2.5 %" in narrow


def test_the_preview_compares_a_shadow_with_the_live_release(state: ConsoleState, armed: Armed) -> None:
    row = with_candidate(state, to_live=True)
    out = row.pointer.candidate
    assert out is not None
    assert row.candidate is not None
    assert row.live is not None
    shadow = out.model_copy(update={"shadow": True, "named": (), "permille": 100})
    update: dict[str, object] = {"pointer": row.pointer.model_copy(update={"candidate": shadow})}
    state.tenants[ACME] = row.model_copy(update=update)
    shown = preview(state, armed(), width=140)
    assert "v10 for nobody, it shadows 10 % of the requests" in shown
    assert "SHADOW no router has asked it yet" in shown
    counts = AskedAgain(release=row.candidate.release.id, asked=90, pairs=80, checked=80, bad=(1, 8))
    noise = AskedAgain(release=row.live.id, asked=20, pairs=20, checked=20, bad=(1, 0))
    again = AskedAgainRow(release=row.candidate.release, counts=counts, noise=noise)
    state.tenants[ACME] = row.model_copy(update=update | {"again": again})
    shown = preview(state, armed(), width=140)
    assert "v10 10.0% (5.2-18.5) bad of 80 pairs, the live release 1.2% (0.2-6.7) | A/A 5.0%" in shown
    assert len(shown.splitlines()) <= 10


def test_the_moves_of_a_candidate_say_which_release_callers_went_to(state: ConsoleState) -> None:
    row = with_candidate(state, to_live=True)
    event = state.last_move(row)
    assert event is not None
    live, candidate = row.pointer.release, "d" * 64
    start = event.model_copy(
        update={"kind": EventKind.CANDIDATE_START, "pointer": row.pointer, "from_release": live, "payload": {}}
    )
    assert (start.path, start.left) == ((live, candidate), None)
    ended = start.model_copy(
        update={
            "kind": EventKind.ROLLBACK,
            "pointer": row.pointer.model_copy(update={"candidate": None}),
            "payload": {"candidate_ended": candidate},
        }
    )
    assert (ended.path, ended.left) == ((candidate, live), candidate)
    hold = start.model_copy(update={"kind": EventKind.HOLD})
    assert (hold.path, hold.left) == ((live, live), None)


def test_a_press_that_the_hub_was_faster_than_says_so(state: ConsoleState, armed: Armed) -> None:
    row = with_candidate(state, to_live=True)
    verdict = decide(Action.ROLLBACK, state, armed())
    assert isinstance(verdict, Act)
    own = OwnMove(verdict.moves[0], sent_at=0.0, sent_ms=seed.NOW_MS)
    own.phase = Phase.ALREADY
    own.result = MoveResult(events=(), rev=9, epoch=1, already=state.last_move(row))
    assert "done already by ci-bot" in tell_of(state, own).text


def test_the_preview_says_why_R_is_not_armed(state: ConsoleState, armed: Armed, clock: Clock) -> None:
    frame = armed()
    assert "R ARMED" not in preview(state, Frame(frame.shown, None, clock(), None))
    state.tenant_list.choose(("birch", "staging"))
    shown = preview(state, armed())
    assert "R asks y: not soaked" in shown
    assert "soaks 5 s, 5 requests here" in shown


def test_too_few_answers_are_called_too_few(state: ConsoleState, armed: Armed) -> None:
    row = state.tenants[ACME]
    cause = row.cause.model_copy(
        update={
            "live": Counts.over(finished=49, checked=49, bad=20),
            "by_replica": {"gpu-01": Counts.over(finished=12, checked=12, bad=9)},
        }
    )
    state.tenants[ACME] = row.model_copy(update={"cause": cause})
    shown = preview(state, armed())
    assert "v9: bad too few (49 checked) in 10 min, since 02:58Z, too few on each of 1 replica" in shown


@pytest.mark.parametrize("width", [80, 100])
def test_a_node_whose_doing_bad_answers_are_is_named(state: ConsoleState, armed: Armed, width: int) -> None:
    row = state.tenants[ACME]
    cause = row.cause.model_copy(update={"verdict": "node", "who": "gpu-04\x1b[2J"})
    state.tenants[ACME] = row.model_copy(update={"cause": cause})
    assert "=> a node, not the release: gpu-04" in (shown := preview(state, armed(), width))
    assert "\x1b" not in shown


def test_what_an_ended_flag_holds_against_a_release_is_named(state: ConsoleState, armed: Armed) -> None:
    row = state.tenants[ACME]
    cause = row.cause.model_copy(update={"verdict": "fine", "against": "errors 11.0% of 82, cause unknown"})
    state.tenants[ACME] = row.model_copy(update={"cause": cause, "flags": ()})
    assert "CAUSE flagged before: errors 11.0% of 82, cause unknown | v9" in preview(state, armed())


def test_overdue_answers_are_shown_by_their_own_share(state: ConsoleState, armed: Armed) -> None:
    row = state.tenants[ACME]
    cause = row.cause.model_copy(update={"figure": "overdue", "overdue": (90, 300), "verdict": "unknown"})
    state.tenants[ACME] = row.model_copy(update={"cause": cause})
    assert "v9: overdue 30.0% of 300 answers" in preview(state, armed())


def test_what_comes_late_and_what_checks_notice_more_of_is_named(state: ConsoleState, armed: Armed) -> None:
    said = {"slow": ("first tokens", "further tokens"), "drift": ("language 12.0% of 300", "long, by n1\x1b[2J alone")}
    state.tenants[ACME] = state.tenants[ACME].model_copy(update=said)
    shown = preview(state, armed())
    assert "CAUSE first tokens and further tokens later than promised | more than usual: language 12.0%" in shown
    assert "\x1b" not in shown


def test_what_was_not_measured_is_said(state: ConsoleState, armed: Armed) -> None:
    row = state.tenants[ACME]
    state.tenants[ACME] = row.model_copy(update={"cause": row.cause.model_copy(update={"others": None, "base": None})})
    assert preview(state, armed()).count("not measured") == 2


def test_a_fault_in_errors_is_shown_by_errors(state: ConsoleState, armed: Armed) -> None:
    row = state.tenants[ACME]
    cause = row.cause.model_copy(
        update={
            "live": Counts.over(failed=200, finished=200, checked=60),
            "by_replica": {f"gpu-{i}": Counts.over(failed=100 + i, finished=100 - i) for i in range(2)},
            "prior": Counts.over(failed=9, finished=8991, checked=8991),
            "figure": "errors",
        }
    )
    state.tenants[ACME] = row.model_copy(update={"cause": cause})
    shown = preview(state, armed())
    assert "v9: errors 50.0% of 400 in 10 min, since 02:58Z, alike on 2/2 replicas" in shown
    assert "v7 in its time 0.1% of 9,000" in shown
    assert f"base {row.live.base[:6] if row.live else ''} alone" in shown


def test_the_checks_that_bad_answers_failed_are_named_most_of_them_first(state: ConsoleState, armed: Armed) -> None:
    row = state.tenants[ACME]
    cause = row.cause.model_copy(update={"faults": {"schema": 280, "empty": 30, "long": 2, "refusal": 1}})
    state.tenants[ACME] = row.model_copy(update={"cause": cause})
    for width in (80, 100):
        assert "(schema 280, empty 30, long 2 since its move)" in preview(state, armed(), width)
    seen = cause.model_copy(update={"noticed": {"language": 4}})
    assert seen.why == "schema 280, empty 30, long 2; noticed language 4"


def test_requests_that_routers_refused_are_named_beside_the_cause(state: ConsoleState, armed: Armed) -> None:
    row = state.tenants[ACME]
    state.tenants[ACME] = row.model_copy(update={"minute": Counts.over(refused=110, finished=1200)})
    for width in (80, 100):
        assert "CAUSE refused 110 of 1,310 requests in the last minute | v9: bad 31.0%" in preview(
            state, armed(), width
        )


def test_units_of_evidence_stand_beside_the_requests_that_they_are_of(state: ConsoleState, armed: Armed) -> None:
    minute = Counts.over(finished=1_310, checked=1_310, bad=406)
    state.tenants[ACME] = state.tenants[ACME].model_copy(update={"units": 12, "minute": minute})
    assert ", 12 units of 1,310 requests" in preview(state, armed(), 160)
    assert "units" not in preview(state, armed(), 80)


def test_what_shares_something_is_named_with_its_health_as_of_now(state: ConsoleState, armed: Armed) -> None:
    assert "ALSO  what shares its data" in preview(state, armed())
    state.related[ACME] = seed.related(*ACME, seed.hub_state())
    shown = preview(state, armed())
    assert "ALSO  m marks 3   batch of ci-bot: bolt v5 (unproven) | dataset acme/tickets-0302: aspen v6 (fine)" in shown
    of_left = state.related[ACME].model_copy(update={"incident": "INC-7", "about": "v9"})
    state.related[ACME] = of_left
    assert "ALSO  m marks 3 like v9   batch of" in preview(state, armed()), (
        "an incident is about a release that was left"
    )
    elm = state.tenants["elm", "production"]
    state.tenants[elm.key] = elm.model_copy(update={"flags": ("BAD",)})
    assert "acme/tickets-0302: elm v3 (bad), aspen v6 (fine)" in preview(state, armed())
    row = state.tenants[ACME]
    moved = row.model_copy(update={"pointer": row.pointer.model_copy(update={"generation": 42})})
    state.tenants[ACME] = moved
    assert "not looked up yet" in preview(state, armed()), "what the release before shared says nothing of this one"


def test_the_health_of_what_shares_something_opens_no_packed_row(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_rows, "OPEN", 1)
    state = ConsoleState(clock=clock)
    list(state.loading(seed.hub_state()))
    row = state.tenants[ACME]
    state.related[ACME] = seed.related(*ACME, seed.hub_state())
    monkeypatch.setattr(packed_rows.Rows, "_unpacked", lambda *_: pytest.fail("opened"))
    assert "bolt v5 (unproven)" in "".join(span.text for span in also_line(state, row))


@pytest.mark.parametrize(("width", "height"), [(80, 10), (100, 10), (200, 14)])
def test_the_preview_has_as_many_lines_as_the_pane(state: ConsoleState, armed: Armed, width: int, height: int) -> None:
    assert len(preview(state, armed(), width).splitlines()) <= height


def test_the_narrow_preview_keeps_verdict_target_and_readiness(state: ConsoleState, armed: Armed) -> None:
    lines = [line[:80] for line in preview(state, armed(), 80).splitlines()]
    cut = "\n".join(lines)
    for needed in ("=> the release", "gate json 71 < 95", "R ->  v7", "resident 4/4", "est 6 ms", "R ARMED"):
        assert needed in cut


# ---- panel -----------------------------------------------------------------------------------------------------


def test_a_move_under_way_shows_each_replica_and_locks(state: ConsoleState) -> None:
    row = moved(state, acks=3, proofs=0)
    assert wants_panel(state, row)
    assert not has_preview(state, row)
    shown = panel(state, row)
    assert "gen 41>42   R by op1 03:12:43Z" in shown
    assert "v9/B2 >> v7/B2   COMMITTED rev" in shown
    assert "v9 quarantined" in shown
    assert "FLIPPED 3/4   PROVEN 0/4" in shown
    assert "R locked: still moving" in shown
    waiting = next(line for line in shown.splitlines() if "gpu-04" in line)
    assert waiting.split()[:4] == ["gpu-04", "waiting", "unknown", "unproven"]


def test_after_ten_seconds_what_is_missing_is_not_done(state: ConsoleState) -> None:
    row = moved(state, acks=3, proofs=3, ago_s=14)
    shown = panel(state, row)
    assert "NOT DONE: 1 replica may still answer with v9" in shown
    assert "NO ACK" in shown
    assert f"ssh gpu-04 loradeck-agent pin acme production --to {row.pointer.release[:6]}" in shown  # type: ignore[index]
    assert "FLIPPED 3/4   PROVEN 3/4" in shown
    assert all(f"gpu-0{n}" in shown for n in range(1, 5))


@pytest.mark.parametrize("width", [40, 60, 79, 80, 81, 100, 200])
def test_the_command_for_the_node_can_be_copied_whole_off_the_screen(state: ConsoleState, width: int) -> None:
    """What was found: at 80 columns it was cut."""
    row = moved(state, acks=3, proofs=3, ago_s=14)
    command = pin_command(row, state)
    assert command is not None
    shown = panel(state, row, width=width, height=16)
    lines = shown.splitlines()
    first = next(n for n, line in enumerate(lines) if "ssh gpu-04" in line)
    assert all(len(line) <= width for line in lines[first:-1])
    assert len(lines[first:-1]) == (1 if width >= 80 else len(lines[first:-1]))
    assert command in " ".join(shown.replace("\\\n", " ").split())
    assert "FLIPPED 3/4" in shown
    assert "NO ACK" in shown


def test_the_copied_command_carries_the_whole_id(state: ConsoleState) -> None:
    row = moved(state, acks=3, proofs=3, ago_s=14)
    assert row.pointer.release is not None
    command = pin_command(row, state, whole=True)
    assert command is not None
    assert row.pointer.release in command


def test_settled_without_every_replica_is_never_called_back_on(state: ConsoleState) -> None:
    """The hub calls a pointer settled when no *reachable* replica owes an answer; a lost one may still serve v9."""
    row = moved(state, acks=3, proofs=3, ago_s=3).model_copy(update={"settled": True})
    state.tenants[ACME] = row
    assert not is_done(row)
    shown = panel(state, row)
    assert "BACK ON" not in shown
    assert "NOT DONE: 1 replica may still answer with v9" in shown


def test_a_failed_replica_is_not_done_at_once(state: ConsoleState) -> None:
    row = moved(state, acks=4, proofs=3)
    *rest, last = row.replicas
    row = row.model_copy(
        update={"replicas": (*rest, last.model_copy(update={"state": AckState.FAILED, "code": "wrong_tokens"}))}
    )
    state.tenants[ACME] = row
    shown = panel(state, row)
    assert "NOT DONE" in shown
    assert "FAILED" in shown
    assert "wrong_tokens" in shown


def test_settled_says_what_it_is_back_on_and_what_was_served(state: ConsoleState) -> None:
    row = moved(state, acks=4, proofs=4, ago_s=3)
    assert has_preview(state, row)
    shown = panel(state, row)
    assert "BACK ON v7/B2" in shown
    assert "FLIPPED 4/4   PROVEN 4/4 oldest 3.0s" in shown
    assert "v9 answered 35k requests while it was live" in shown
    assert "bad 31.0 > 0.4% of 412" in shown
    assert "h releases the hold" in shown
    assert "R ->  v6" in shown


def test_many_replicas_are_counted_and_the_worst_shown(state: ConsoleState) -> None:
    row = moved(state, acks=4, proofs=4, ago_s=14)
    good = row.replicas[0]
    many = tuple(good.model_copy(update={"replica": f"gpu-{n:02d}", "node": f"gpu-{n:02d}"}) for n in range(40))
    bad = row.replicas[0].model_copy(update={"replica": "zz", "node": "zz", "state": None, "admitted_left": None})
    row = row.model_copy(update={"replicas": (*many, bad), "placed": 41, "flipped": 40, "proven": 40, "settled": False})
    state.tenants[ACME] = row
    shown = panel(state, row)
    assert "zz" in shown
    assert "and 38 more, 38 of them proven" in shown
    assert len(shown.splitlines()) <= 9


def test_an_answered_request_to_the_left_release_is_shown(state: ConsoleState) -> None:
    row = moved(state, acks=4, proofs=0)
    first, *rest = row.replicas
    row = row.model_copy(update={"replicas": (first.model_copy(update={"admitted_left": 3}), *rest)})
    state.tenants[ACME] = row
    line = next(line for line in panel(state, row).splitlines() if "gpu-01" in line)
    assert line.split()[2] == "3"


def listed(state: ConsoleState, row: TenantRow, n: int) -> TenantRow:
    """The row with its last `n` replicas listed, and no canary that tells v7 from the base."""
    why = {"state": AckState.LISTED, "code": "not_distinct", "detail": "the base alone answers alike"}
    rest, last = row.replicas[: row.placed - n], row.replicas[row.placed - n :]
    replicas = (*rest, *(replica.model_copy(update={**why, "proven_ms": None}) for replica in last))
    state.tenants[ACME] = row = row.model_copy(
        update={"replicas": replicas, "proven": row.placed - n, "listed": n, "settled": True, "flags": ()}
    )
    return row


def test_a_listed_replica_is_counted_apart_and_never_as_proven(state: ConsoleState) -> None:
    row = listed(state, moved(state, acks=4, proofs=4, ago_s=3), 1)
    shown = panel(state, row, height=14)
    assert "BACK ON v7/B2" in shown
    assert "LISTED, not proven" in shown
    assert "PROVEN 3/4 LISTED 1/4" in shown
    assert "PROVEN 4/4" not in shown
    line = next(line for line in shown.splitlines() if row.replicas[-1].replica in line)
    assert line.split()[3] == "listed"
    assert "not_distinct the base alone answers alike" in line


def test_where_no_replica_is_proven_the_console_shows_listed_and_no_proof(state: ConsoleState, armed: Armed) -> None:
    verdict = decide(Action.ROLLBACK, state, armed())
    assert isinstance(verdict, Act)
    own = state.sent(verdict.moves[0])[0]
    row = listed(state, moved(state, acks=4, proofs=4, ago_s=3), 4)
    assert row.last_event is not None
    own.phase = Phase.COMMITTED
    own.result = MoveResult(events=(row.last_event,), rev=row.last_event.rev, epoch=3, commit_ms=2.1)
    told = tell_of(state, own)
    assert told.text.endswith("LISTED 4/4 FLIPPED 4/4 +7ms COMMITTED rev 88401 +2ms")
    assert told.style == "warn"
    assert "PROVEN 4/4" not in panel(state, row, height=14)
    assert "PROVEN 1" not in tell_of_all(state, [own]).text
    assert "LISTED 1" in tell_of_all(state, [own]).text
    cells = tenant_cells(state, row)
    assert (cells["PROVEN"], cells["WHY"].text) == (Span("0/4", "warn"), "4 listed")
    state.dismissed.add(row.pointer.last_move or "")
    assert "LISTED, not proven: the base alone answers alike" in preview(state, Frame())
    assert is_done(row), "nothing more is to come of the move: R is not locked"


def test_an_unknown_outcome_claims_nothing(state: ConsoleState, armed: Armed, clock: Clock) -> None:
    verdict = decide(Action.ROLLBACK, state, armed())
    assert isinstance(verdict, Act)
    own = state.sent(verdict.moves[0])[0]
    own.phase, own.trouble = Phase.UNKNOWN, "https://hub"
    clock.now += 4
    row = state.tenants[ACME]
    shown = panel(state, row)
    assert "OUTCOME UNKNOWN" in shown
    assert "it may have moved, and it may not" in shown
    for claim in ("COMMITTED", "FLIPPED", "BACK ON", "NOT DONE"):
        assert claim not in shown
    assert "OUTCOME UNKNOWN R acme v9/B2 > v7/B2" in tell_of(state, own).text


def test_the_tell_line_follows_a_move_until_it_is_proven(state: ConsoleState, armed: Armed) -> None:
    verdict = decide(Action.ROLLBACK, state, armed())
    assert isinstance(verdict, Act)
    own = state.sent(verdict.moves[0])[0]
    assert tell_of(state, own).text == "R acme v9/B2 > v7/B2: sending"
    row = moved(state, acks=3, proofs=1)
    assert row.last_event is not None
    own.phase = Phase.COMMITTED
    own.result = MoveResult(events=(row.last_event,), rev=row.last_event.rev, epoch=3, commit_ms=2.1)
    assert tell_of(state, own).text.endswith("PROVEN 1/4 FLIPPED 3/4 COMMITTED rev 88401 +2ms")
    assert tell_of(state, own).style == "warn"
    state.tenants[ACME] = row.model_copy(update={"settled": True, "flipped": 4, "proven": 4})
    assert tell_of(state, own).style == "good"


# ---- nodes, jobs, events, bars ---------------------------------------------------------------------------------


def test_a_gpu_line_shows_what_matters_to_on_call(state: ConsoleState) -> None:
    shown = text(node_lines(state, state.nodes["gpu-06"], 100, 9))
    assert "slowed: hw thermal slowdown" in shown
    assert "XID 63" in shown
    assert "1 remapped row" in shown


def test_a_figure_that_could_not_be_read_is_a_dash(state: ConsoleState) -> None:
    node = state.nodes["gpu-01"]
    blind = node.gpus[0].model_copy(update={"utilisation": None, "power_w": None, "temperature_c": None})
    node = node.model_copy(update={"gpus": (blind,), "host": None})
    shown = text(node_lines(state, node, 100, 9))
    assert " -%" in shown
    assert "-/700 W" in shown
    assert "-C" in shown
    assert "CPU and memory not reported" in shown
    assert node_cells(state, node)["CPU%"].text == "-"


def test_links_that_are_down_or_count_errors_stand_beside_their_gpu_and_mark_the_node(state: ConsoleState) -> None:
    node = state.nodes["gpu-01"]
    assert "!" not in node_cells(state, node)["GPU"].text
    for links in (NvLink(links=18, up=17, down=1), NvLink(links=18, up=18, down=0, errors={"CRC": 2})):
        torn = node.model_copy(update={"gpus": (node.gpus[0].model_copy(update={"nvlink": links}), *node.gpus[1:])})
        assert f"NVLink {links.up} of 18 up" in text(node_lines(state, torn, 160, 9))
        assert "!" in node_cells(state, torn)["GPU"].text


def test_the_use_of_a_divided_gpu_is_not_known_and_its_engine_stands_with_its_instance(state: ConsoleState) -> None:
    node = state.nodes["gpu-01"]
    part = MigInstance(place="0/7/0", uuid="MIG-7", profile="3g.40gb", memory_used=3 << 30, memory_total=40 << 30)
    divided = node.gpus[0].model_copy(update={"mig": True, "utilisation": None, "instances": (part,)})
    engine = node.replicas[0].model_copy(update={"gpus": (0,), "instances": ("0/7/0",)})
    node = node.model_copy(update={"gpus": (divided,), "replicas": (engine,)})
    pane = text(node_lines(state, node, 80, 9))
    assert "   MIG  " in pane
    assert "%" not in pane.splitlines()[1]
    assert "on gpu0 (MIG 0/7/0)" in pane
    page = text(node_page(state, node, 80))
    assert "use    not known" in page
    assert "MIG 0/7/0 3g.40gb  3.0/40 GB  MIG-7" in page
    assert node_cells(state, node)["GPU"].text.startswith("1x - ")


@pytest.mark.parametrize("nvml", [kind for kind in NvmlState if kind not in (NvmlState.OK, NvmlState.NO_GPU)])
def test_each_driver_trouble_has_words(state: ConsoleState, nvml: NvmlState) -> None:
    node = state.nodes["gpu-01"].model_copy(update={"nvml": nvml, "gpus": ()})
    assert f"GPU {nvml.value.replace('_', ' ')}: " in text(node_lines(state, node, 100, 9))


def test_drift_stands_in_the_title_of_the_row_and_a_node_says_how_its_pin_ends(
    state: ConsoleState, armed: Armed
) -> None:
    row = state.tenants[ACME]
    target = row.preview.target
    assert target is not None
    first, *rest = row.replicas
    state.tenants[ACME] = row.model_copy(
        update={"replicas": (first.model_copy(update={"pinned": target.id}), *rest), "flags": ("PIN", *row.flags)}
    )
    assert f"PINNED on {first.replica} to {target.label}" in preview(state, armed())
    node = next(node for node in state.nodes.values() if node.pins)
    pin = node.pins[0]
    shown = text(node_lines(state, node, 100, 12))
    assert f"loradeck node unpin {node.node} {pin.tenant}" in shown


def test_a_release_that_may_be_lifted_is_skipped_with_the_way_out(state: ConsoleState, armed: Armed) -> None:
    row = state.tenants[ACME]
    skipped = tuple(skip.model_copy(update={"liftable": True}) for skip in row.preview.skipped)
    assert skipped
    state.tenants[ACME] = row.model_copy(update={"preview": row.preview.model_copy(update={"skipped": skipped})})
    assert f"(loradeck lift acme {skipped[0].release.label})" in preview(state, armed(), width=120)


def test_a_pin_in_the_log_says_from_what_to_what_where_and_when_by_whose_clock(state: ConsoleState) -> None:
    row = state.tenants[ACME]
    last, target = row.last_event, row.preview.target
    assert last is not None
    assert target is not None
    event = last.model_copy(
        update={
            "kind": EventKind.PIN,
            "pointer": None,
            "from_release": row.live.id if row.live else None,
            "actor": "ops@gpu-04",
            "payload": {"node": "gpu-04", "release": target.id, "over": [1, 41], "at_ms": 1_767_225_600_000},
        }
    )
    shown = text(event_lines(state, event, 100))
    assert "PINNED v9/B2 > v7/B2   on gpu-04 alone, 2026-01-01 00:00" in shown
    assert "by its clock" in shown


def test_of_more_gpus_than_fit_those_in_trouble_are_shown_and_the_engine_always(state: ConsoleState) -> None:
    node = state.nodes["gpu-06"]
    hot, fine = node.gpus
    node = node.model_copy(update={"gpus": (*(fine.model_copy(update={"index": n}) for n in range(7)), hot)})
    shown = text(node_lines(state, node, 100, 9))
    assert len(shown.splitlines()) == 9
    assert "hw thermal slowdown" in shown
    assert "and 3 more GPUs, none slowed or with errors; enter shows all" in shown
    assert "gpu-06  up  B2" in shown


def test_more_lines_than_fit_are_counted(state: ConsoleState) -> None:
    node = state.nodes["gpu-01"]
    node = node.model_copy(update={"replicas": node.replicas * 8})
    lines = node_lines(state, node, 100, 9)
    assert len(lines) == 9
    assert "and 3 more lines" in text(lines)


def test_a_failed_job_says_why_and_has_no_time_left(state: ConsoleState) -> None:
    assert "about 1m left" in text(job_lines(state, state.jobs["job-7be10c44"], 100))
    failed = text(job_lines(state, state.jobs["job-11aa03de"], 100))
    assert "diverged: loss is not finite at step 12" in failed
    assert "left" not in failed


def test_a_failed_promote_is_named_with_its_reason_until_it_is_answered(state: ConsoleState, armed: Armed) -> None:
    row = state.tenants["cove", "production"]
    (job,) = (job for job in state.jobs.values() if job.id == row.preview.prepare)
    plain = row.preview.model_copy(update={"action": PreviewAction.ROLLBACK, "prepare": None})
    state.tenants[row.key] = row.model_copy(update={"preview": plain, "flags": ("FAILED",)})
    state.jobs[job.id] = job.model_copy(update={"state": JobState.FAILED, "message": "the prepare failed on gpu-05"})
    state.tenant_list.choose(row.key)
    assert "cove/production  gen 4  LAST PROMOTE FAILED: the prepare failed on gpu-05 ---" in preview(state, armed())
    assert tenant_cells(state, state.tenants[row.key])["WHY"].text == "promote failed"


def test_the_header_says_up_to_which_rev_the_database_holds_what_a_hub_had_seen(state: ConsoleState) -> None:
    lost = LostRevs(hub="hub0", rev=113, kept_rev=87)
    assert state.status is not None
    state.apply(FeedStatus(status=state.status.model_copy(update={"waiting": "log_behind", "lost": (lost,)})))
    assert "FORWARD MOVES WAIT: log_behind (rev 87 of 113)" in text([header_line(state, 100)])


def test_the_header_tells_live_stale_and_lost_apart(state: ConsoleState, clock: Clock) -> None:
    def header() -> str:
        return text([header_line(state, 100)])

    assert "PROD eu-1" in header()
    assert "hub ok 0s" in header()
    clock.now += 5
    assert "hub STALE 5s" in header()
    assert "nodes were 11/12 up" in header()
    state.link_down("it broke")
    clock.now += 9
    assert "LINK LOST 14s" in header()
    assert "figures are from 03:12:44Z: it broke" in text([summary_line(state, 100)])
    assert "CONNECTING" in text([header_line(ConsoleState(), 100)])


def test_a_broken_chain_is_on_the_events_screen(state: ConsoleState) -> None:
    state.screen = Screen.EVENTS
    assert "chain recomputed, intact" in text([summary_line(state, 100)])
    state.chain.broken = "between rev 3 and 4"
    assert "chain BROKEN between rev 3 and 4" in text([summary_line(state, 100)])


def test_unknown_figures_in_a_row_are_dashes(state: ConsoleState) -> None:
    row = state.tenants[ACME].model_copy(update={"bad_now": None, "bad_before": None, "ttft95_ms": None, "live": None})
    cells = tenant_cells(state, row)
    assert [cells[name].text for name in ("BEFORE", "BAD", "FIRST TOKEN", "SERVED BY")] == ["-", "-", "-", "-"]


def test_where_no_replica_is_heard_from_old_rates_are_no_rates(state: ConsoleState) -> None:
    row = state.tenants[ACME]
    assert tenant_cells(state, row)["REQ/S"].text == "41.2"
    silent = tuple(replica.model_copy(update={"linked": False}) for replica in row.replicas)
    cells = tenant_cells(state, row.model_copy(update={"replicas": silent}))
    assert [cells[name].text for name in ("REQ/S", "ERRORS", "FIRST TOKEN")] == ["-", "-", "-"]
    one = (row.replicas[0], *silent[1:])
    assert tenant_cells(state, row.model_copy(update={"replicas": one}))["REQ/S"].text == "41.2"


def test_what_is_said_is_shown_whole_or_counted() -> None:
    assert whole_items("bad answers, held", 18) == "bad answers, held"
    assert whole_items("bad answers, overridden, held", 18) == "bad answers +2"
    assert whole_items("waits for recover", 6) == "waits for recover", "it is cut where it is shown"
    assert whole_items("", 18) == ""


@pytest.mark.parametrize(
    ("flags", "fields", "said"),
    [
        (("BAD", "OVR"), {}, "bad answers, overridden"),
        (("BAD",), {"cause": Cause(figure="errors")}, "errors"),
        (("BAD",), {"cause": Cause(figure="overdue")}, "overdue answers"),
        (("OVR", "UNPRVN"), {"proven": 1, "listed": 1, "placed": 4}, "2 unproven, overridden"),
        (("SLOW", "NOPRIOR"), {}, "slow, no way back"),
        (("HELD", "PREP", "SUSP"), {}, "held, preparing, suspended"),
        (("FAILED", "GLASS", "AHEAD"), {}, "waits for recover, promote failed, acted alone"),
        (("DRIFT", "PIN", "CAND"), {}, "drift, pinned, candidate"),
        (("NEWER",), {}, "newer"),
    ],
)
def test_flags_are_said_in_words_the_worst_first(
    state: ConsoleState, flags: tuple[str, ...], fields: dict[str, object], said: str
) -> None:
    row = state.tenants[ACME].model_copy(update={"flags": flags, **fields})
    assert ", ".join(why(row)) == said
    assert tenant_cells(state, row)["WHY"].text == said


def test_a_candidate_is_said_with_its_share(state: ConsoleState) -> None:
    row = with_candidate(state, to_live=True).model_copy(update={"flags": ("CAND",)})
    assert why(row) == ("candidate 2.5 %",)
    assert row.pointer.candidate is not None
    shadow = row.pointer.candidate.model_copy(update={"permille": 50, "shadow": True})
    pointer = row.pointer.model_copy(update={"candidate": shadow})
    assert why(row.model_copy(update={"pointer": pointer})) == ("shadow 5 %",)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({}, "v7 loaded"),
        ({"readiness": Readiness.WARM}, "v7 loads"),
        ({"readiness": Readiness.CACHED}, "v7 starts"),
        ({"readiness": Readiness.ABSENT}, "v7 fetches"),
        ({"asks": "not soaked"}, "v7 asks"),
        ({"action": PreviewAction.CANCEL_PREPARE}, "cancels"),
        ({"action": PreviewAction.FALLBACK, "target": None}, "none: base"),
        ({"action": PreviewAction.NONE, "target": None}, "none"),
    ],
)
def test_where_R_goes_is_said_in_words(state: ConsoleState, fields: dict[str, object], shown: str) -> None:
    row = state.tenants[ACME]
    row = row.model_copy(update={"preview": row.preview.model_copy(update=fields)})
    assert tenant_cells(state, row)["R GOES TO"].text == shown


@pytest.mark.parametrize(
    ("fields", "painted"),
    [
        ({"flags": ("BAD",)}, {"BAD": "bad"}),
        ({"flags": ("BAD",), "cause": Cause(figure="errors"), "error_share": 0.15}, {"ERRORS": "bad"}),
        ({"flags": ("BAD",), "cause": Cause(figure="errors"), "error_share": 0.03}, {"ERRORS": "bad"}),
        ({"flags": (), "error_share": 0.15}, {"ERRORS": "bad"}),
        ({"flags": ("BAD",), "cause": Cause(figure="overdue")}, {}),
        ({"flags": ("SLOW",), "slow": ("first tokens",)}, {"FIRST TOKEN": "warn"}),
        ({"flags": ("SLOW",), "slow": ("further tokens",)}, {}),
        ({"flags": ()}, {}),
    ],
)
def test_colour_stands_on_the_figure_that_is_bad(
    state: ConsoleState, fields: dict[str, object], painted: dict[str, str]
) -> None:
    cells = tenant_cells(state, state.tenants[ACME].model_copy(update=fields))
    figures = {name: cells[name].style for name in ("BAD", "ERRORS", "FIRST TOKEN")}
    assert {name: style for name, style in figures.items() if style} == painted


def names_shown(longest: int, width: int) -> list[str]:
    return [column.name for column, _ in shown(tenant_columns(longest, width), width)]


def test_names_are_whole_and_columns_go_by_their_rank() -> None:
    always = ["TENANT", "BAD", "SERVED BY", "PROVEN", "R GOES TO", "WHY"]
    for width in range(80, 240):
        for longest in (3, 17, 24):
            columns = shown(tenant_columns(longest, width), width)
            assert columns[0][1] >= longest
            assert sum(size for _, size in columns) + len(columns) - 1 + 3 == width, "and the last one has the rest"
            assert [name for name in names_shown(longest, width) if name in always] == always
    assert names_shown(17, 80) == ["TENANT", "BAD", "ERRORS", "SERVED BY", "PROVEN", "R GOES TO", "WHY"]
    assert {"ERRORS", "FIRST TOKEN", "REQ/S"} < set(names_shown(17, 100))
    assert {"BEFORE", "FOR"} < set(names_shown(17, 120))


def test_two_names_that_begin_alike_are_told_apart_at_100_columns(state: ConsoleState) -> None:
    columns = tenant_columns(17, 100)
    for tenant in ("acme-support-emea", "acme-support-apac"):
        row = state.tenants[ACME].model_copy(update={"tenant": tenant})
        assert text([laid_out(columns, tenant_cells(state, row), 100, Span("  "))]).split()[0] == tenant


def test_numbers_end_and_words_begin_in_one_column(state: ConsoleState) -> None:
    columns = tenant_columns(17, 120)
    for row in state.tenants.values():
        for cell in tenant_cells(state, row).values():
            assert cell.text == cell.text.strip()
    drawn = [text([laid_out(columns, tenant_cells(state, row), 120, Span("  "))]) for row in state.tenants.values()]
    at = text([heading(columns, 120)])
    for name in ("R GOES TO", "SERVED BY"):
        assert all(line[at.index(name)] != " " and line[at.index(name) - 1] == " " for line in drawn)
    for name in ("BAD", "ERRORS", "FIRST TOKEN", "REQ/S", "PROVEN"):
        end = at.index(f" {name} ") + len(name)
        assert all(line[end] != " " and line[end + 1] == " " for line in drawn)


def test_proofs_that_are_old_are_said_with_their_age(state: ConsoleState) -> None:
    source = CountSource(count="proven", by="probe", node="gpu-01", age_s=240)
    row = state.tenants["delta", "production"].model_copy(update={"sources": (source,)})
    cells = tenant_cells(state, row)
    assert (cells["PROVEN"], cells["WHY"]) == (Span("6/6", "warn"), Span("proof 4 min old", "warn"))


def test_what_a_lost_node_had_proven_is_not_shown_as_proven(state: ConsoleState) -> None:
    row = state.tenants[ACME]
    lost = row.replicas[0].model_copy(update={"linked": False})
    table = text(replica_table(state, row.model_copy(update={"replicas": (lost,)}), "v9", 5, not_done=True))
    assert "was proven" in table
    assert "yes" not in table
    node = state.nodes["gpu-04"]
    assert (node.lost, node_cells(state, node)["ENGINES"].text) == (True, "was 1/1")
    assert "gpu-04  was up" in text(node_lines(state, node, 100, 9))
