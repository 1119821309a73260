"""The tenants of the made-up fleet: their releases, rows and log, at one fixed moment."""

from __future__ import annotations

import hashlib
from typing import Any

from loradeck.rules.moves.chain import event_hash
from loradeck.schemas.attestation import CheckResult, GateResult
from loradeck.schemas.counts import Counts
from loradeck.schemas.ids import Role
from loradeck.schemas.log import GENESIS, Event, EventKind, PointerState, Quarantine
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.replica_state import AckState
from loradeck.schemas.state import (
    Cause,
    Preview,
    PreviewAction,
    Readiness,
    ReleaseView,
    ReplicaRow,
    Skipped,
    TenantRow,
)
from loradeck.schemas.table import ReleaseRef

NOW_MS = 1_772_593_964_000
"""2026-03-04 03:12:44Z."""


MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def digest(text: str) -> str:
    """A digest that depends on nothing but the text."""
    return hashlib.sha256(text.encode()).hexdigest()


BASES = {"B1": digest("base one"), "B2": digest("base two")}


def view(tenant: str, label: str, base: str = "B2") -> ReleaseView:
    """A release as rows show it; 'base' is the base alone."""
    alone = label == "base"
    release = Release(
        tenant=tenant,
        form=Form.BASE if alone else Form.ADAPTER,
        base=BASES[base],
        adapter=None if alone else digest(f"{tenant} {label}"),
        label=label,
    )
    return ReleaseView(
        id=release.id, form=release.form, label=label, base=BASES[base], base_label=base, adapter=release.adapter
    )


def ref(tenant: str, label: str, base: str = "B2") -> ReleaseRef:
    """A release as pins and table entries carry it."""
    release = Release(
        tenant=tenant, form=Form.ADAPTER, base=BASES[base], adapter=digest(f"{tenant} {label}"), label=label
    )
    return ReleaseRef(id=release.id, release=release, label=label)


class Log:
    """An event log whose chain holds."""

    def __init__(self, rev: int = 88_400) -> None:
        self.rev = rev
        self.prev = digest(f"the event before {rev + 1}")
        self.events: list[Event] = []

    def add(
        self,
        kind: EventKind,
        pointer: PointerState,
        left: ReleaseView | None,
        *,
        actor: str,
        at_ms: int,
        reason: str = "",
        override: bool = False,
        incident: str | None = None,
        role: Role = Role.RELEASER,
    ) -> Event:
        """Append an event; `pointer` is the state it leaves."""
        self.rev += 1
        event_id = digest(f"event {self.rev}")[:32]
        body: dict[str, Any] = {
            "rev": self.rev,
            "id": event_id,
            "txn": digest(f"txn {self.rev}")[:32],
            "epoch": 3,
            "kind": kind.value,
            "tenant": pointer.tenant,
            "route": pointer.route,
            "pointer": pointer.model_copy(update={"last_move": event_id, "moved_ms": at_ms}).model_dump(mode="json"),
            "from_release": left.id if left else None,
            "actor": actor,
            "role": role.value,
            "reason": reason,
            "incident": incident,
            "override": override,
            "undoes": (),
            "payload": {},
            "at_ms": at_ms,
            "prev_hash": self.prev or GENESIS,
        }
        draft = Event.model_validate({**body, "hash": GENESIS})
        event = draft.model_copy(update={"hash": event_hash(draft)})
        self.prev = event.hash
        self.events.append(event)
        return event


def replicas(
    count: int, *, proven: int | None = None, first: int = 1, proof_age: float = 3.0
) -> tuple[ReplicaRow, ...]:
    """Replicas gpu-01 and on; the first `proven` of them proven, the rest flipped and being checked."""
    proven = count if proven is None else proven
    return tuple(
        ReplicaRow(
            node=f"gpu-{first + i:02d}",
            replica=f"gpu-{first + i:02d}",
            state=AckState.PROVEN if i < proven else AckState.FLIPPED,
            flipped_ms=6 + i % 2,
            proven_ms=1800 + 100 * i if i < proven else None,
            proof_age_s=proof_age - i / 4 if i < proven else None,
            heard_age_s=0.2 + i / 10,
            linked=True,
            admitted_left=0,
        )
        for i in range(count)
    )


def answers(finished: int, checked: int, bad: int) -> Counts:
    """Counts of answered requests; as many as were checked where it does not matter how many there were."""
    return Counts.over(finished=max(finished, checked), checked=checked, bad=bad)


def row(
    log: Log,
    tenant: str,
    live: ReleaseView | None,
    target: ReleaseView | None,
    *,
    route: str = "production",
    generation: int = 12,
    age_ms: int = DAY,
    flags: tuple[str, ...] = (),
    placed: int = 2,
    proven: int | None = None,
    first: int = 1,
    rate: float = 4.0,
    bad_before: float | None = 0.002,
    bad_now: float | None = 0.002,
    bad_n: int = 400,
    ttft: float | None = 180,
    cause: Cause | None = None,
    readiness: Readiness = Readiness.RESIDENT,
    asks: str | None = None,
    refused: str | None = None,
    skipped: tuple[Skipped, ...] = (),
    prepare: str | None = None,
    actor: str = "ci-bot",
    reason: str = "",
    override: bool = False,
    came_from: ReleaseView | None = None,
    gate: GateResult | None = None,
    held: bool = False,
    streams: int = 0,
    soak: tuple[float, int] = (600, 200),
    served: tuple[float, int] | None = (47_000, 4_100_000),
    estimate_ms: float | None = 6,
) -> TenantRow:
    """One settled pointer that was last moved by a promote."""
    at_ms = NOW_MS - age_ms
    pointer = PointerState(
        tenant=tenant,
        route=route,
        generation=generation,
        release=live.id if live else None,
        beneath=(target.id,) if target else (),
        held=held,
    )
    event = log.add(
        EventKind.PROMOTE,
        pointer,
        came_from or target,
        actor=actor,
        at_ms=at_ms,
        reason=reason,
        override=override,
    )
    assert event.pointer is not None
    action = PreviewAction.ROLLBACK if target else PreviewAction.FALLBACK
    if prepare:
        action = PreviewAction.CANCEL_PREPARE
    rows = replicas(placed, proven=proven, first=first, proof_age=600)
    good = sum(replica.state is AckState.PROVEN for replica in rows)
    return TenantRow(
        tenant=tenant,
        route=route,
        pointer=event.pointer,
        epoch=3,
        live=live,
        flags=flags,
        preview=Preview(
            action=action,
            generation=generation,
            target=target,
            asks=asks,
            refused=refused,
            skipped=skipped,
            prepare=prepare,
            readiness=readiness if target else Readiness.UNKNOWN,
            ready=placed if readiness is Readiness.RESIDENT and target else 0,
            placed=placed,
            estimate_ms=estimate_ms if target else None,
            served_s=served[0] if served and target else None,
            served_requests=served[1] if served and target else 0,
            streams=streams,
        ),
        replicas=rows,
        flipped=placed,
        proven=good,
        listed=0,
        placed=placed,
        attested=(placed, placed) if good == placed else None,
        settled=good == placed,
        cause=cause
        or Cause(
            live=answers(int(rate * 7200), 4200, 9),
            prior=answers(0, 180_000, 400) if target else None,
            others=answers(0, 52_000, 210),
            base=None,
            verdict="fine",
        ),
        requests_per_s=rate,
        error_share=0.001,
        bad_before=bad_before,
        bad_now=bad_now,
        bad_n=bad_n,
        ttft95_ms=ttft,
        gate=gate,
        last_event=event,
        soak=soak,
    )


_NAMES = (
    "elm", "fjord", "gale", "harbor", "iris", "juniper", "kestrel", "larch", "meadow", "nimbus", "orchid", "pine",
    "quarry", "reef", "sable", "tundra", "umber", "vale", "willow", "xenon", "yarrow", "zephyr",
)  # fmt: skip


def acme(log: Log) -> TenantRow:
    """The tenant of the incident: v9 was promoted over a failed gate and answers badly."""
    v9, v8, v7 = view("acme", "v9"), view("acme", "v8"), view("acme", "v7")
    return row(
        log,
        "acme",
        v9,
        v7,
        generation=41,
        age_ms=14 * MINUTE,
        flags=("BAD", "OVR"),
        placed=4,
        rate=41.2,
        bad_before=0.004,
        bad_now=0.31,
        bad_n=2310,
        came_from=v8,
        reason="hotfix for v8",
        override=True,
        streams=12,
        gate=GateResult(
            release=v9.id,
            against=v8.id,
            suite=digest("suite"),
            passed=False,
            checks=(
                CheckResult(name="exact", passed=True, value=0.91, threshold=0.9, n=400, low=0.88, high=0.94),
                CheckResult(name="json", passed=False, value=0.71, threshold=0.95, n=400, low=0.66, high=0.75),
            ),
        ),
        skipped=(Skipped(release=v8, reason="breached (bad 18% in 17 min)"),),
        cause=Cause(
            live=answers(34_600, 2310, 716),
            prior=answers(0, 273_000, 1090),
            by_replica={f"gpu-{i:02d}": answers(0, 570 + i, 175 + i) for i in range(1, 5)},
            others=answers(0, 88_000, 350),
            base=answers(0, 1200, 11),
            verdict="release",
            since_ms=NOW_MS - 10 * MINUTE,
            bad_since_ms=NOW_MS - 14 * MINUTE + 8_000,
            tenants=58,
        ),
    )


def tenants(log: Log) -> list[TenantRow]:
    """The rows, with their events in the log in the order of time, and a few more around the incident."""
    rows = {made.key: made for made in _rows(Log())}
    told: dict[tuple[str, str], TenantRow] = {}
    plan = [(made.pointer.moved_ms or 0, made, False) for made in rows.values()]
    plan += [(NOW_MS - 31 * MINUTE, rows["acme", "production"], True)]
    plan += [(NOW_MS - 109 * MINUTE, rows["bolt", "production"], True)]
    for at_ms, made, earlier in sorted(plan, key=lambda step: (step[0], step[1].tenant != "bolt")):
        first = made.last_event
        assert first is not None
        assert first.pointer is not None
        if earlier:
            _before(log, made, at_ms)
            continue
        event = log.add(
            first.kind, first.pointer, _left(made), actor=first.actor, at_ms=at_ms, reason=first.reason,
            override=first.override,
        )  # fmt: skip
        told[made.key] = made.model_copy(update={"pointer": event.pointer, "last_event": event})
    return list(told.values())


def _left(made: TenantRow) -> ReleaseView | None:
    """The release that a row's last promote left."""
    if made.tenant == "acme":
        return view("acme", "v8")
    return made.preview.target


def _before(log: Log, made: TenantRow, at_ms: int) -> None:
    """What happened on acme and bolt earlier that night."""
    older = made.pointer.model_copy(update={"generation": made.pointer.generation - 1, "beneath": ()})
    if made.tenant == "acme":
        v8, v7 = view("acme", "v8"), view("acme", "v7")
        log.add(
            EventKind.PROMOTE, older.model_copy(update={"release": v8.id, "beneath": (v7.id,)}), v7, actor="ci-bot",
            at_ms=at_ms, reason="nightly retrain",
        )  # fmt: skip
    else:
        v3 = view("bolt", "v3", "B1")
        log.add(
            EventKind.ROLLBACK, older.model_copy(update={"release": view("bolt", "v4", "B1").id}), v3, actor="op2",
            at_ms=at_ms, reason="refusals up", incident="INC-2210", role=Role.OPERATOR,
        )  # fmt: skip


def _rows(log: Log) -> list[TenantRow]:
    """Every kind of row: bad, unproven, no way back, asking, preparing, held, and many that are fine."""
    rows = [
        row(
            log, name, view(name, f"v{3 + i % 5}", "B1" if i % 3 == 0 else "B2"),
            view(name, f"v{2 + i % 5}", "B1" if i % 3 == 0 else "B2"),
            generation=5 + i, age_ms=(i + 2) * 31 * HOUR, placed=2 + i % 3, first=1 + i % 8,
            rate=0.8 + (i * 7 % 23), bad_before=0.001 * (i % 5), bad_now=0.001 * (i % 4), ttft=150 + i * 7 % 90,
        )
        for i, name in enumerate(_NAMES)
    ]  # fmt: skip
    rows.append(
        row(
            log, "delta", view("delta", "v9"), view("delta", "v8"), generation=9, age_ms=41 * DAY, placed=6,
            rate=88.0, bad_before=0.003, bad_now=0.003, ttft=160,
        )
    )  # fmt: skip
    rows.append(
        row(
            log, "cedar", view("cedar", "v3", "B1"), None, generation=3, age_ms=2 * DAY + 11 * HOUR,
            flags=("NOPRIOR",), rate=3.1, refused="v3 is its first release", ttft=210,
        )
    )  # fmt: skip
    rows.append(
        row(
            log, "birch", view("birch", "v4"), view("birch", "v3"), route="staging", generation=7, age_ms=5 * HOUR,
            rate=0.4, asks="not soaked", soak=(5, 5), served=(3, 4), placed=1, first=3,
            readiness=Readiness.WARM, ttft=None, bad_before=None, bad_now=None, estimate_ms=None,
        )
    )  # fmt: skip
    rows.append(
        row(
            log, "aspen", view("aspen", "v6"), view("aspen", "v5"), generation=18, age_ms=40 * MINUTE, rate=12.5,
            flags=("HELD",), held=True, actor="op2",
        )
    )  # fmt: skip
    rows.append(
        row(
            log, "cove", view("cove", "v2"), view("cove", "v1"), generation=4, age_ms=3 * HOUR, rate=6.1,
            flags=("PREP",), prepare="job-5f2a91c0",
        )
    )  # fmt: skip
    rows.append(
        row(
            log, "bolt", view("bolt", "v5"), view("bolt", "v4", "B1"), generation=22, age_ms=14 * MINUTE, placed=4,
            proven=3, flags=("UNPRVN",), rate=9.8, bad_before=0.006, bad_now=0.006, ttft=190,
            readiness=Readiness.WARM, estimate_ms=None,
        )
    )  # fmt: skip
    rows.append(acme(log))
    return rows


def rolled_back(
    before: TenantRow, log: Log, *, actor: str = "op1", at_ms: int = NOW_MS, acks: int = 0, proofs: int = 0
) -> tuple[Event, TenantRow]:
    """The event and the row after R on a row: `acks` replicas flipped, `proofs` of them proven."""
    target, left = before.preview.target, before.live
    assert target is not None
    assert left is not None
    pointer = before.pointer.model_copy(
        update={
            "generation": before.pointer.generation + 1,
            "release": target.id,
            "beneath": (),
            "held": True,
            "quarantined": (Quarantine(release=left.id, event="e"),),
        }
    )
    event = log.add(EventKind.ROLLBACK, pointer, left, actor=actor, at_ms=at_ms, role=Role.OPERATOR)
    rows = tuple(
        replica.model_copy(
            update={
                "state": AckState.PROVEN if i < proofs else AckState.FLIPPED if i < acks else None,
                "flipped_ms": 6.0 + i % 2 if i < acks else None,
                "proven_ms": 1800.0 + 100 * i if i < proofs else None,
                "proof_age_s": 3.0 if i < proofs else None,
                "admitted_left": 0 if i < acks else None,
            }
        )
        for i, replica in enumerate(before.replicas)
    )
    further = view(before.tenant, "v6")
    return event, before.model_copy(
        update={
            "pointer": event.pointer,
            "live": target,
            "last_event": event,
            "undo_asks": "quarantined, breached: bad 31.0% of 2310, left by R",
            "preview": before.preview.model_copy(
                update={"generation": pointer.generation, "target": further, "skipped": ()}
            ),
            "replicas": rows,
            "flipped": acks,
            "proven": proofs,
            "settled": proofs == before.placed,
            "attested": (proofs, before.placed) if proofs == before.placed else None,
            "flags": ("HELD",) if proofs == before.placed else ("UNPRVN", "HELD"),
            "cause": before.cause.model_copy(
                update={
                    "live": answers(6_180, 412, 2) if proofs else Counts(),
                    "by_replica": {replica.replica: answers(0, 103, i % 2) for i, replica in enumerate(rows)}
                    if proofs
                    else {},
                    "verdict": "fine" if proofs else "too_few",
                }
            ),
            "bad_before": before.bad_now,
            "bad_now": 0.004 if proofs else None,
            "bad_n": 412 if proofs else 0,
            "gate": None,
            "left_answered": 35_118,
            "last_left_ms": at_ms + 2_000 if proofs == before.placed else None,
        }
    )
