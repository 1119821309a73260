"""Which release a person means who pins one, in the words of somebody who is in a hurry."""

from __future__ import annotations

import re

import pytest
from tests.integration.agent.artifacts import entry, make_adapter

from loradeck_agent.cli.pin import choose
from loradeck_agent.host.errors import AgentError

ONE, OTHER = "b" * 64, "c" * 64
V1, V2, V3 = (make_adapter(base, seed).ref for base, seed in ((ONE, 1), (ONE, 2), (OTHER, 3)))
SERVED = entry(V3, 5, beneath=(V2, V1))


@pytest.mark.parametrize("said", ["v1", V1.id, V1.id[:6], V1.id[:4]])
def test_a_label_an_id_and_its_beginning_name_a_release(said: str) -> None:
    assert choose(SERVED, said) == V1


def test_a_base_alone_is_named_where_there_is_one_and_by_its_id_where_there_are_two() -> None:
    assert choose(entry(V2, 5, beneath=(V1,)), "base").release.base == ONE
    with pytest.raises(AgentError) as refused:
        choose(SERVED, "base")
    assert refused.value.code == "ambiguous_release"
    starts = re.findall(r"base \((\w+)\)", refused.value.detail)
    assert {choose(SERVED, start).release.base for start in starts} == {ONE, OTHER}


@pytest.mark.parametrize("said", ["v9", "", V1.id[:3], "f" * 64])
def test_what_the_route_does_not_have_is_refused_with_what_it_has(said: str) -> None:
    with pytest.raises(AgentError) as refused:
        choose(SERVED, said)
    assert refused.value.code == "unknown_release"
    assert all(f"{ref.label} ({ref.id[:6]})" in refused.value.detail for ref in (V1, V2, V3))
