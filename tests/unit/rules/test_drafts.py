"""The events that the rules draft, field by field: a name, a role or a reason that is lost is lost for ever."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError
from tests.fleets.in_process.log import ACME, OPERATOR, RELEASER, digest, entry, ref, rid

from loradeck.rules.errors import Refused
from loradeck.rules.moves import records, recover, tenants, witness
from loradeck.rules.moves.chain import seal
from loradeck.schemas.dataset_ledger import DataPolicy
from loradeck.schemas.ids import Role, digest_of
from loradeck.schemas.log import GENESIS, Draft, Event, EventKind, PointerState
from loradeck.schemas.moves import AnnotateRequest, UnpinRequest
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import Gap, Pin, ResponseChecks, Streams, TableEntry
from loradeck.schemas.tenant import CallerKey, TenantState

KEY = CallerKey(id="k1", sha256=digest("key 1"))
TENANT = TenantState(name="acme", routes={"production": RouteConfig()}, keys=(KEY,))
POINTER = PointerState(tenant="acme", route="production", moved_epoch=1, generation=7, release=rid("v1"))
CANARIES = (({"role": "user", "content": "How is your name written?"},),)


def plain(draft: Draft) -> Draft:
    """The draft, whose payload is of plain JSON types: lists and not tuples, and words and not members."""
    assert json.loads(json.dumps(draft.payload)) == draft.payload
    return draft


# ---- tenants ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["", "contract 7"])
def test_a_tenants_events_carry_who_moved_and_why(reason: str) -> None:
    suspended = TENANT.model_copy(update={"suspended": True})
    policy = DataPolicy(synthetic_cap=0.25)
    more = {"reason": reason} if reason else {}
    drafts = {
        EventKind.TENANT_CREATE: tenants.create({}, "acme", RELEASER, **more),
        EventKind.TENANT_SUSPEND: tenants.suspend(TENANT, RELEASER, **more),
        EventKind.TENANT_RESUME: tenants.resume(suspended, RELEASER, **more),
        EventKind.TENANT_OFFBOARD: tenants.offboard(TENANT, RELEASER, **more),
        EventKind.DATA_POLICY: tenants.set_data_policy(TENANT, policy, RELEASER, **more),
        EventKind.ROUTE: tenants.set_route(TENANT, "production", RouteConfig(), RELEASER, pointer=POINTER, **more),
    }
    for kind, draft in drafts.items():
        assert (draft.kind, draft.tenant, draft.actor, draft.role) == (kind, "acme", RELEASER.name, RELEASER.role)
        assert (draft.reason, draft.pointer, draft.expected_generation) == (reason, None, None)
        plain(draft)
    assert drafts[EventKind.DATA_POLICY].payload == {"policy": policy.model_dump(mode="json")}
    assert drafts[EventKind.TENANT_OFFBOARD].payload == {}


def test_the_data_policy_that_holds_already_and_one_of_an_offboarded_tenant_are_refused() -> None:
    with pytest.raises(Refused) as refused:
        tenants.set_data_policy(TENANT, TENANT.data, RELEASER)
    assert refused.value.code == "no_change"
    gone = TENANT.model_copy(update={"offboarded": True})
    with pytest.raises(Refused) as refused:
        tenants.set_data_policy(gone, DataPolicy(synthetic_cap=0.25), RELEASER)
    assert refused.value.code == "offboarded"


def test_a_data_policy_replaces_the_one_that_was_seen_and_no_other() -> None:
    seen, meanwhile = TENANT.data, DataPolicy(synthetic_cap=0.25)
    changed = TENANT.model_copy(update={"data": meanwhile})
    with pytest.raises(Refused, match="policy_changed"):
        tenants.set_data_policy(changed, DataPolicy(input_days=7), RELEASER, reason="asked", was=digest_of(seen))
    wanted = DataPolicy(input_days=7)
    draft = tenants.set_data_policy(changed, wanted, RELEASER, reason="asked", was=digest_of(meanwhile))
    assert draft.payload["policy"] == wanted.model_dump(mode="json")


def test_samples_are_kept_or_kept_longer_with_a_reason_and_less_long_without_one() -> None:
    day, week = DataPolicy(sample_hours=24), DataPolicy(sample_hours=168)
    kept = TENANT.model_copy(update={"data": day})
    for tenant, wanted in ((TENANT, day), (kept, week)):
        with pytest.raises(Refused, match="reason_required"):
            tenants.set_data_policy(tenant, wanted, RELEASER)
        draft = tenants.set_data_policy(tenant, wanted, RELEASER, reason="they agreed")
        assert draft.payload["loosened"] == ["sample_hours"]
    assert "loosened" not in tenants.set_data_policy(kept, DataPolicy(), RELEASER).payload
    said = tenants.set_data_policy(TENANT, DataPolicy(feedback_days=7), RELEASER, reason="asked")
    assert said.payload["loosened"] == ["feedback_days"]
    both = DataPolicy(sample_hours=1, shadow=True)
    draft = tenants.set_data_policy(TENANT, both, RELEASER, reason="they agreed")
    assert draft.payload["loosened"] == ["shadow", "sample_hours"]
    with pytest.raises(ValidationError):
        DataPolicy(sample_hours=169)


def test_shadows_are_allowed_with_a_reason_and_forbidden_without_one() -> None:
    allowing = DataPolicy(shadow=True)
    with pytest.raises(Refused) as refused:
        tenants.set_data_policy(TENANT, allowing, RELEASER)
    assert refused.value.code == "reason_required"
    assert tenants.set_data_policy(TENANT, allowing, RELEASER, reason="they agreed").payload["loosened"] == ["shadow"]
    agreed = TENANT.model_copy(update={"data": allowing})
    assert "loosened" not in tenants.set_data_policy(agreed, DataPolicy(), RELEASER).payload


def test_a_route_is_drafted_with_all_its_settings_and_a_pointer_if_it_is_new() -> None:
    config = RouteConfig(canaries=CANARIES, gap=Gap.REFUSE)
    draft = plain(tenants.set_route(TENANT, "staging", config, RELEASER, pointer=None, reason="a second route"))
    assert draft.pointer == PointerState(tenant="acme", route="staging")
    assert (draft.route, draft.reason) == ("staging", "a second route")
    assert RouteConfig.model_validate(draft.payload["config"]) == config


def test_a_callers_key_is_drafted_by_its_hash() -> None:
    other = CallerKey(id="k2", sha256=digest("key 2"))
    draft = plain(tenants.add_key(TENANT, other, RELEASER))
    assert CallerKey.model_validate(draft.payload["add"]) == other
    assert tenants.remove_key(TENANT, "k1", RELEASER).payload == {"remove": "k1"}


def test_a_refusal_names_what_is_in_the_way_and_the_way_out() -> None:
    for refuse, title, fix in (
        (lambda: tenants.create({"acme": TENANT}, "acme", RELEASER), "a tenant acme already", "another name"),
        (
            lambda: tenants.offboard(TENANT.model_copy(update={"offboarded": True}), RELEASER),
            "acme is offboarded",
            "a new tenant",
        ),
        (lambda: tenants.resume(TENANT, RELEASER), "acme is not suspended", ""),
        (lambda: tenants.add_key(TENANT, KEY, RELEASER), "acme has a key k1 already", ""),
        (lambda: tenants.remove_key(TENANT, "k9", RELEASER), "acme has no key k9", ""),
    ):
        with pytest.raises(Refused) as refused:
            refuse()
        assert title in refused.value.title
        assert fix in refused.value.fix


# ---- pins and notes --------------------------------------------------------------------------------------------


def test_a_pin_is_recorded_with_its_route_its_node_and_its_author_there() -> None:
    pin = Pin(
        tenant="acme",
        route="production",
        release=ref("v7"),
        over=(2, 4),
        actor="a" * 120,
        reason="r" * 600,
        at_ms=17,
        left=rid("v1"),
    )
    draft = plain(records.pinned(pin, "gpu-01"))
    assert (draft.kind, draft.tenant, draft.route) == (EventKind.PIN, "acme", "production")
    assert (draft.actor, draft.role) == (f"{'a' * 100}@gpu-01", Role.AGENT)
    assert (draft.reason, draft.from_release) == ("r" * 500, rid("v1"))
    assert draft.payload == {"node": "gpu-01", "release": rid("v7"), "over": [2, 4], "at_ms": 17}
    assert (draft.pointer, draft.expected_generation) == (None, None)


@pytest.mark.parametrize(("until", "payload"), [(None, {}), (0, {"until_ms": 0}), (17, {"until_ms": 17})])
def test_the_end_of_a_pin_leaves_the_pointer_as_it_is(until: int | None, payload: dict[str, int]) -> None:
    request = UnpinRequest(node="gpu-01", idempotency_key="k" * 16, reason="the hub is back")
    draft = records.unpin(POINTER, request, OPERATOR, until_ms=until)
    assert (draft.kind, draft.pointer, draft.expected_generation) == (EventKind.UNPIN, POINTER, 7)
    assert (draft.actor, draft.role, draft.reason) == (OPERATOR.name, OPERATOR.role, "the hub is back")
    assert draft.payload == {"node": "gpu-01", **payload}


def _event(route: str | None) -> Event:
    rolled_back = Draft(kind=EventKind.ROLLBACK, tenant="acme", route=route, actor="op1", role=Role.OPERATOR)
    return seal(rolled_back, rev=3, id="e" * 32, txn="t" * 32, epoch=1, at_ms=1, prev_hash=GENESIS)


@pytest.mark.parametrize("route", ["production", None])
def test_a_note_names_its_event_and_stands_on_the_same_route(route: str | None) -> None:
    request = AnnotateRequest(event="e" * 32, incident="INC-7", reason="bad answers", idempotency_key="k" * 16)
    draft = records.annotate(_event(route), request, OPERATOR)
    assert (draft.kind, draft.tenant, draft.route) == (EventKind.ANNOTATE, "acme", route)
    assert (draft.incident, draft.reason, draft.payload) == ("INC-7", "bad answers", {"event": "e" * 32})
    assert (draft.actor, draft.role, draft.pointer) == (OPERATOR.name, OPERATOR.role, None)


@pytest.mark.parametrize(("incident", "reason"), [("INC-7", ""), (None, "bad answers"), (None, "")])
def test_a_note_needs_an_incident_or_a_reason(incident: str | None, reason: str) -> None:
    request = AnnotateRequest(event="e" * 32, incident=incident, reason=reason, idempotency_key="k" * 16)
    if incident or reason:
        records.annotate(_event("production"), request, OPERATOR)
        return
    with pytest.raises(Refused, match="needs an incident, a ticket or a reason") as refused:
        records.annotate(_event("production"), request, OPERATOR)
    assert refused.value.code == "bad_request"


# ---- recovery --------------------------------------------------------------------------------------------------

SETTINGS = {
    "gap": Gap.REFUSE,
    "streams": Streams.CUT,
    "checks": ResponseChecks(min_chars=5),
    "canaries": CANARIES,
    "refuse_after_s": 30.0,
}


def recovered(
    now: dict[tuple[str, str], PointerState],
    *entries: TableEntry,
    known: TenantState | None = None,
    ahead: tuple[TableEntry, ...] = (),
) -> tuple[list[Draft], int]:
    held = {known.name: known} if known else {}
    return recover.drafts(now, entries, tenants=held, actor=RELEASER, reason="restored", ahead=ahead)


def test_a_lost_tenant_comes_back_with_its_keys_its_route_and_every_setting_that_the_table_carries() -> None:
    newest = entry("v2", 41, epoch=2).model_copy(update={"keys": (KEY.sha256,), "suspended": True, **SETTINGS})
    drafts, _ = recovered({}, newest)
    assert [draft.kind for draft in drafts] == [
        EventKind.TENANT_CREATE,
        EventKind.KEY,
        EventKind.ROUTE,
        EventKind.TENANT_SUSPEND,
        EventKind.RECOVER,
    ]
    for draft in drafts:
        assert (draft.tenant, draft.actor, draft.role) == ("acme", RELEASER.name, RELEASER.role)
        assert draft.reason == "restored"
        plain(draft)
    assert [draft.route for draft in drafts] == [None, None, "production", None, "production"]
    assert drafts[1].payload == {"add": CallerKey(id=KEY.sha256[:12], sha256=KEY.sha256).model_dump(mode="json")}
    assert RouteConfig.model_validate(drafts[2].payload["config"]) == RouteConfig().model_copy(update=SETTINGS)
    assert drafts[4].expected_generation is None, "there was no pointer to fence"


@pytest.mark.parametrize("setting", sorted(SETTINGS))
def test_each_setting_of_a_newer_table_replaces_that_of_the_older_log(setting: str) -> None:
    newer = entry("v1", 7).model_copy(update={setting: SETTINGS[setting]})
    drafts, _ = recovered({ACME: POINTER}, newer, known=TENANT.model_copy(update={"keys": ()}), ahead=(newer,))
    (draft,) = drafts
    assert (draft.kind, draft.route) == (EventKind.ROUTE, "production")
    assert RouteConfig.model_validate(draft.payload["config"]) == RouteConfig().model_copy(
        update={setting: SETTINGS[setting]}
    )


def test_an_entry_that_changes_nothing_does_not_hide_the_ones_after_it() -> None:
    same = entry("v1", 7)
    other = entry("v2", 9).model_copy(update={"route": "staging"})
    drafts, _ = recovered({ACME: POINTER}, same, other, known=TENANT)
    assert [(draft.kind, draft.route) for draft in drafts] == [
        (EventKind.ROUTE, "staging"),
        (EventKind.RECOVER, "staging"),
    ]


def test_without_tables_there_is_nothing_to_recover_and_no_epoch_to_exceed() -> None:
    assert recovered({ACME: POINTER}, known=TENANT) == ([], 0)


@pytest.mark.parametrize(("rev", "behind"), [(0, False), (1, True), (2, True)])
def test_a_hub_is_behind_whoever_holds_a_rev_that_its_log_lacks(rev: int, behind: bool) -> None:
    assert witness.lacks(epoch=1, rev=rev, hub_epoch=1, has_hash=False) is behind


def test_tables_of_tenants_that_are_gone_or_unknown_do_not_hide_the_ones_after_them() -> None:
    gone = TenantState(name="aaa", offboarded=True)
    lost = entry("v1", 9).model_copy(update={"tenant": "aaa"})
    newer = entry("v1", 7).model_copy(update={"gap": Gap.REFUSE, "keys": (KEY.sha256,)})
    unknown = newer.model_copy(update={"tenant": "nobody"})
    elsewhere = newer.model_copy(update={"route": "never-set"})
    drafts, _ = recover.drafts(
        {ACME: POINTER},
        [lost, entry("v2", 9)],
        tenants={"aaa": gone, "acme": TENANT},
        actor=RELEASER,
        reason="restored",
        ahead=[unknown, lost, elsewhere, newer],
    )
    assert [(draft.kind, draft.tenant, draft.route) for draft in drafts] == [
        (EventKind.RECOVER, "acme", "production"),
        (EventKind.ROUTE, "acme", "production"),
    ]
    assert (drafts[0].from_release, drafts[0].expected_generation) == (rid("v1"), 7)


def test_of_two_newer_tables_the_first_one_decides_a_routes_settings() -> None:
    first = entry("v1", 7).model_copy(update={"gap": Gap.REFUSE, "keys": (KEY.sha256,)})
    second = first.model_copy(update={"gap": Gap.BASE})
    (draft,), _ = recovered({ACME: POINTER}, first, known=TENANT, ahead=(first, second))
    assert RouteConfig.model_validate(draft.payload["config"]).gap is Gap.REFUSE
