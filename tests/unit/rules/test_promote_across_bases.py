"""A promote to another base: refused where it leaves nodes behind or memory forbids it, unless a releaser overrides."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.rules.test_moves import Acme, check

from loradeck.rules.errors import Refused
from loradeck.schemas.ids import Role

SHORT: dict[str, dict[str, Any]] = {
    "no_memory": {"memory_short": "gpu-01: 120 of 80 GB"},
    "left_behind": {"left_behind": ["gpu-02", "gpu-03"]},
}


@pytest.mark.parametrize("code", SHORT)
def test_it_is_refused_and_says_where(acme: Acme, code: str) -> None:
    with pytest.raises(Refused) as refused:
        check(acme, **SHORT[code])
    assert refused.value.code == code
    assert "gpu-0" in refused.value.detail
    assert "override with a reason" in refused.value.fix


@pytest.mark.parametrize("code", SHORT)
def test_an_override_with_a_reason_passes_it_and_says_so(acme: Acme, code: str) -> None:
    assert check(acme, override=True, reason="the window is open", **SHORT[code]) == (code,)
    with pytest.raises(Refused, match="reason_required"):
        check(acme, override=True, **SHORT[code])


def test_both_are_named_where_both_are_passed(acme: Acme) -> None:
    both = SHORT["no_memory"] | SHORT["left_behind"]
    assert check(acme, override=True, reason="the window is open", **both) == ("no_memory", "left_behind")


def test_of_many_nodes_eight_are_named_and_all_are_in_the_context(acme: Acme) -> None:
    nodes = [f"gpu-{n:02}" for n in range(12)]
    with pytest.raises(Refused) as refused:
        check(acme, left_behind=nodes)
    assert refused.value.detail.endswith("gpu-07 and 4 more")
    assert refused.value.context["nodes"] == nodes


def test_an_operator_cannot_override_it(acme: Acme) -> None:
    from loradeck.rules.moves.draft import Actor

    with pytest.raises(Refused, match="forbidden"):
        check(acme, override=True, reason="why not", actor=Actor(name="op", role=Role.OPERATOR), **SHORT["no_memory"])
