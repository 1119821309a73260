"""Draw the incident as one moving picture, screenshots/recording/incident.svg.

    python scripts/export_recording.py [--out FILE]

The real app runs without a terminal on `tests.fakes.console_fleet`, with its clock in our hands; keys are pressed as a
person would. Each frame is the app's own screenshot; the picture shows one after the other by a style sheet, without a
script. What shows no motion shows the first frame.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import re
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts.export_screenshots import in_zone, tidy  # noqa: E402
from tests.fakes import console_fleet as seed  # noqa: E402
from tests.fakes.console_stage import Stage, stage  # noqa: E402

from loradeck.schemas.feed import FeedEvents, FeedTenants  # noqa: E402
from loradeck.schemas.moves import MoveResult  # noqa: E402

OUT = ROOT / "screenshots" / "recording" / "incident.svg"
SIZE = (100, 30)
ACME = ("acme", "production")


@dataclass(frozen=True)
class Frame:
    """`says` stands under the terminal for `seconds`."""

    says: str
    seconds: float
    act: Callable[[Stage], Awaitable[None]]


async def look(on: Stage) -> None:
    await on.half_second()
    await on.half_second()


async def press_r(on: Stage) -> None:
    log = seed.Log()
    rows = {row.key: row for row in seed.tenants(log)}
    event, row = seed.rolled_back(rows[ACME], log, acks=0)
    on.hub.answer = lambda move: MoveResult(events=(event,), rev=event.rev, epoch=3, commit_ms=2.1)
    await on.press("R")
    await on.says(FeedEvents(events=(event,)), FeedTenants(rows=(row,)))
    await on.pause()


def heard(acks: int, proofs: int, after_s: float) -> Callable[[Stage], Awaitable[None]]:
    """What the hub says of the move that long after the frame before."""

    async def act(on: Stage) -> None:
        log = seed.Log()
        rows = {row.key: row for row in seed.tenants(log)}
        _, row = seed.rolled_back(rows[ACME], log, acks=acks, proofs=proofs)
        on.clock.now += after_s
        on.deck.state.heard_at = on.clock.now
        await on.says(FeedTenants(rows=(row,)))
        await on.half_second()

    return act


async def noted(on: Stage) -> None:
    on.hub.answer = lambda move: MoveResult(events=(), rev=88_433, epoch=3, commit_ms=1.4)
    await on.press("enter")
    await on.half_second()


def keys(*pressed: str) -> Callable[[Stage], Awaitable[None]]:
    async def act(on: Stage) -> None:
        await on.press(*pressed)
        await on.half_second()

    return act


FRAMES = (
    Frame("03:12, paged. Where R would go stands there before the key: v7, intact and resident on 4 of 4.", 4.5, look),
    Frame("R. It is committed; two routers have the new entry, two are waited for.", 1.6, heard(2, 0, 0.02)),
    Frame("All four routers flipped. Each replica is now asked the release's own canaries.", 1.6, heard(4, 0, 0.4)),
    Frame("Flipped and proven are two counts: two replicas answered with v7's tokens.", 1.6, heard(4, 2, 1.2)),
    Frame("Back on v7, proven on 4 of 4. v9 is quarantined and the pointer held.", 3.5, heard(4, 4, 1.4)),
    Frame("i: the incident and a reason, written to the move.", 2.0, keys("i", *"INC-2214 v9 breaks JSON")),
    Frame("enter. The post-mortem finds it in the log.", 2.0, noted),
    Frame("esc: the list again. acme needs nobody now, and R would ask before it went further back.", 4.0,
          keys("escape", "escape")),
)  # fmt: skip


async def frames() -> list[str]:
    """The app's screenshot at each frame, as SVG with names of its own."""
    drawn = []
    with in_zone("Europe/Paris"):
        async with stage(size=SIZE) as on:
            for number, frame in enumerate(FRAMES):
                if number == 1:
                    await press_r(on)
                await frame.act(on)
                drawn.append(tidy(on.deck.export_screenshot(title="loradeck"), f"f{number}"))
    return drawn


_PARTS = re.compile(r"<style>(?P<style>.*?)</style>\s*<defs>(?P<defs>.*?)</defs>(?P<body>.*)</svg>", re.DOTALL)
_BOX = re.compile(r'viewBox="0 0 (\d+) ([\d.]+)"')


def moving(drawn: list[str]) -> str:
    """One picture that shows each frame for its time, again and again."""
    box = _BOX.search(drawn[0])
    assert box is not None
    width, height = int(box[1]), float(box[2])
    total = sum(frame.seconds for frame in FRAMES)
    styles, bodies, begin = [], [], 0.0
    for number, (svg, frame) in enumerate(zip(drawn, FRAMES, strict=True)):
        parts = _PARTS.search(svg)
        assert parts is not None
        start, end = begin / total * 100, (begin + frame.seconds) / total * 100
        begin += frame.seconds
        before = f"0% {{ visibility: hidden; }} {start:.2f}% {{ visibility: visible; }}"
        steps = "0% { visibility: visible; }" if number == 0 else before
        after = "" if number == len(FRAMES) - 1 else f" {end:.2f}% {{ visibility: hidden; }}"
        styles.append(parts["style"].strip())
        styles.append(f"@keyframes show-f{number} {{ {steps}{after} }}")
        styles.append(
            f".show-f{number} {{ visibility: {'visible' if number == 0 else 'hidden'}; "
            f"animation: show-f{number} {total:g}s step-end infinite; }}"
        )
        place = f'x="{width / 2:g}" y="{height + 26:g}" text-anchor="middle"'
        caption = f'<text class="caption" {place}>{html.escape(frame.says)}</text>'
        bodies.append(
            f'<g class="show-f{number}">\n<defs>{parts["defs"]}</defs>\n{parts["body"].strip()}\n{caption}\n</g>'
        )
    sheet = "\n".join([".caption { fill: #868887; font: 20px arial, sans-serif; }", *styles])
    return (
        f'<svg class="rich-terminal" viewBox="0 0 {width} {height + 44:g}" xmlns="http://www.w3.org/2000/svg">\n'
        f"<style>\n{sheet}\n</style>\n" + "\n".join(bodies) + "\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out: Path = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(moving(asyncio.run(frames())), encoding="utf-8")


if __name__ == "__main__":
    main()
