"""Draw the console's screens from the seeded fleet into screenshots/*.svg.

    python scripts/export_screenshots.py [--out DIR]

The real app runs without a terminal on `tests.fakes.console_fleet`, with its clock stopped; keys are pressed as a
person would.
"""

from __future__ import annotations

import argparse
import asyncio
import html
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.fakes import console_fleet as seed  # noqa: E402
from tests.fakes.console_stage import Stage, stage  # noqa: E402

from loradeck.client.feed import FeedLink, LinkChange  # noqa: E402
from loradeck.schemas.moves import RewindPlan, RewindStep  # noqa: E402
from loradeck.tui.text import spans  # noqa: E402

OUT = ROOT / "screenshots"


async def tenants(stage: Stage) -> None:
    await stage.half_second()


async def in_flight(stage: Stage) -> None:
    await stage.roll_back(acks=3, proofs=0, after_s=0.02)


async def not_done(stage: Stage) -> None:
    await stage.roll_back(acks=3, proofs=3, after_s=14.0, lost=True)


async def done(stage: Stage) -> None:
    await stage.roll_back(acks=4, proofs=4, after_s=4.0)


async def unknown(stage: Stage) -> None:
    await stage.half_second()
    await stage.press("R")
    await stage.half_second()


async def question(stage: Stage) -> None:
    await stage.half_second()
    await stage.press("F")
    await stage.half_second()


async def link_lost(stage: Stage) -> None:
    await stage.half_second()
    stage.hub.says.put_nowait(LinkChange(state=FeedLink.LOST, at=0.0, why="the link broke", fix="trying again"))
    await stage.pause()
    stage.clock.now += 14
    await stage.half_second()


async def nodes(stage: Stage) -> None:
    await stage.live_nodes()
    await stage.press("2", *"jjjjjj")
    await stage.half_second()


async def node(stage: Stage) -> None:
    await nodes(stage)
    await stage.press("enter")
    await stage.half_second()


async def drain(stage: Stage) -> None:
    await stage.press("2", *"jj", "D")
    await stage.half_second()


async def jobs(stage: Stage) -> None:
    await stage.press("3", *"jj")
    await stage.half_second()


async def job(stage: Stage) -> None:
    await stage.press("3", "g", *"jj", "enter")
    await stage.pause()
    await stage.pause()


async def job_not_followed(stage: Stage) -> None:
    await job(stage)
    await stage.press("k", "k", "k")
    await stage.pause()


async def events(stage: Stage) -> None:
    await stage.press("6")
    await stage.half_second()


async def gates(stage: Stage) -> None:
    await stage.press("4")
    await stage.half_second()


async def review(stage: Stage) -> None:
    await gates(stage)
    await stage.press("enter")
    await stage.pause()
    await stage.press("+", "+")
    await stage.pause()


async def adapters(stage: Stage) -> None:
    await stage.press("5")
    await stage.half_second()
    await stage.half_second()


async def lineage(stage: Stage) -> None:
    await adapters(stage)
    await stage.press("enter")
    await stage.pause()


async def compared(stage: Stage) -> None:
    await adapters(stage)
    await stage.press("space", "j", "d")
    await stage.pause()


async def data(stage: Stage) -> None:
    await stage.press("7")
    await stage.half_second()


async def capacity(stage: Stage) -> None:
    await stage.press("8")
    await stage.half_second()


async def ml(stage: Stage) -> None:
    await stage.press("9")
    await stage.half_second()


async def campaigns(stage: Stage) -> None:
    await stage.press("9", "0")
    await stage.half_second()
    await stage.half_second()


async def rewind(stage: Stage) -> None:
    stays = {"cedar": "v2 is quarantined here", "delta": "as it was then"}
    steps = [
        RewindStep(
            tenant=row.tenant,
            route=row.route,
            generation=row.pointer.generation,
            from_release=row.pointer.release,
            to_release=row.preview.target.id if row.preview.target else None,
            from_label=spans.release(row.live),
            to_label=spans.release(row.preview.target),
            skipped=stays.get(row.tenant),
        )
        for row in stage.deck.state.tenants.values()
        if row.tenant in ("acme", "bolt", *stays)
    ]
    stage.hub.plan = RewindPlan(to_rev=88_397, at_ms=seed.NOW_MS - 20 * seed.MINUTE, steps=tuple(steps))
    await stage.press("W", *"20m ago", "enter")
    await stage.half_second()
    await stage.half_second()


async def help_page(stage: Stage) -> None:
    await stage.press("?")
    await stage.half_second()


WIDE = (100, 30)
PICTURES: dict[str, tuple[Callable[[Stage], Awaitable[None]], tuple[int, int]]] = {
    "tenants": (tenants, WIDE),
    "tenants-80x24": (tenants, (80, 24)),
    "rollback-in-flight": (in_flight, WIDE),
    "rollback-not-done": (not_done, WIDE),
    "rollback-not-done-80x24": (not_done, (80, 24)),
    "rollback-done": (done, WIDE),
    "outcome-unknown": (unknown, WIDE),
    "question": (question, WIDE),
    "link-lost": (link_lost, WIDE),
    "nodes": (nodes, WIDE),
    "node": (node, WIDE),
    "drain": (drain, WIDE),
    "jobs": (jobs, WIDE),
    "job": (job, WIDE),
    "job-80x24": (job_not_followed, (80, 24)),
    "gates": (gates, WIDE),
    "review": (review, WIDE),
    "adapters": (adapters, WIDE),
    "lineage": (lineage, WIDE),
    "adapters-compared": (compared, WIDE),
    "events": (events, WIDE),
    "data": (data, WIDE),
    "capacity": (capacity, WIDE),
    "ml": (ml, WIDE),
    "campaigns": (campaigns, (120, 30)),
    "campaigns-80x24": (campaigns, (80, 24)),
    "rewind": (rewind, WIDE),
    "help": (help_page, WIDE),
}


@contextmanager
def in_zone(name: str) -> Iterator[None]:
    """The viewer's local time is that of a zone."""
    zone = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        if zone is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = zone
        time.tzset()


async def draw(name: str) -> str:
    """One picture as SVG. The viewer's local time in it is Paris's."""
    act, size = PICTURES[name]
    with in_zone("Europe/Paris"):
        async with stage(size=size) as on:
            await act(on)
            return tidy(on.deck.export_screenshot(title="loradeck"), name)


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
    """The text of a picture, line by line and without blanks: what the test compares.

    Where one piece of a line ends and the next begins is no part of it.
    """
    found: dict[float, list[tuple[float, str]]] = {}
    for match in _TEXT.finditer(svg):
        text = html.unescape(match["text"]).replace("\xa0", " ")
        found.setdefault(float(match["y"]), []).append((float(match["x"]), text))
    return ["".join("".join(text.split()) for _, text in sorted(parts)) for _, parts in sorted(found.items())]


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
