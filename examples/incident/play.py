"""The demo's course: lay the ground, break a tenant, put it back, and claim only what was measured."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from incident import groundwork, guarded, pool
from incident.fleet import BIN, Fleet
from incident.groundwork import ANSWER_TOKENS, POOL, POOLED, TENANT, VERSIONS, Ground, Work
from incident.incident import ROUTE, Cast, Incident, Seen
from incident.keyboard import Keyboard
from incident.progress import Board, Progress
from incident.report import Report
from incident.stage import Stage, at_most_until, promote, some
from incident.traffic import Callers, Prompt
from loradeck.client.api import HubApi
from loradeck.client.config import Context
from loradeck.schemas.state import TenantRow

PAUSE_S = 8.0
"""Between two requests of one tenant's caller on one router."""

OVERRIDE = "customer is waiting, the gate looks flaky"

ENOUGH = 12
"""Checked answers without which a share of bad ones says nothing here."""


async def run(fleet: Fleet, options: argparse.Namespace, progress: Progress, began: float) -> int:
    """Plays the whole demo on a fleet that is not started yet; returns the exit status. The caller stops the fleet.

    Raises:
        NotReady, CommandFailed, ClientError, ExceptionGroup: something did not come up or was refused.
    """
    interactive = sys.stdout.isatty() and sys.stdin.isatty() and not options.play and not options.sabotage
    await _start(fleet, progress)
    routers, front = {node.name: node.url for node in fleet.nodes}, fleet.front
    assert front is not None
    async with (
        HubApi.to(Context(name="demo", socket=fleet.socket)) as api,
        Callers(
            routers,
            groundwork.keys(fleet),
            gateways={front.name: front.url},
            max_tokens=ANSWER_TOKENS,
            ca=fleet.authority,
        ) as callers,
    ):
        board = Board()
        work = Work(fleet, api, board)
        with progress.step(
            "training 5 adapters, scoring acme's 3; v1 and v2 go live as soon as they are scored"
        ) as step:
            await _at_once(step, board, work.run(), Stage(api, work, callers, board).run())
        ground = await work.ground()
        # Requests flow from here on, whatever is promoted. Before, trainings need the processor. TENANT's callers ask
        # both routers; those of the pool ask the gateway, which knows on which node their tenant is.
        asked = {tenant: some(prompts) for tenant, prompts in ground.prompts.items()}
        await asyncio.to_thread(fleet.wait_until_asked_for, POOLED)
        callers.start({TENANT: asked[TENANT]}, every_s=PAUSE_S)
        callers.start({tenant: asked[tenant] for tenant in POOLED}, every_s=PAUSE_S, through=[front.name])
        if interactive:
            return await _console(fleet, api, ground, progress, began)
        report = await _play(fleet, api, ground, callers, progress, options.sabotage)
    report.notes.append(f"Took {time.monotonic() - began:.0f} s after installation.")
    progress.say(report.text())
    if options.report:
        report.write(options.report)
    return report.exit_status


async def _start(fleet: Fleet, progress: Progress) -> None:
    """The hub first; then tenants are registered while the base is converted and the nodes load it."""
    board = Board()
    with progress.step("starting hub, nodes and gateway; registering base, pool, tenants, data and routes") as step:
        await asyncio.to_thread(fleet.start_hub)
        async with HubApi.to(Context(name="demo", socket=fleet.socket)) as api:
            tenants = {state.name for state in await api.tenants()}
            pools = {row.pool for row in await api.pools()}
            for node in await api.nodes():
                if node.drained:  # an earlier run was interrupted
                    await api.order_node(node.node, "uncordon")
        made = asyncio.ensure_future(asyncio.to_thread(groundwork.make_pool, fleet, new=POOL not in pools))
        parts = [_based(fleet, board, new=not tenants)]
        parts += [_registered(fleet, board, tenant, new=tenant not in tenants, pool=made) for tenant in VERSIONS]
        await _at_once(step, board, *parts)


async def _based(fleet: Fleet, board: Board, *, new: bool) -> None:
    """The base model in the cache and registered, and the nodes that serve it."""
    board.show("base model", "(converted once, 269 MB in the cache)")
    await asyncio.to_thread(fleet.provide_base)
    board.drop("base model")
    board.show("nodes")
    await asyncio.to_thread(fleet.start_agents)
    if new:
        await asyncio.to_thread(fleet.cli, "base", "add", str(fleet.base))
    await asyncio.to_thread(fleet.wait_until_up)
    board.drop("nodes")


async def _registered(fleet: Fleet, board: Board, tenant: str, *, new: bool, pool: asyncio.Future[None]) -> None:
    board.show(tenant)
    if tenant in POOLED:
        await pool
    await asyncio.to_thread(groundwork.register, fleet, tenant, new=new)
    board.drop(tenant)


async def _at_once(step: Progress, board: Board, *parts: Coroutine[None, None, None]) -> None:
    """Runs the parts of a step at the same time and shows the board meanwhile."""
    async with asyncio.TaskGroup() as tasks:
        running = {tasks.create_task(part) for part in parts}
        while running:
            step.update(board.text)
            _, running = await asyncio.wait(running, timeout=0.5)


async def _console(fleet: Fleet, api: HubApi, ground: Ground, progress: Progress, began: float) -> int:
    """v3 goes live past its gate, and the person at the keyboard finds it so."""
    with progress.step(f"promoting {TENANT} v3 past its failed gate"):
        await promote(api, TENANT, ground.releases[TENANT]["v3"], override=OVERRIDE)
    where = [f"{tenant} on {' and '.join(await pool.assigned(api, tenant))}" for tenant in POOLED]
    progress.say(f"  pool {POOL}: {', '.join(where)}; in the console 8 shows what is held there")
    progress.say(f"  in the console after {time.monotonic() - began:.0f} s; q leaves it and stops the fleet")
    console = await asyncio.create_subprocess_exec(str(BIN / "loradeck"), "--hub", f"unix:{fleet.socket}")
    try:
        return await console.wait()
    finally:
        if console.returncode is None:  # interrupted: it leaves the terminal as it found it
            console.terminate()
            await console.wait()


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
    report.judge_scores(*(ground.reports[own[version]] for version in VERSIONS[TENANT]))
    before = await at_most_until(api, TENANT, progress, "v2's answers are checked", _too_few)
    await incident.promote("v3", override=OVERRIDE)
    broken = await at_most_until(api, TENANT, progress, "v3's answers are checked", _too_few)
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
    after = await at_most_until(api, TENANT, progress, "v2's answers are checked again", _too_few)
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
    if sabotage is None:
        nodes = [node.name for node in fleet.nodes]
        await guarded.play(api, callers, cast, nodes, report, progress, reason=OVERRIDE)
        await pool.play(fleet, api, callers, ground.prompts, report, progress)
    await callers.stop()
    report.judge_moves(moves)
    report.judge_levels(await api.capacity(), groundwork.ON_DEMAND)
    failed = [f"{answer.node} {answer.status} {answer.text}" for answer in callers.answers if not answer.ok]
    report.claim(
        "no request of any tenant failed, from the first promote to the end",
        f"{len(failed)} of {len(callers.answers)} failed",
        against=failed,
        missing=[] if callers.answers else ["no request was sent"],
    )
    audit = await api.verify_audit()
    report.claim(
        "the log's chain of hashes verifies",
        f"{audit.rev} events, last {audit.hash[:12]}",
        against=[] if audit.ok else [f"it does not, as of event {audit.rev}"],
    )
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
    with Keyboard(command, state=fleet.root / "console") as keyboard:
        await asyncio.to_thread(
            keyboard.wait,
            f"R ARMED on {TENANT}",
            lambda text: "R ARMED" in text and f"{TENANT}/{ROUTE}" in text,
            30,
        )
        watching: list[asyncio.Future[None]] = []

        async def press() -> Seen:
            shown = await asyncio.to_thread(_press, keyboard)
            # The screen is read on while requests are sent around the move.
            watching.append(asyncio.ensure_future(asyncio.to_thread(_note, keyboard, shown, report)))
            return Seen(commit_ms=shown.ms(shown.committed_ns), flipped_ns=shown.flipped_ns)

        await incident.rollback_by(press)
        await asyncio.gather(*watching)


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """CLOCK_MONOTONIC nanoseconds of the key byte, and of what the terminal showed."""

    key_ns: int
    committed_ns: int
    flipped_ns: int

    def ms(self, at_ns: int) -> float:
        """Milliseconds from the key byte."""
        return (at_ns - self.key_ns) / 1e6


def _press(keyboard: Keyboard) -> _Shown:
    """Presses R and reads the screen until FLIPPED."""
    key = keyboard.press("R")
    committed = keyboard.wait("COMMITTED", lambda text: "COMMITTED" in text or "FLIPPED" in text, 15)
    flipped = keyboard.wait("FLIPPED 2/2", lambda text: "FLIPPED 2/2" in text, 15)
    return _Shown(key_ns=key, committed_ns=committed, flipped_ns=flipped)


def _note(keyboard: Keyboard, shown: _Shown, report: Report) -> None:
    """Reads the screen on until PROVEN and notes the times."""
    proven = keyboard.wait("PROVEN 2/2", lambda text: "PROVEN 2/2" in text, 60)
    report.notes.append(
        "R in the real console, key byte to what the terminal shows: "
        f"COMMITTED {shown.ms(shown.committed_ns):.0f} ms, FLIPPED 2/2 {shown.ms(shown.flipped_ns):.0f} ms, "
        f"PROVEN 2/2 {shown.ms(proven):.0f} ms."
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

    rose = share(broken) > share(before) + 0.3
    fell = (after.bad_now or 0.0) < 0.1
    report.claim(
        "the routers' own checks saw bad answers rise under v3 and fall after R",
        f"bad {share(before):.0%} of {before.cause.live.checked} under v2, {share(broken):.0%} of "
        f"{broken.cause.live.checked} under v3, {(after.bad_now or 0.0):.0%} of {after.bad_n} in v2's last minute",
        **_shown_or_missing(
            {"they did not rise": rose, "they did not fall": fell},
            [lacks for row in (before, broken, after) if (lacks := _too_few(row)) is not None],
        ),
    )
    report.claim(
        "one prompt, before and after R, by the answer itself",
        f"{sample.id}: {bad_answer!r} > {good_answer!r}",
        against=[] if bad_answer != good_answer and sample.who(good_answer) == good else ["it is not v2's answer"],
    )


def _shown_or_missing(shown: Mapping[str, bool], missing: Sequence[str]) -> dict[str, Sequence[str]]:
    """What speaks against a claim about shares, if there were enough answers for a share to say anything."""
    return {"missing": missing, "against": [] if missing else [text for text, holds in shown.items() if not holds]}
