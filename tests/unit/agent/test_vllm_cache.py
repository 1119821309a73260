"""What a vLLM's CPU cache gives up at a load, which must never be a listed adapter."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from loradeck_agent.serving.vllm.api import CpuCache

SLOTS = 3


class Vllm:
    """The cache as vLLM 0.32 keeps it: least recently used goes first, listed or not."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held: OrderedDict[str, None] = OrderedDict()

    def use(self, name: str) -> None:
        self.held.pop(name, None)
        while len(self.held) >= self.size:
            self.held.popitem(last=False)
        self.held[name] = None


@given(
    st.integers(SLOTS, 2 * SLOTS),
    st.lists(st.sampled_from("abcdefgh"), max_size=8),
    st.lists(st.tuples(st.sampled_from(("load", "unload", "call")), st.sampled_from("abcdefgh")), max_size=40),
)
def test_whatever_is_loaded_unloaded_and_called_no_listed_adapter_leaves_the_memory(
    size: int, before: list[str], order: list[tuple[str, str]]
) -> None:
    vllm, known, listed, uses = Vllm(size), CpuCache(size), set[str](), 0
    for name in before:
        vllm.use(f"old {name}")
    known.found(())
    for what, name in order:
        if what == "load" and name not in listed and len(listed) < SLOTS:
            first = known.to_use()
            uses += len(first)
            for one in first:
                vllm.use(one)
            known.used(first)
            vllm.use(name)
            known.loaded(name)
            listed.add(name)
        elif what == "unload" and name in listed:
            known.unloaded(name)
            listed.discard(name)
        elif what == "call" and name in listed:
            vllm.use(name)
        assert listed <= vllm.held.keys()
