"""The demo's course: lay the ground, break a tenant, put it back, and claim only what was measured."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from incident import groundwork
from incident.fleet import BIN, Fleet
from incident.groundwork import Ground
from incident.incident import ROUTE, Cast, Incident, Seen
from incident.keyboard import Keyboard
from incident.progress import Progress
from incident.report import Report
from incident.stage import bring_to_v2, promote, until
from incident.traffic import Callers, Prompt
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.schemas.state import TenantRow

TENANT = "acme"
OVERRIDE = "customer is waiting, the gate looks flaky"

PAUSE_S = 0.6
"""Between two requests of one tenant's caller on one router."""

ENOUGH = 12
"""Checked answers without which a share of bad ones says nothing here."""


async def run(fleet: Fleet, options: argparse.Namespace, progress: Progress, began: float) -> int:
    """The whole demo on a fleet that is not started yet; the exit status. The caller stops the fleet.

    Raises:
        NotReady, CommandFailed, ClientError: something did not come up or was refused.
    """
    interactive = sys.stdout.isatty() and sys.stdin.isatty() and not options.play and not options.sabotage
    with progress.step("starting a hub and two nodes"):
        await asyncio.to_thread(fleet.start)
        await asyncio.to_thread(fleet.wait_until_up)
    async with HubApi.to(Context(name="demo", socket=fleet.socket)) as api:
        ground = await groundwork.lay(fleet, api, progress)
        async with Callers({node.name: node.url for node in fleet.nodes}, ground.keys) as callers:

            def start_callers() -> None:
                callers.start(ground.prompts, every_s=PAUSE_S)

            await bring_to_v2(api, TENANT, ground.releases, start_callers, progress)
            if interactive:
                return await _console(fleet, api, ground, progress, began)
            report = await _play(fleet, api, ground, callers, progress, options.sabotage)
    report.notes.append(f"Took {time.monotonic() - began:.0f} s after installation.")
    progress.say(report.text())
    if options.report:
        report.write(options.report)
    return 0 if report.held else 1


async def _console(fleet: Fleet, api: HubApi, ground: Ground, progress: Progress, began: float) -> int:
    """v3 goes live past its gate, and the person at the keyboard finds it so."""
    with progress.step(f"promoting {TENANT} v3 past its failed gate"):
        await promote(api, TENANT, ground.releases[TENANT]["v3"], override=OVERRIDE)
    progress.say(f"  in the console after {time.monotonic() - began:.0f} s; q leaves it and stops the fleet")
    console = await asyncio.create_subprocess_exec(str(BIN / "loradeck"), "--hub", f"unix:{fleet.socket}")
    return await console.wait()


# ---- without a terminal -----------------------------------------------------------------------------------


async def _play(
    fleet: Fleet, api: HubApi, ground: Ground, callers: Callers, progress: Progress, sabotage: str | None
) -> Report:
    own = ground.releases[TENANT]
    report = Report(
        labels={release: label for versions in ground.releases.values() for label, release in versions.items()},
        replicas=len(fleet.nodes),
    )
    cast = Cast(tenant=TENANT, releases=own, prompts=ground.prompts[TENANT])
    incident = Incident(
        fleet, api, callers, cast, report, progress, proven_within_s=20.0 if sabotage is not None else 60.0
    )
    _claim_gates(report, ground)
    before = await until(api, TENANT, progress, "v2's answers are checked", _too_few)
    await incident.promote("v3", override=OVERRIDE)
    broken = await until(api, TENANT, progress, "v3's answers are checked", _too_few)
    if sabotage is not None:
        await _spoil(fleet, sabotage, progress)
    sample = cast.telling(own["v3"], own["v2"])[0]
    node = fleet.nodes[0].name
    bad_answer = await callers.ask(node, TENANT, sample)
    if sabotage is None:
        await _press_r(fleet, incident, report)
    else:
        await incident.rollback()
    good_answer = await callers.ask(node, TENANT, sample)
    after = await until(api, TENANT, progress, "v2's answers are checked again", _too_few)
    _claim_answers(report, before, broken, after, sample, bad_answer.text, good_answer.text, own["v2"])
    await incident.undo()
    await incident.rollback()
    moves = 4
    if sabotage is None:
        for _ in range(4):
            await incident.rollback()
            await incident.undo()
            await incident.rollback()
            await incident.promote("v2")
            moves += 4
    await callers.stop()
    await incident.judge()
    report.judge_moves(moves)
    failed = [answer for answer in callers.answers if not answer.ok]
    report.claim(
        "no request of any tenant failed, from the first promote to the end",
        not failed,
        f"{len(failed)} of {len(callers.answers)} failed"
        + (f": {failed[0].status} {failed[0].text}" if failed else ""),
    )
    audit = await api.verify_audit()
    report.claim("the log's chain of hashes verifies", audit.ok, f"{audit.rev} events, last {audit.hash[:12]}")
    return report


def _too_few(row: TenantRow) -> str | None:
    checked = row.cause.live.checked
    return None if checked >= ENOUGH else f"{checked}/{ENOUGH} checked"


async def _spoil(fleet: Fleet, control: str, progress: Progress) -> None:
    """Replace one node's agent by one that lies."""
    liar = fleet.nodes[1]
    with progress.step(f"sabotage: {liar.name} becomes a {control}"):
        await asyncio.to_thread(fleet.stop_node, liar)
        liar.program = (sys.executable, str(Path(__file__).with_name("sabotage.py")), control)
        fleet.start_agent(liar)
        await asyncio.to_thread(fleet.wait_until_up)


async def _press_r(fleet: Fleet, incident: Incident, report: Report) -> None:
    """R in the real console, on a pseudo-terminal read through a terminal emulator."""
    command = (str(BIN / "loradeck"), "--hub", f"unix:{fleet.socket}")
    with Keyboard(command) as keyboard:
        await asyncio.to_thread(
            keyboard.wait,
            f"R ARMED on {TENANT}",
            lambda text: "R ARMED" in text and f"{TENANT}/{ROUTE}" in text,
            30,
        )

        async def press() -> Seen:
            return await asyncio.to_thread(_press, keyboard, report)

        await incident.rollback_by(press)


def _press(keyboard: Keyboard, report: Report) -> Seen:
    key = keyboard.press("R")
    committed = keyboard.wait("COMMITTED", lambda text: "COMMITTED" in text or "FLIPPED" in text, 15)
    flipped = keyboard.wait("FLIPPED 2/2", lambda text: "FLIPPED 2/2" in text, 15)
    proven = keyboard.wait("PROVEN 2/2", lambda text: "PROVEN 2/2" in text, 60)
    report.notes.append(
        "R in the real console, key byte to what the terminal shows: "
        f"COMMITTED {(committed - key) / 1e6:.0f} ms, FLIPPED 2/2 {(flipped - key) / 1e6:.0f} ms, "
        f"PROVEN 2/2 {(proven - key) / 1e6:.0f} ms."
    )
    return Seen(commit_ms=(committed - key) / 1e6, flipped_ns=flipped)


def _claim_gates(report: Report, ground: Ground) -> None:
    scores = {label: ground.reports[release] for label, release in ground.releases[TENANT].items()}
    told = ", ".join(f"{label} exact {r.exact}/{r.n} valid {r.valid}/{r.n}" for label, r in scores.items())
    report.claim(
        "on held-out tickets v2 is better than v1, and v3 is not fit to serve",
        scores["v2"].exact > scores["v1"].exact and scores["v3"].valid < scores["v3"].n / 2,
        told,
    )


def _claim_answers(
    report: Report,
    before: TenantRow,
    broken: TenantRow,
    after: TenantRow,
    sample: Prompt,
    bad_answer: str,
    good_answer: str,
    good: str,
) -> None:
    def share(row: TenantRow) -> float:
        return row.cause.live.bad / max(1, row.cause.live.checked)

    report.claim(
        "the routers' own checks saw bad answers rise under v3 and fall after R",
        share(broken) > share(before) + 0.3 and (after.bad_now or 0.0) < 0.1,
        f"bad {share(before):.0%} of {before.cause.live.checked} under v2, {share(broken):.0%} of "
        f"{broken.cause.live.checked} under v3, {(after.bad_now or 0.0):.0%} of {after.bad_n} in v2's last minute",
    )
    report.claim(
        "one prompt, before and after R, by the answer itself",
        bad_answer != good_answer and sample.who(good_answer) == good,
        f"{sample.id}: {bad_answer!r} > {good_answer!r}",
    )
