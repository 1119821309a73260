"""Samples of bad answers on a node: redacted, bounded, for the node's user alone, and gone when they are to be gone."""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.waiting import until
from tests.integration.router.running import Running, entry, release
from tests.integration.router.upstream import Upstream

from loradeck.rules.clocks import HOUR_MS
from loradeck.rules.quality.sampling import Consent
from loradeck.schemas.link import SampleRows
from loradeck.schemas.table import ReleaseRef, ResponseChecks, TableEntry
from loradeck.schemas.trace import SAMPLES, Sample
from loradeck_agent.router import samples

V1, V2, THEIRS = release("v1"), release("v2"), release("v1", tenant="other")


def told(generation: int = 1, hours: int = 24, ref: ReleaseRef = V1) -> TableEntry:
    """A release whose answers may not say "no"."""
    checks = ResponseChecks(refusals=("no",))
    return entry(ref, generation, checks=checks, sample_hours=hours, tenant=ref.release.tenant)


def files(router: Running) -> list[Path]:
    return sorted(router.state.glob("samples/*/*/*/*.json"))


def put(router: Running, *, age_h: float, tenant: str = "acme", n: int = 0) -> Path:
    """A sample that a router has kept so many hours ago."""
    at_ms = time.time_ns() // 1_000_000 - round(age_h * HOUR_MS)
    path = router.state / "samples" / tenant / "production" / V1.id / f"{at_ms:013d}-{n:08x}.json"
    kept = Sample(
        request=f"r{n}", tenant=tenant, route="production", release=V1.id, at_ms=at_ms, fault="empty", question="?",
        answer="",
    )  # fmt: skip
    while True:  # a sweep that is under way removes folders that are empty
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.write_text(kept.model_dump_json())
            return path


async def read(router: Running, more: str = "", tenant: str = "acme") -> SampleRows:
    query = f"tenant={tenant}&route=production&last={SAMPLES}{more}"
    return SampleRows.model_validate(await router.get(f"/control/samples?{query}"))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_bad_answer_is_kept_with_its_question_and_what_is_personal_is_not(
    router: Running, engine: Upstream, stream: bool
) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(told())
    await router.ask(answer="yes")
    given = await router.ask(answer="no, ann.lee@example.org", stream=stream)
    await until(lambda: len(files(router)) == 1)
    (path,) = files(router)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (router.state / "samples").stat().st_mode & 0o777 == 0o700
    (kept,) = (await read(router)).samples
    assert kept.request == given.headers["x-request-id"]
    assert (kept.tenant, kept.release, kept.fault, kept.answer) == ("acme", V1.id, "refusal", "no, [e-mail]")
    assert kept.question.startswith("user: ")
    assert "ann.lee" not in path.read_text()


async def test_nothing_is_kept_without_consent_and_none_of_it_is_given_out(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1, THEIRS]))
    await router.table(told(hours=0), told(ref=THEIRS))
    await router.ask(answer="no")
    await router.ask("other", answer="no", key="other-key")
    await until(lambda: len(files(router)) == 1)
    assert files(router)[0].parts[-4] == "other"
    assert (await read(router)).kept == 0
    assert [one.tenant for one in (await read(router, tenant="other")).samples] == ["other"]


async def test_they_are_gone_as_soon_as_the_consent_is(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    for generation, after in enumerate((told(3, hours=0), entry(None, 5), told(7, hours=1)), 1):
        await router.table(told(2 * generation))
        old = put(router, age_h=2)
        assert (await read(router)).kept == 1
        await router.table(after)
        await until(lambda old=old: not old.exists())
    assert not files(router)


async def test_an_erasure_of_rows_takes_the_samples_of_before_with_it(router: Running, engine: Upstream) -> None:
    await router.engines(("e0", engine.socket, [V1]))
    await router.table(told())
    before, after = put(router, age_h=1), put(router, age_h=0.25, n=1)
    erased_ms = time.time_ns() // 1_000_000 - HOUR_MS // 2
    await router.table(told(hours=48).model_copy(update={"samples_from_ms": erased_ms}))
    await until(lambda: not before.exists())
    assert after.exists()


async def test_a_router_that_starts_removes_what_was_to_be_gone_meanwhile(stopped: Running, engine: Upstream) -> None:
    await stopped.start_here()
    await stopped.table(told(hours=24))
    assert stopped.here is not None
    await stopped.here.stop()
    await stopped.hang_up()
    old, ahead, foreign = put(stopped, age_h=25), put(stopped, age_h=-2), put(stopped, age_h=1, tenant="gone")
    young = put(stopped, age_h=23)
    await stopped.start_here()
    await until(lambda: files(stopped) == [young])
    assert not any(path.exists() for path in (old, ahead, foreign, foreign.parent))


async def test_a_release_has_a_bounded_number_and_the_newest_are_given_out(router: Running) -> None:
    await router.table(told())
    for n in range(SAMPLES + 5):
        put(router, age_h=1 - n / 100, n=n)
    found = await read(router)
    assert (len(found.samples), found.kept) == (SAMPLES, SAMPLES + 5)
    assert [one.request for one in found.samples][-1] == f"r{SAMPLES + 4}"
    assert (await read(router, f"&release={V2.id}")).samples == ()


async def test_a_disk_that_removes_nothing_is_tried_again(router: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing, refused, sweep = True, list[int](), samples.sweep

    def swept(*given: Any) -> None:
        if refusing:
            refused.append(1)
            raise OSError(30, "Read-only file system")
        sweep(*given)

    monkeypatch.setattr(samples, "sweep", swept)
    old = put(router, age_h=25)
    await router.table(told())
    await router.table(told(3, hours=1))
    await until(lambda: len(refused) > 0)
    refusing = False
    await router.table(told(5))
    await router.table(told(7, hours=1))
    await until(lambda: not old.exists())


async def test_a_router_that_has_handed_over_keeps_and_removes_nothing(router: Running) -> None:
    await router.table(told())
    assert router.here is not None
    router.here._samples.hand_over()
    old = put(router, age_h=25)
    router.here._samples.consent_changed()
    await asyncio.sleep(0)
    assert old.exists()


def test_writing_one_more_gives_up_the_oldest(tmp_path: Path) -> None:
    for n in range(SAMPLES + 3):
        kept = Sample(
            request=f"r{n}", tenant="acme", route="production", release=V1.id, at_ms=n, fault="empty", question="",
            answer="",
        )  # fmt: skip
        samples._write(tmp_path / "samples", kept)
    left = sorted(tmp_path.glob("samples/*/*/*/*.json"))
    assert [json.loads(path.read_bytes())["at_ms"] for path in left] == list(range(3, SAMPLES + 3))


def test_a_node_has_a_bounded_number_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_KEPT", 2)
    for n in range(4):
        folder = tmp_path / "acme" / "production" / f"{n:064x}"
        folder.mkdir(parents=True)
        (folder / f"{1000 + n:013d}-{n:08x}.json").write_text("{}")
    samples.sweep(tmp_path, {("acme", "production"): Consent(1)}, 2000)
    assert [path.name[:13].lstrip("0") for path in sorted(tmp_path.glob("*/*/*/*"))] == ["1002", "1003"]
    assert os.listdir(tmp_path / "acme") == ["production"]
