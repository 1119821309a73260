"""What a tenant may have at the hub."""

from __future__ import annotations

import pytest
from tests.unit.rules.simulated_log import digest

from loradeck.rules.data.quotas import check, used
from loradeck.rules.errors import Refused
from loradeck.schemas.manifest import AdapterManifest, DecisionRecord, FileEntry
from loradeck.schemas.tenant import Quota


def version(*sizes: int, shared: bool = False) -> AdapterManifest:
    files = tuple(
        FileEntry(path=f"f{n}", size=size, sha256=digest("shared" if shared and not n else f"{n} {size}"))
        for n, size in enumerate(sizes)
    )
    return AdapterManifest(
        **{"tenant": "acme", "name": "support", "base": digest("base"), "files": files, "rank": 2, "alpha": 4},
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
