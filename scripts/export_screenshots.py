"""Draw the console's screens from the seeded fleet into screenshots/*.svg.

    python scripts/export_screenshots.py [--out DIR]

The real app runs without a terminal on `console_seed`, with its clock stopped; keys are pressed as a person would.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import os
import re
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["TZ"] = "Europe/Paris"
time.tzset()

from scripts import console_seed as seed  # noqa: E402

from loradeck.client.errors import OutcomeUnknown  # noqa: E402
from loradeck.client.feed import FeedItem, Link, LinkChange  # noqa: E402
from loradeck.schemas.attestation import GateResult  # noqa: E402
from loradeck.schemas.feed import FeedEvents, FeedMessage, FeedTenants  # noqa: E402
from loradeck.schemas.moves import MoveResult  # noqa: E402
from loradeck.schemas.state import HubState, ReleaseView, TenantRow  # noqa: E402
from loradeck.tui.app import Deck  # noqa: E402
from loradeck.tui.moves import Move  # noqa: E402

OUT = ROOT / "screenshots"


class Clock:
    """A monotonic clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class SeededPort:
    """A hub that says what it is told to say and answers moves from the seed."""

    def __init__(self, state: HubState) -> None:
        self.state = state
        self.says: asyncio.Queue[FeedItem] = asyncio.Queue()
        self.sent: list[Move] = []
        self.answer: Callable[[Move], MoveResult] | None = None

    async def follow(self) -> AsyncGenerator[FeedItem]:
        yield LinkChange(state=Link.UP, at=0.0)
        yield self.state
        while True:
            yield await self.says.get()

    async def send(self, move: Move) -> MoveResult:
        self.sent.append(move)
        if self.answer is None:
            raise OutcomeUnknown(move.key, where="https://hub.eu-1.example:7400")
        return self.answer(move)

    async def outcome(self, key: str) -> MoveResult | None:
        await asyncio.Event().wait()
        return None

    async def releases(self, tenant: str) -> list[ReleaseView]:
        return [seed.view(tenant, "v7"), seed.view(tenant, "v8"), seed.view(tenant, "v10")]

    async def gate(self, tenant: str, route: str, release: str) -> GateResult | None:
        return None

    async def aclose(self) -> None:
        return None


@dataclass
class Stage:
    """A running console for one picture."""

    deck: Deck
    port: SeededPort
    clock: Clock
    press: Callable[..., Awaitable[None]]
    pause: Callable[[], Awaitable[None]]

    async def says(self, *items: FeedMessage) -> None:
        for item in items:
            self.port.says.put_nowait(item)
        await self.pause()

    async def settle(self) -> None:
        """Let half a second pass, so that what is seen is armed, and draw."""
        self.clock.now += 0.6
        await self.pause()
        self.deck._draw_front()
        await self.pause()

    async def roll_back(self, *, acks: int, proofs: int, after_s: float, lost: bool = False) -> None:
        """R on acme, and what the hub says of it `after_s` seconds later."""
        log = seed.Log()
        rows = {row.key: row for row in seed.tenants(log)}
        event, row = seed.rolled_back(rows["acme", "production"], log, acks=acks, proofs=proofs)
        self.port.answer = lambda move: MoveResult(events=(event,), rev=event.rev, epoch=3, commit_ms=2.1)
        await self.settle()
        await self.press("R")
        await self.pause()
        self.clock.now += after_s
        if lost:
            row = _cut_off(row)
        status = self.deck.state.status
        assert status is not None
        await self.says(FeedEvents(events=(event,)), FeedTenants(rows=(row,)))
        self.deck.state.heard_at = self.clock.now
        await self.settle()


def _cut_off(row: TenantRow) -> TenantRow:
    """The last replica is not heard from."""
    *rest, last = row.replicas
    last = last.model_copy(update={"linked": False, "heard_age_s": 14.0, "state": None, "admitted_left": None})
    return row.model_copy(update={"replicas": (*rest, last)})


async def tenants(stage: Stage) -> None:
    await stage.settle()


async def in_flight(stage: Stage) -> None:
    await stage.roll_back(acks=3, proofs=0, after_s=0.02)


async def not_done(stage: Stage) -> None:
    await stage.roll_back(acks=3, proofs=3, after_s=14.0, lost=True)


async def settled(stage: Stage) -> None:
    await stage.roll_back(acks=4, proofs=4, after_s=4.0)


async def unknown(stage: Stage) -> None:
    await stage.settle()
    await stage.press("R")
    await stage.settle()


async def question(stage: Stage) -> None:
    await stage.settle()
    await stage.press("F")
    await stage.settle()


async def link_lost(stage: Stage) -> None:
    await stage.settle()
    stage.port.says.put_nowait(LinkChange(state=Link.LOST, at=0.0, why="the link broke", fix="trying again"))
    await stage.pause()
    stage.clock.now += 14
    await stage.settle()


async def nodes(stage: Stage) -> None:
    await stage.press("2", "j", "j", "j", "j", "j")
    await stage.settle()


async def jobs(stage: Stage) -> None:
    await stage.press("3")
    await stage.settle()


async def events(stage: Stage) -> None:
    await stage.press("4")
    await stage.settle()


async def help_page(stage: Stage) -> None:
    await stage.press("question_mark")
    await stage.settle()


WIDE = (100, 30)
PICTURES: dict[str, tuple[Callable[[Stage], Awaitable[None]], tuple[int, int]]] = {
    "tenants": (tenants, WIDE),
    "tenants-80x24": (tenants, (80, 24)),
    "rollback-in-flight": (in_flight, WIDE),
    "rollback-not-done": (not_done, WIDE),
    "rollback-not-done-80x24": (not_done, (80, 24)),
    "rollback-settled": (settled, WIDE),
    "outcome-unknown": (unknown, WIDE),
    "question": (question, WIDE),
    "link-lost": (link_lost, WIDE),
    "nodes": (nodes, WIDE),
    "jobs": (jobs, WIDE),
    "events": (events, WIDE),
    "help": (help_page, WIDE),
}


async def draw(name: str) -> str:
    """One picture as SVG."""
    act, size = PICTURES[name]
    port = SeededPort(seed.hub_state())
    clock = Clock()
    deck = Deck(port, context="eu-1", clock=clock)
    async with deck.run_test(size=size) as pilot:
        await pilot.pause()
        stage = Stage(deck, port, clock, pilot.press, pilot.pause)
        await stage.settle()
        await act(stage)
        return tidy(deck.export_screenshot(title="loradeck"), name)


_TEXT = re.compile(
    r'<text class="(?P<cls>[^"]*)" x="(?P<x>[\d.]+)" y="(?P<y>[\d.]+)" textLength="(?P<len>[\d.]+)"'
    r' clip-path="(?P<clip>[^"]*)">(?P<text>[^<]*)</text>'
)


def tidy(svg: str, name: str) -> str:
    """The same picture with ids that do not change, and spaces as positions: some viewers drop leading ones."""
    svg = re.sub(r"terminal-\d+", f"deck-{name}", svg)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # fonts come from where it is looked at
    svg = svg.replace("font-family: Fira Code,", "font-variant-ligatures: none; font-family: Fira Code,")

    def place(match: re.Match[str]) -> str:
        text = html.unescape(match["text"]).replace("\xa0", " ")
        stripped = text.strip()
        if not stripped:
            return ""
        cell = float(match["len"]) / len(text)
        x = float(match["x"]) + cell * (len(text) - len(text.lstrip(" ")))
        body = html.escape(stripped, quote=False).replace(" ", "&#160;")
        return (
            f'<text class="{match["cls"]}" x="{x:g}" y="{match["y"]}" textLength="{cell * len(stripped):g}"'
            f' clip-path="{match["clip"]}">{body}</text>'
        )

    return "\n".join(part.rstrip() for part in _TEXT.sub(place, svg).splitlines() if part.strip()) + "\n"


def lines_of(svg: str) -> list[str]:
    """The text of a picture, line by line: what the test compares."""
    found: dict[float, list[tuple[float, str]]] = {}
    for match in _TEXT.finditer(svg):
        text = html.unescape(match["text"]).replace("\xa0", " ")
        found.setdefault(float(match["y"]), []).append((float(match["x"]), text))
    return [" ".join(text for _, text in sorted(parts)) for _, parts in sorted(found.items())]


async def draw_all() -> dict[str, str]:
    """Every picture by its name."""
    return {name: await draw(name) for name in PICTURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, svg in asyncio.run(draw_all()).items():
        (out / f"{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
