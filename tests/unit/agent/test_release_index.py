"""The entries that name a release are found without a look at all of them, and are those of the newest table."""

from __future__ import annotations

from tests.fleets.in_process.log import ref

from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.table import Pin, ReleaseRef, TableEntry
from loradeck_agent.serving.release_index import ReleaseIndex


def entry(tenant: str, current: str, *beneath: str, signers: tuple[str, ...] = ()) -> TableEntry:
    below = tuple(ref(label, tenant) for label in beneath)
    return TableEntry(
        tenant=tenant,
        route="production",
        epoch=1,
        generation=1,
        current=ref(current, tenant),
        beneath=below,
        signers=signers,
    )


def test_a_release_is_found_wherever_an_entry_names_it_and_no_more_once_the_table_is_another() -> None:
    acme, bolt = entry("acme", "v2", "v1"), entry("bolt", "v1")
    index = ReleaseIndex().of((acme, bolt))
    assert [*index.naming(ref("v1", "acme").id)] == [*index.naming(ref("v2", "acme").id)] == [acme]
    assert [*index.naming(ref("v1", "bolt").id)] == [bolt]
    moved = entry("acme", "v3", "v2")
    assert [*index.of((moved, bolt)).naming(ref("v2", "acme").id)] == [moved]
    assert [*index.naming(ref("v1", "acme").id)] == []


def test_signers_are_those_of_every_pointer_that_names_a_release_by_its_entry_or_a_pin() -> None:
    acme, core = entry("acme", "v2", signers=("k1 ",)), entry("core", "v9", signers=("k2", "k3"))
    index, release = ReleaseIndex().of((acme, core, entry("bolt", "v1"))), ref("v2", "acme")
    pin = Pin(tenant="core", route="production", release=release, over=(1, 1), reason="r", actor="a", at_ms=0)
    assert set(index.signers((), release.id)) == {frozenset({"k1"})}
    assert set(index.signers((pin,), release.id)) == {frozenset({"k1"}), frozenset({"k2", "k3"})}
    assert index.signers((), ref("v1", "bolt").id) == ()


def test_merged_weights_that_entries_and_pins_name_are_found_by_their_digest() -> None:
    merged = Release(tenant="acme", form=Form.MERGED, base="b" * 64, adapter="a" * 64, merged="d" * 64, label="v4")
    whole = ReleaseRef(id=merged.id, release=merged, label="v4")
    acme = entry("acme", "v2").model_copy(update={"beneath": (whole,)})
    index = ReleaseIndex().of((acme,))
    pin = Pin(tenant="core", route="production", release=whole, over=(1, 1), reason="r", actor="a", at_ms=0)
    assert index.merged_on((pin,), "d" * 64) == (whole,)
    assert index.merged_on((), "e" * 64) == ()
