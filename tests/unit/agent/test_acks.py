"""The board of acknowledgements: what is sent, what is kept, what is said again."""

from __future__ import annotations

from loradeck.schemas.link import Ack
from loradeck.schemas.replica_state import AckState
from loradeck_agent.uplink.desired_table import AckBoard

REPLICAS = frozenset({"gpu-01", "gpu-02"})


def ack(state: str, generation: int = 1, *, replica: str = "gpu-01", code: str | None = None) -> Ack:
    return Ack(
        tenant="acme",
        route="production",
        epoch=1,
        generation=generation,
        release="a" * 64,
        replica=replica,
        state=AckState(state),
        code=code,
        at_ms=0,
    )


class Wire:
    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []

    async def send(self, message: Ack) -> bool:
        self.sent.append((message.state.value, message.generation))
        return True


async def test_everything_is_sent_in_the_order_it_happens() -> None:
    wire = Wire()
    board = AckBoard(wire.send, REPLICAS)
    for state in ("waiting", "flipped", "proven"):
        assert await board.post(ack(state))
    assert wire.sent == [("waiting", 1), ("flipped", 1), ("proven", 1)]


async def test_an_older_generation_is_not_sent_after_a_newer() -> None:
    wire = Wire()
    board = AckBoard(wire.send, REPLICAS)
    await board.post(ack("flipped", 2))
    assert not await board.post(ack("proven", 1))
    assert not await board.post(ack("flipped", 1))
    assert wire.sent == [("flipped", 2)]


async def test_a_hub_that_was_away_hears_flips_then_proofs() -> None:
    wire = Wire()
    board = AckBoard(wire.send, REPLICAS)
    await board.post(ack("flipped"))
    await board.post(ack("proven"))
    wire.sent.clear()
    await board.replay()
    assert wire.sent == [("flipped", 1), ("proven", 1)]


async def test_a_newer_flip_ends_the_older_proof() -> None:
    wire = Wire()
    board = AckBoard(wire.send, REPLICAS)
    await board.post(ack("flipped", 1))
    await board.post(ack("proven", 1))
    await board.post(ack("flipped", 2))
    wire.sent.clear()
    await board.replay()
    assert wire.sent == [("flipped", 2)]


async def test_a_tombstone_under_the_same_fence_ends_the_proof_of_what_was_there_before_it() -> None:
    wire = Wire()
    board = AckBoard(wire.send, REPLICAS)
    await board.post(ack("flipped"))
    await board.post(ack("proven"))
    wire.sent.clear()
    await board.post(ack("flipped").model_copy(update={"release": None}))
    await board.post(ack("flipped"))
    assert wire.sent == [("flipped", 1), ("flipped", 1)], "placed here again, it has to be proven again"


async def test_a_flip_said_again_does_not_take_the_proof_back() -> None:
    wire = Wire()
    board = AckBoard(wire.send, REPLICAS)
    await board.post(ack("flipped"))
    await board.post(ack("proven"))
    await board.post(ack("flipped"))
    assert wire.sent[-2:] == [("flipped", 1), ("proven", 1)]


async def test_waiting_does_not_hide_why_it_failed() -> None:
    wire = Wire()
    board = AckBoard(wire.send, REPLICAS)
    await board.post(ack("failed", code="wrong_base"))
    assert not await board.post(ack("waiting", code="not_ready"))
    assert wire.sent == [("failed", 1)]


async def test_what_was_proven_on_an_engine_that_ended_is_forgotten() -> None:
    wire = Wire()
    board = AckBoard(wire.send, REPLICAS)
    for replica in ("gpu-01", "gpu-02"):
        await board.post(ack("flipped", replica=replica))
        await board.post(ack("proven", replica=replica))
    board.forget("gpu-01")
    wire.sent.clear()
    await board.replay()
    assert wire.sent == [("flipped", 1), ("proven", 1)]
    assert {key[2] for key in board.flips} == {"gpu-02"}


async def test_what_is_about_a_replica_that_the_node_does_not_have_is_neither_sent_nor_kept() -> None:
    wire = Wire()
    board = AckBoard(wire.send, REPLICAS)
    assert not await board.post(ack("flipped", replica="gpu-01.e0"))
    assert not await board.post(ack("proven", replica="gpu-01.e0"))
    await board.replay()
    assert wire.sent == []
