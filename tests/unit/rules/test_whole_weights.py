"""What tells whole weights that a job made from the base alone, and where F goes from each."""

from __future__ import annotations

from loradeck.rules.data.lineage import falls_back_to, is_base_alone
from loradeck.schemas.attestation import BaseLineage
from loradeck.schemas.manifest import Form, Release

BASE, FULL, MERGED, ADAPTER = "b" * 64, "f" * 64, "e" * 64, "a" * 64
MADE = {FULL: [BaseLineage(tenant="acme", job="j1", base=BASE, datasets=("d" * 64,))]}


def test_weights_that_a_job_made_are_not_the_base_alone_and_f_goes_to_what_they_were_trained_on() -> None:
    alone = Release(tenant="acme", form=Form.BASE, base=BASE)
    full = Release(tenant="acme", form=Form.BASE, base=FULL)
    merged = Release(tenant="acme", form=Form.MERGED, base=BASE, adapter=ADAPTER, merged=MERGED)
    on_full = Release(tenant="acme", form=Form.ADAPTER, base=FULL, adapter=ADAPTER)
    assert [is_base_alone(one, MADE) for one in (alone, full, merged, on_full)] == [True, False, False, False]
    assert [falls_back_to(one, MADE) for one in (alone, full, merged, on_full)] == [BASE, BASE, BASE, FULL]
