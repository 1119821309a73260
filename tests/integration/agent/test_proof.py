"""What proof must catch: a wrong file, the bare base, an engine that changes under a running route."""

from __future__ import annotations

from tests.fleets.waiting import until
from tests.integration.agent.artifacts import CANARIES, Adapter, entry
from tests.integration.agent.fake_engine import BUILD
from tests.integration.agent.fake_hub import FakeHub
from tests.integration.agent.node import CALLER_HASH, Node

from loradeck.schemas.attestation import Attestation, AttestationKind, CanaryItem, CanaryRecord
from loradeck.schemas.link import Ack
from loradeck_agent.serving.engine_api import prompt_digest

KEYS = (CALLER_HASH,)


def known_record(adapter: Adapter) -> Attestation:
    """What another node recorded of a release that was loaded rightly there."""
    items = tuple(
        CanaryItem(
            prompt=prompt_digest(messages),
            tokens=tuple(adapter.tokens(messages[-1]["content"])),
            margins=(2.9,) * 8,
        )
        for messages in CANARIES
    )
    record = CanaryRecord(release=adapter.release.id, build=BUILD, items=items)
    return Attestation(
        seq=1,
        kind=AttestationKind.CANARY,
        subject=adapter.release.id,
        tenant="acme",
        body=record.model_dump(mode="json"),
        by="gpu-02",
    )


async def test_an_agent_that_loads_the_wrong_file_fails_and_the_left_release_goes_on(
    stopped: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    hub.attestations.append(known_record(v2))
    stopped.start(LD_TEST_SABOTAGE="wrong_file")
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.report(lambda report: report.replicas[0].state.value == "up")
    await hub.desire(first)
    await hub.ack(first, "proven")
    second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(second)
    failed = await hub.ack(second, "failed")
    assert failed.code == "canary_mismatch"
    assert await stopped.tokens("hello") == v1.tokens("hello")


async def test_a_wrong_file_that_nobody_has_a_record_of_is_no_more_than_listed_and_leaves_no_record(
    stopped: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    stopped.start(LD_TEST_SABOTAGE="wrong_file")
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.report(lambda report: report.replicas[0].state.value == "up")
    await hub.desire(first)
    await hub.ack(first, "proven")
    second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS)
    await hub.desire(second)
    listed = await hub.ack(second, "listed")
    assert listed.detail.startswith(f"{v1.ref.label} answers the canaries alike; loradeck ")
    assert v2.release.id not in {attestation.subject for attestation in hub.attestations}


async def test_an_engine_that_serves_the_bare_base_fails_against_the_record(
    stopped: Node, hub: FakeHub, v1: Adapter
) -> None:
    hub.attestations.append(known_record(v1))
    stopped.state.engine("e0").mkdir(parents=True)
    (stopped.state.engine("e0") / "bare_base").touch()
    stopped.start()
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.report(lambda report: report.replicas[0].state.value == "up")
    await hub.desire(first)
    assert (await hub.ack(first, "failed")).code == "canary_mismatch"
    state = await stopped.router_state()
    assert state.ready == {"gpu-01": ()}, "the router must not be told that it may be asked for"


async def test_an_engine_that_serves_the_bare_base_unrecorded_is_no_more_than_listed(
    stopped: Node, hub: FakeHub, v1: Adapter
) -> None:
    stopped.state.engine("e0").mkdir(parents=True)
    (stopped.state.engine("e0") / "bare_base").touch()
    stopped.start()
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.report(lambda report: report.replicas[0].state.value == "up")
    await hub.desire(first)
    listed = await hub.ack(first, "listed")
    assert listed.code == "no_record"
    assert listed.detail.startswith("the base alone answers the canaries alike; loradeck ")
    assert v1.release.id not in {attestation.subject for attestation in hub.attestations}


async def test_canaries_that_a_route_is_given_later_prove_what_it_serves_already(
    node: Node, hub: FakeHub, v1: Adapter
) -> None:
    bare = entry(v1.ref, 1, keys=KEYS, canaries=())
    await hub.desire(bare)
    assert (await hub.ack(bare, "listed")).code == "no_canaries"
    given = entry(v1.ref, 1, keys=KEYS)
    await hub.desire(given)
    await hub.ack(given, "proven")
    (kept,) = (a for a in hub.attestations if a.subject == v1.release.id)
    assert {item["prompt"] for item in kept.body["items"]} == {prompt_digest(messages) for messages in CANARIES}


async def test_proof_is_repeated_and_turns_when_the_engine_does(stopped: Node, hub: FakeHub, v1: Adapter) -> None:
    stopped.start(LD_TEST_REPEAT_S="0.2")
    first = entry(v1.ref, 1, keys=KEYS)
    await hub.report(lambda report: report.replicas[0].state.value == "up")
    await hub.desire(first)
    await hub.ack(first, "proven")
    (stopped.state.engine("e0") / "bare_base").touch()
    failed = await hub.ack(first, "failed")
    assert failed.code == "canary_mismatch"
    (stopped.state.engine("e0") / "bare_base").unlink()
    await hub.ack(first, "proven", after=hub.heard.index(failed))


async def test_a_newer_generation_ends_the_proof_of_the_older(
    node: Node, hub: FakeHub, v1: Adapter, v2: Adapter
) -> None:
    both = entry(v1.ref, 1, beneath=(v2.ref,), keys=KEYS)
    await hub.desire(both)
    await hub.ack(both, "proven")
    await until(lambda: node.router_has(v2.release.id), "the router knows that v2 is ready")
    slow = (({"role": "user", "content": "slow 2.0"},),)
    second = entry(v2.ref, 2, beneath=(v1.ref,), keys=KEYS, canaries=slow)
    third = entry(v1.ref, 3, beneath=(v2.ref,), keys=KEYS)
    await hub.desire(second)
    await until(lambda: any("slow" in call for call in node.engine_calls()), "the proof of generation 2 is under way")
    await hub.desire(third)
    await hub.ack(third, "proven")
    assert [a.state.value for a in hub.of(Ack) if a.generation == 2] == ["flipped"]
