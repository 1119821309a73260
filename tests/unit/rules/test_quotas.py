"""What a tenant may have at the hub."""

from __future__ import annotations

import pytest
from tests.fleets.in_process.log import digest

from loradeck.rules.data.quotas import check, check_slots, check_weights, slots, used
from loradeck.rules.errors import Refused
from loradeck.schemas.manifest import AdapterManifest, BaseManifest, DecisionRecord, FileEntry
from loradeck.schemas.route import Pooled, RouteConfig
from loradeck.schemas.table import RouteResidency
from loradeck.schemas.tenant import Quota, TenantState


def version(*sizes: int, shared: bool = False) -> AdapterManifest:
    files = tuple(
        FileEntry(path=f"f{n}", size=size, sha256=digest("shared" if shared and not n else f"{n} {size}"))
        for n, size in enumerate(sizes)
    )
    return AdapterManifest(
        tenant="acme",
        name="support",
        base=digest("base"),
        files=files,
        rank=2,
        alpha=4,
        target_modules=("q_proj",),
        config_hash=digest(str(sizes)),
        decision=DecisionRecord(why_weights="a test"),
    )


def test_versions_and_bytes_up_to_the_quota_are_fine_and_one_more_is_refused_with_both_figures() -> None:
    kept = [version(10, 1), version(20)]
    check(Quota(adapters=3, bytes=36), kept, version(5))
    check(Quota(), kept, version(10**12))
    with pytest.raises(Refused, match="over_quota") as refused:
        check(Quota(adapters=2), kept, version(5))
    assert refused.value.detail == "2 adapter versions of 2"
    with pytest.raises(Refused, match="over_quota") as refused:
        check(Quota(bytes=35), kept, version(5))
    assert refused.value.detail == "31 bytes of 35, and this one has 5 more"


def test_a_file_that_two_versions_name_is_counted_once() -> None:
    one, other = version(100, 1, shared=True), version(100, 2, shared=True)
    assert used(Quota(), [one, other]).bytes == 103
    check(Quota(bytes=103), [one], other)


def tenant(quota: Quota, **routes: RouteConfig) -> TenantState:
    return TenantState(name="acme", routes=routes, quota=quota)


def placed(config: RouteConfig) -> int:
    return config.pool.replicas if config.pool is not None else 3


def test_always_routes_keep_two_slots_on_each_of_their_nodes_and_routes_on_demand_none() -> None:
    two = RouteConfig(pool=Pooled(pool="eu", replicas=2))
    everywhere, asked = RouteConfig(), RouteConfig(residency=RouteResidency.ON_DEMAND)
    assert slots({"a": two, "b": everywhere, "c": asked}, placed) == 10
    check_slots(tenant(Quota(slots=10), a=two), "b", everywhere, placed)
    check_slots(tenant(Quota(slots=4), a=two), "b", asked, placed)
    with pytest.raises(Refused, match="over_quota") as refused:
        check_slots(tenant(Quota(slots=9), a=two), "b", everywhere, placed)
    assert refused.value.detail == "10 slots of 9: 2 on each node of each `always` route, and 4 until now"
    check_slots(tenant(Quota(slots=1), a=everywhere), "a", two, placed)  # fewer than before, if still too many
    check_slots(tenant(Quota(), a=everywhere), "b", everywhere, placed)


def test_whole_weights_up_to_the_quota_are_fine_and_more_are_refused_with_both_figures() -> None:
    base = BaseManifest(model_id="m", revision="1", files=(FileEntry(path="w", size=40, sha256=digest("w")),))
    check_weights(tenant(Quota(weights=80)), [base], base)
    check_weights(tenant(Quota()), [base] * 9, base)
    with pytest.raises(Refused, match="over_quota") as refused:
        check_weights(tenant(Quota(weights=79)), [base], base)
    assert refused.value.detail == "40 bytes of whole weights of 79, with what jobs are to make; these have 40 more"
