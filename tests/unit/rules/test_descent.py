"""Descent of rows over bases, adapters, merged weights and what they wrote; and whose a base is."""

from __future__ import annotations

import hashlib

import pytest

from loradeck.rules.data.lineage import check_claim, check_use, descent, owners
from loradeck.rules.data.policy import barred_rows
from loradeck.rules.errors import Refused
from loradeck.schemas.attestation import BaseLineage
from loradeck.schemas.dataset_ledger import DataPolicy
from loradeck.schemas.ids import digest_of
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion, DecisionRecord, FileEntry, Form, Release


def d(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def adapter(name: str, *datasets: str, base: str = "public", tenant: str = "acme") -> AdapterVersion:
    manifest = AdapterManifest(
        tenant=tenant,
        name=name,
        base=d(base),
        files=(FileEntry(path="w", size=1, sha256=d(name)),),
        rank=1,
        alpha=1,
        target_modules=("q",),
        config_hash=d("recipe"),
        datasets=tuple(d(one) for one in datasets),
        decision=DecisionRecord(why_weights="a test"),
    )
    release = Release(tenant=tenant, form=Form.ADAPTER, base=d(base), adapter=manifest.digest)
    return AdapterVersion(
        manifest=manifest, digest=manifest.digest, version=1, release=release.id, created_ms=0, created_by="x"
    )


def served(version: AdapterVersion, merged: str | None = None) -> Release:
    form = Form.MERGED if merged else Form.ADAPTER
    base, tenant = version.manifest.base, version.manifest.tenant
    return Release(tenant=tenant, form=form, base=base, adapter=version.digest, merged=d(merged) if merged else None)


def lineage(base: str = "public", *, tenant: str = "acme", **made: object) -> BaseLineage:
    return BaseLineage.model_validate({"tenant": tenant, "job": "j1", "base": d(base), **made})


def test_rows_are_followed_from_a_trained_base_to_its_adapters_their_merged_weights_and_bases_made_from_these() -> None:
    on_trained, clean = adapter("on-trained", base="trained"), adapter("clean", "other")
    on_merged = adapter("on-merged", base="merged")
    alone = Release(tenant="acme", form=Form.BASE, base=d("trained"))
    releases = [alone, served(on_trained, "merged"), served(on_trained), served(on_merged), served(clean)]
    found = descent(
        {d("rows")},
        adapters=(on_merged, on_trained, clean),
        releases={release.id: release for release in releases},
        ledger={},
        made={
            d("last"): [lineage("merged", datasets=(d("other"),))],
            d("trained"): [lineage(datasets=(d("rows"), d("other")))],
            d("unrelated"): [lineage(datasets=(d("other"),))],
        },
        judged={d("other"): d("third")},
    )
    assert found.bases == {d("trained"), d("merged"), d("last")}
    assert found.adapters == {on_trained.digest, on_merged.digest}
    assert found.releases == {release.id for release in releases[:4]}


def test_a_base_that_a_merge_made_descends_though_no_release_names_it() -> None:
    one = adapter("one", "rows")
    made = {d("merged"): [lineage(adapter=one.digest)]}
    assert descent({d("rows")}, adapters=(one,), releases={}, ledger={}, made=made, judged={}).bases == {d("merged")}


def test_what_was_made_of_judgements_descends_from_them() -> None:
    one, other = adapter("one", "pairs"), adapter("other", "rest")
    judged = {d("pairs"): d("rows"), d("rest"): d("third")}
    found = descent({d("rows")}, adapters=(one, other), releases={}, ledger={}, made={}, judged=judged)
    assert (found.datasets, found.adapters) == ({d("rows"), d("pairs")}, {one.digest})


def test_a_base_is_of_the_tenants_whose_jobs_made_it_or_else_of_those_whose_merged_weights_it_is() -> None:
    one = served(adapter("one"), "merged")
    made = {d("trained"): [lineage(), lineage(tenant="bolt")]}
    assert owners(d("trained"), made=made, releases=[one]) == {"acme", "bolt"}
    assert owners(d("merged"), made=made, releases=[one]) == {"acme"}
    assert owners(d("public"), made=made, releases=[one]) == frozenset()


def test_a_base_is_used_by_its_owners_and_one_without_owners_by_everybody() -> None:
    check_use("bolt", d("public"), owned_by=frozenset(), name="B1")
    check_use("acme", d("trained"), owned_by=frozenset({"acme"}), name="B2")
    with pytest.raises(Refused, match="B2 was made from another tenant's data") as refused:
        check_use("bolt", d("trained"), owned_by=frozenset({"acme"}), name="B2")
    assert refused.value.code == "wrong_tenant"


def test_a_base_that_others_use_or_own_does_not_become_a_tenants_own() -> None:
    public = served(adapter("one", tenant="bolt"))
    for owned_by, releases in ((frozenset[str](), [public]), (frozenset({"bolt"}), [])):
        with pytest.raises(Refused) as refused:
            check_claim("acme", d("public"), owned_by=owned_by, releases=releases, name="B1")
        assert refused.value.code == "wrong_tenant"
    check_claim("bolt", d("public"), owned_by=frozenset(), releases=[public], name="B1")
    check_claim("acme", d("new"), owned_by=frozenset(), releases=[public], name="B2")


def test_a_tenant_is_barred_from_what_it_erased_and_from_what_others_did_unless_its_policy_lifts_that() -> None:
    erased_of = {"acme": {d("one")}, "bolt": {d("two")}}
    assert barred_rows("acme", DataPolicy(), erased_of) == {d("one"), d("two")}
    assert barred_rows("acme", DataPolicy(lift_erasures="they agreed"), erased_of) == {d("one")}
    assert barred_rows("kelp", DataPolicy(lift_erasures="they agreed"), erased_of) == frozenset()


def test_a_policy_that_lifts_nothing_keeps_its_digest() -> None:
    golden = "2e728e58b7ff15b374c5e0517de55197c3fa369c2ff8912cca19084d29fce805"
    assert digest_of(DataPolicy()) == golden
    assert "shadow" not in DataPolicy().model_dump()
    lifting = DataPolicy(lift_erasures="they agreed")
    assert digest_of(lifting) != golden
    assert DataPolicy.model_validate(lifting.model_dump(mode="json")) == lifting
