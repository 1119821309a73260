"""What every backend must keep beside the log."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tests.contract.store.conftest import Backend
from tests.contract.store.drafts import digest, move
from tests.contract.store.whole_log import verify_log

from loradeck.rules.data.backlog import asks
from loradeck.schemas.answer_ledger import Anchor, Segment
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.counts import CLASSES, LENGTHS, MOST_INPUTS, WORDS, Counts, InputCounts
from loradeck.schemas.feedback import Feedback
from loradeck.schemas.jobs import Job, JobState, PrepareSpec
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion, DecisionRecord, FileEntry
from loradeck.schemas.notice import Notice, NoticeKind, Severity
from loradeck.schemas.tenant import TokenRecord
from loradeck.store.interface import HOURS_KEPT, MINUTES_KEPT, NOTICES_KEPT, Doc, OutcomeUnknown, Served, StoreError
from loradeck.store.sql_log import Store
from loradeck.store.sqlite import SqliteStore


def manifest(name: str = "support", *, rank: int = 8, tenant: str = "acme") -> AdapterManifest:
    return AdapterManifest(
        tenant=tenant,
        name=name,
        base=digest(1),
        files=(FileEntry(path="adapter_model.safetensors", size=3, sha256=digest(2)),),
        rank=rank,
        alpha=16,
        target_modules=("q_proj",),
        config_hash=digest(3),
        decision=DecisionRecord(why_weights="format"),
    )


def job(number: int, state: JobState) -> Job:
    spec = PrepareSpec(tenant="acme", route="production", release=digest(1), expected_generation=1)
    return Job(id=f"job-{number}", kind="prepare", tenant="acme", spec=spec, state=state, created_ms=number, by="ann")


def attested(subject: int, *, route: str | None = "production", **fields: object) -> Attestation:
    return Attestation.model_validate(
        {
            "kind": AttestationKind.ATTESTED,
            "subject": digest(subject),
            "tenant": "acme",
            "route": route,
            "body": {"n": 2, "share": 0.25},
            "by": "hub",
        }
        | fields
    )


def test_a_document_never_changes(store: Store) -> None:
    first = store.register(Doc.DATASET, digest(1), {"rows": 3}, tenant="acme", by="ann")
    again = store.register(Doc.DATASET, digest(1), {"rows": 4}, tenant="bob", by="bob")
    assert first.body == {"rows": 3}
    assert again == first
    assert store.registry(Doc.DATASET) == [first]
    assert store.registry(Doc.SUITE) == []


def test_documents_are_numbered_within_their_kind(store: Store) -> None:
    for n in (7, 3, 5):
        store.register(Doc.BASE, digest(n), {"n": n}, tenant=None, by="ann")
    store.register(Doc.BASE, digest(3), {"n": 3}, tenant=None, by="ann")
    store.register(Doc.SUITE, digest(1), {}, tenant="acme", by="ann")
    store.register(Doc.SUITE, digest(2), {}, tenant="bob", by="ann")
    assert [(d.serial, d.body) for d in store.registry(Doc.BASE)] == [(1, {"n": 7}), (2, {"n": 3}), (3, {"n": 5})]
    assert [d.serial for d in store.registry(Doc.SUITE, tenant="bob")] == [2]
    assert store.registry(Doc.RELEASE) == []


def test_adapter_versions_count_within_tenant_and_name(store: Store) -> None:
    def register(m: AdapterManifest) -> AdapterVersion:
        row = store.register_adapter(m.model_dump(mode="json"), m.digest, digest(9), by="ann")
        assert (row.digest, row.kind, row.tenant) == (m.digest, Doc.ADAPTER, m.tenant)
        return AdapterVersion.model_validate(row.body)

    versions = [register(m) for m in (manifest(), manifest(rank=16), manifest("triage"), manifest(tenant="bob"))]
    assert [v.version for v in versions] == [1, 2, 1, 1]
    assert register(manifest(rank=16)) == versions[1]
    assert register(manifest(rank=32)).version == 3
    assert versions[0].release == digest(9)
    assert len(store.registry(Doc.ADAPTER, tenant="acme")) == 4


def test_a_manifest_that_is_not_what_its_digest_says_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="nothing was registered"):
        store.register_adapter(manifest().model_dump(mode="json"), digest(1), digest(9), by="ann")
    assert store.registry(Doc.ADAPTER) == []


def test_attestations_that_are_written_together_are_written_all_or_none(store: Store) -> None:
    first = store.attest(attested(1))
    written = store.attest_all([attested(2), attested(3, at_ms=77)])
    assert [a.seq for a in written] == [first.seq + 1, first.seq + 2]
    assert written[1].at_ms == 77
    assert store.attestations() == [first, *written]
    with pytest.raises(ValueError, match="serialize"):
        store.attest_all([attested(4), attested(5, body={"share": object()})])
    assert store.attestations() == [first, *written]
    assert store.attest_all([]) == []


def test_attestations_are_numbered_and_filtered(store_factory: Backend) -> None:
    store_factory.set_clock(5000)
    store = store_factory.open()
    first = store.attest(attested(1))
    assert (first.seq, first.at_ms, first.body) == (1, 5000, {"n": 2, "share": 0.25})
    store.attest(attested(2, route="staging", at_ms=77))
    store.attest(attested(1, kind=AttestationKind.REVOCATION, route=None))
    assert [a.seq for a in store.attestations()] == [1, 2, 3]
    assert store.attestations(subject=digest(1), kind=AttestationKind.ATTESTED) == [first]
    assert [a.at_ms for a in store.attestations(tenant="acme", route="staging")] == [77]
    assert store.attestations(tenant="bob") == []


def test_a_tenants_evaluations_on_a_suite_are_found_in_their_order(store: Store) -> None:
    kind, suite = AttestationKind.EVALUATION, digest(9)
    of_acme = [(1, suite, "acme"), (1, suite, "acme"), (2, suite, "acme"), (3, digest(8), "acme")]
    for subject, on, tenant in (*of_acme, (4, suite, "bob")):
        store.attest(attested(subject, kind=kind, tenant=tenant, body={"suite": on}))
    store.attest(attested(5, body={"suite": suite}))
    found = store.evaluated_on("acme", suite)
    assert [(look.release, look.seq) for look in found] == [(digest(1), 1), (digest(1), 2), (digest(2), 3)]
    assert [look.at_ms for look in found] == [one.at_ms for one in store.attestations()[:3]]


def test_served_counts_add_up_over_restarts(store_factory: Backend) -> None:
    store = store_factory.open()
    one = Served(tenant="acme", route="production", release=digest(1), seconds=1.5, counts=Counts(14, 3, 1, 10, 8, 2))
    store.add_served(
        [one, Served(tenant="acme", route="production", release=digest(2), counts=Counts.over(finished=1))],
        hour=100,
    )
    store_factory.close()
    store = store_factory.open()
    store.add_served([one], hour=101)
    twice = Served(
        tenant="acme", route="production", release=digest(1), seconds=3.0, counts=Counts(28, 6, 2, 20, 16, 4)
    )
    assert store.served() == [
        twice,
        Served(tenant="acme", route="production", release=digest(2), counts=Counts.over(finished=1)),
    ]


def test_requests_of_a_route_are_kept_by_the_hour_for_four_hundred_days(store: Store) -> None:
    one = Served(tenant="acme", route="production", release=digest(1), counts=Counts.over(finished=5, checked=4, bad=1))
    two = Served(tenant="acme", route="production", release=digest(2), counts=Counts.over(failed=2, refused=1))
    store.add_served([one, two], hour=100)
    store.add_served([one], hour=100)
    store.add_served([two], hour=101)
    store.add_served([Served(tenant="bolt", route="production", release=digest(3), seconds=5.0)], hour=101)
    assert store.hours("acme", "production", since=0) == {
        100: Counts.over(failed=2, refused=1, finished=10, checked=8, bad=2),
        101: Counts.over(failed=2, refused=1),
    }
    assert list(store.hours("acme", "production", since=101)) == [101]
    assert store.hours("bolt", "production", since=0) == {}
    store.expire_hours([("acme", "production")], 100 + HOURS_KEPT)
    assert list(store.hours("acme", "production", since=0)) == [101]


def test_requests_of_a_route_are_kept_by_the_minute_for_a_week(store: Store) -> None:
    one, two = Counts.over(finished=5, checked=4, bad=1), Counts.over(failed=2, refused=1)
    acme, bolt = ("acme", "production"), ("bolt", "production")
    store.add_minutes(6000, {acme: one, bolt: two})
    store.add_minutes(6000, {acme: two})
    store.add_minutes(6059, {acme: Counts(attempted=9) + one})  # those under way are not over
    store.add_minutes(6060, {acme: Counts.over(finished=2**40)})
    assert store.minutes(*acme, since=0) == {6000: one + two, 6059: one, 6060: Counts.over(finished=2**40)}
    assert list(store.minutes(*acme, since=6001)) == [6059, 6060]
    assert store.minutes(*bolt, since=0) == {6000: two}
    assert store.minutes("acme", "staging", since=0) == {}
    store.add_minutes(6060 + MINUTES_KEPT, {acme: one})
    assert list(store.minutes(*acme, since=0)) == [6060, 6060 + MINUTES_KEPT]


def test_unfinished_jobs_are_never_left_out(store: Store) -> None:
    for number in range(1, 6):
        store.put_job(job(number, JobState.QUEUED))
    for number in (2, 3, 5):
        store.put_job(job(number, JobState.DONE))
    assert [j.id for j in store.jobs()] == ["job-5", "job-4", "job-3", "job-2", "job-1"]
    assert [j.id for j in store.jobs(limit=3)] == ["job-5", "job-4", "job-1"]
    assert [j.id for j in store.jobs(limit=1)] == ["job-4", "job-1"]
    assert store.job("job-2") == job(2, JobState.DONE)
    assert store.job("job-9") is None


def test_jobs_are_read_in_the_order_in_which_they_were_submitted_whatever_became_of_them(store: Store) -> None:
    for number in range(1, 6):
        store.put_job(job(number, JobState.QUEUED))
    store.put_job(job(2, JobState.FAILED))
    assert [j.id for j in store.jobs_before(None, limit=2)] == ["job-5", "job-4"]
    assert store.jobs_before("job-4", limit=2) == [job(3, JobState.QUEUED), job(2, JobState.FAILED)]
    assert store.jobs_before("job-1", limit=2) == []
    assert store.jobs_before("job-9", limit=2) == []


def test_a_token_is_replaced_by_its_id(store: Store) -> None:
    token = TokenRecord(id="t1", name="ann", role="operator", sha256=digest(1))
    other = TokenRecord(id="t0", name="gpu-01", role="agent", node="gpu-01", sha256=digest(2))
    store.put_token(token)
    store.put_token(other)
    revoked = token.model_copy(update={"revoked": True})
    store.put_token(revoked)
    assert store.tokens() == [revoked, other]


def test_settings_are_kept(store_factory: Backend) -> None:
    store = store_factory.open()
    store.set_meta("name", "prod")
    store.set_meta("name", "prod-eu")
    store_factory.close()
    store = store_factory.open()
    assert (store.meta("name"), store.meta("other")) == ("prod-eu", None)


def test_moves_that_are_made_during_a_backup_are_made_and_the_copy_is_whole(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "hub.db")
    store.take_lease("hub-a")
    store.set_meta("large", "x" * (8 << 20))
    made = 0

    def move_now() -> None:
        nonlocal made
        if made < 40:
            made += 1
            store.commit([move(to=made, generation=made)], key=f"key-{made:04}")

    store.backup(str(tmp_path / "copy.db"), move_now)
    assert made >= 20, "one in each step"
    rev = store.snapshot().rev
    store.close()
    copy = SqliteStore(tmp_path / "copy.db")
    assert verify_log(copy).ok
    assert 20 <= copy.snapshot().rev <= rev, "those that were made while it was written"
    copy.close()


def test_a_backup_that_is_broken_off_leaves_nothing_behind_and_the_store_as_it_was(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "hub.db")
    store.take_lease("hub-a")

    def broken() -> None:
        raise OutcomeUnknown("a move's commit failed")

    with pytest.raises(OutcomeUnknown):
        store.backup(str(tmp_path / "copy.db"), broken)
    assert [path.name for path in tmp_path.glob("copy*")] == []
    store.reopen()
    store.commit([move(to=1)], key="key-0001")
    store.close()


def test_a_backup_is_consistent_and_never_replaces_a_file(store_factory: Backend, tmp_path: Path) -> None:
    store = store_factory.open()
    store.commit([move()], key="key-0001")
    copy = tmp_path / "copy"
    store.backup(str(copy))
    assert copy.stat().st_mode & 0o777 == 0o600
    old = copy.read_bytes()
    store.commit([move(to=2, generation=2)], key="key-0002")
    with pytest.raises(StoreError, match="never replaces"):
        store.backup(str(copy))
    assert copy.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("copy")] == ["copy"]


def test_a_store_restored_from_an_older_copy_lacks_the_hash_that_agents_have_seen(
    store_factory: Backend, tmp_path: Path
) -> None:
    store = store_factory.open()
    kept = store.commit([move(to=1)], key="key-0001").events[0]
    store.backup(str(tmp_path / "copy"))
    lost = store.commit([move(to=2, generation=2)], key="key-0002").events[0]
    store_factory.close()
    store_factory.restore(tmp_path / "copy")
    store = store_factory.open()
    assert store.has_hash(1, kept.hash)
    assert not store.has_hash(2, lost.hash)
    # The same move again is another event: the lost hash does not come back.
    store.commit([move(to=2, generation=2)], key="key-0002")
    assert not store.has_hash(2, lost.hash)
    assert store.lookup("key-0002") is not None


def notice(number: int) -> Notice:
    return Notice(id=f"n{number}", kind=NoticeKind.TEST, severity=Severity.INFO, at_ms=number, title=f"number {number}")


def test_a_notice_is_written_once_with_what_there_is_to_deliver(store: Store) -> None:
    (first,) = store.add_notices([(notice(1), ["oncall"])])
    again = store.add_notices([(notice(1), ["oncall"]), (notice(2), ["mail", "oncall"]), (notice(3), [])])
    assert [(told.id, due.seq, due.channel) for told, due in again] == [("n2", 2, "mail"), ("n2", 2, "oncall")]
    assert store.deliveries() == [first, *again]
    assert [(row.seq, row.notice.id, len(row.waiting)) for row in store.notices(2)] == [(3, "n3", 0), (2, "n2", 2)]


def test_a_delivery_that_was_given_goes_and_one_that_failed_stays_with_its_error(store: Store) -> None:
    (_, one), (_, two) = store.add_notices([(notice(1), ["mail", "oncall"])])
    failed = two.model_copy(update={"attempts": 3, "next_ms": None, "error": "it answered 400"})
    store.record_delivery(one, given=True)
    store.record_delivery(failed, given=False)
    assert [due for _, due in store.deliveries()] == [failed]


def test_old_notices_go_unless_they_are_yet_to_be_delivered(store: Store) -> None:
    store.add_notices([(notice(1), ["oncall"]), (notice(2), [])])
    store.add_notices([(notice(number), []) for number in range(3, NOTICES_KEPT + 5)])
    kept = [row.seq for row in store.notices(NOTICES_KEPT + 10)]
    assert (kept[-1], kept[-2], kept[0]) == (1, 5, NOTICES_KEPT + 4)


def segment(seq: int, *, tenant: str = "acme") -> Segment:
    return Segment(
        node="n1",
        tenant=tenant,
        chain="c" * 32,
        seq=seq,
        first_ms=1000 * seq,
        last_ms=1000 * seq + 999,
        rows=1,
        sha256=digest(seq + 1000 * len(tenant)),
        size=9,
        received_ms=0,
    )


def test_segments_are_found_by_tenant_and_time_and_by_their_chain(store: Store) -> None:
    mine, other = [segment(n) for n in (1, 2, 3)], segment(2, tenant="globex")
    store.put_segments([*mine, other])
    store.put_segments(mine[:1])  # as after an answer that was lost

    assert store.segments_at("acme", 2500, 2600, limit=10) == [mine[1]]
    assert store.segments_at("acme", 1999, 3000, limit=10) == mine
    assert store.segments_at("acme", 4000, 9000, limit=10) == []
    assert store.segments_of("c" * 32, "acme", from_seq=2, limit=10) == mine[1:]
    assert store.segments_of("d" * 32, "acme", from_seq=1, limit=10) == []


def test_an_anchored_segment_is_not_anchored_again_and_one_that_ended_can_go(store: Store) -> None:
    first, second = segment(1), segment(2)
    store.put_segments([first, second])
    anchored = first.model_copy(update={"anchor": Anchor(line=7, root=digest(9), at=0, size=1, path=())})
    store.put_segments([anchored])

    assert store.segments_to_anchor(limit=10) == [second]
    assert store.segments_ended("acme", 2000, limit=10) == [anchored]
    store.drop_segments([first.sha256, digest(1)])
    assert store.segments_at("acme", 0, 9000, limit=10) == [second]


def said(request: str, tied: str = "", **fields: Any) -> Feedback:
    told = {"request": request, "kind": "thumb", "value": "up", "route": "production", "at_ms": 1, "caller": "c"}
    return Feedback.model_validate(told | {"tenant": "acme", "by": "n1", "received_ms": 1, "tied": tied} | fields)


def test_counts_of_inputs_add_up_by_the_day_and_expire(store: Store) -> None:
    def day(number: int, n: int = 3) -> InputCounts:
        words, lengths = (n, *[0] * (WORDS - 1)), (n, *[0] * (LENGTHS - 1))
        return InputCounts(
            route="production", day=number, requests=n, words=words, lengths=lengths, classes=(0,) * CLASSES
        )

    for number in (10, 11, 20, 30):
        store.add_inputs("acme", day(number))
    store.add_inputs("acme", day(11, 4))
    store.add_inputs("bolt", day(5))
    assert [(one.day, one.requests, one.words[0]) for one in store.inputs("acme", "production")][1] == (11, 7, 7)
    store.expire_inputs({"acme": 11})
    assert [one.day for one in store.inputs("acme", "production")] == [11, 20, 30]
    assert [one.day for one in store.inputs("bolt", "production")] == [5]


def test_counts_of_inputs_that_would_pass_the_most_leave_a_day_as_it_is(store: Store) -> None:
    none = InputCounts(
        route="production", day=10, requests=0, words=(0,) * WORDS, lengths=(0,) * LENGTHS, classes=(0,) * CLASSES
    )
    first, second = (
        none.model_copy(
            update={"requests": MOST_INPUTS, "lengths": tuple(MOST_INPUTS * (at == bucket) for at in range(LENGTHS))}
        )
        for bucket in range(2)
    )
    store.add_inputs("acme", first)
    store.add_inputs("acme", second)
    assert store.inputs("acme", "production") == [first]


def test_feedback_waits_is_tied_replaced_and_removed(store: Store) -> None:
    mine, other = [said(f"r-{n}") for n in range(3)], said("r-0", tenant="globex")
    assert store.put_feedback([*mine, other]) == [None] * 4
    assert store.feedback_waiting(limit=10) == [*enumerate(mine, start=1), (4, other)]
    assert store.feedback_waiting(after=1, limit=1) == [(2, mine[1])]

    tied = said("r-0", "ledger", bad=True)
    store.tie_feedback([(1, tied)])
    assert store.feedback("acme", limit=10) == [(5, tied)]
    assert [row.request for _, row in store.feedback("acme", tied=False, limit=10)] == ["r-1", "r-2"]

    again = said("r-0", "ledger", value="down", at_ms=9)
    assert store.put_feedback([again]) == [""]
    assert store.feedback("acme", limit=10) == [(6, again)]
    store.drop_feedback([mine[1], said("never")])
    assert store.expire_feedback({"acme": 9, "globex": 0}) == 1
    assert store.feedback_waiting(limit=10) == [(4, other)]
    assert store.feedback("acme", after=5, limit=10) == [(6, again)]


def test_thumbs_and_corrections_are_counted_by_the_day_and_who_gave_them(store: Store) -> None:
    day, kind = 86_400_000, {"kind": "correction", "value": "", "text": "five days"}
    rows = [said(f"r-{n}", "ledger", at_ms=n * day // 2, value="down" if n else "up") for n in range(4)]
    rows += [said("r-9", "ledger", at_ms=day, caller="", **kind), said("r-9", "ledger", at_ms=day, **kind)]
    rows += [said("r-5", at_ms=day), said("r-6", "ledger", kind="outcome", value="paid")]
    store.put_feedback([*rows, said("r-7", "ledger", tenant="globex"), said("r-8", "ledger", route="staging")])
    assert sorted(store.feedback_by_day("acme")) == [
        ("production", 0, "c", "thumb", "down", 1),
        ("production", 0, "c", "thumb", "up", 1),
        ("production", 1, "c", "correction", "", 1),
        ("production", 1, "c", "thumb", "down", 2),
        ("production", 1, "r-9", "correction", "", 1),
        ("staging", 0, "c", "thumb", "up", 1),
    ]
    told = [*rows, said("r-10", "ledger", at_ms=day, bad=True), said("r-11", "ledger", at_ms=day, bad=False)]
    told.append(said("r-12", "ledger", at_ms=day, kind="label", value="refund"))
    store.put_feedback(told)
    for since, corrections in ((0, 2), (day - 1, 2), (day, 0)):
        by_request = defaultdict[str, list[Feedback]](list)
        for row in told:
            if row.tied and row.at_ms > since:
                by_request[row.request].append(row)
        wrong = sum(asks(of, "") for of in by_request.values())
        assert store.called_wrong("acme", "production", after_ms=since) == (corrections, wrong)
    assert store.called_wrong("acme", "x", after_ms=0) == (0, 0)


def test_feedback_that_was_erased_or_said_again_while_it_was_tied_stays_so(store: Store) -> None:
    erased, replaced, now = said("r-1"), said("r-2"), said("r-2", value="down")
    store.put_feedback([erased, replaced])
    store.drop_feedback([erased])
    store.put_feedback([now])
    store.tie_feedback([(1, said("r-1", "ledger")), (2, said("r-2", "ledger"))])
    assert store.feedback("acme", limit=10) == []
    assert store.feedback_waiting(limit=10) == [(3, now)]

    store.drop_feedback([now])
    other = said("r-3")
    store.put_feedback([other])  # under a number that was another's
    store.tie_feedback([(1, said("r-1", "ledger"))])
    assert store.feedback_waiting(limit=10) == [(1, other)]
