"""Negative controls: three ways for a node to lie, each of which must turn the report red.

    python examples/incident/sabotage.py late-router|wrong-file|bare-base run --config agent.toml

This is `loradeck-agent` with one thing broken in it. The breakage is here and not in the product, which has no
switch for it.

late-router   the router acknowledges a flip at once and goes on admitting to the left release for 100 ms
wrong-file    the agent loads the first adapter's files under every later adapter's name
bare-base     the engine takes adapters, lists them, and answers with the base alone
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LATE_S = 0.1
CONTROLS = ("late-router", "wrong-file", "bare-base")


def agent(control: str) -> None:
    """Runs the agent's command line with the breakage in it, or in a process that it starts."""
    from loradeck_agent.cli import main

    child = {"late-router": "loradeck_agent.router", "bare-base": "loradeck_agent.embedded.serve"}.get(control)
    if child is None:
        _load_the_wrong_file()
    else:
        _start_the_broken(control, child)
    main()


def _start_the_broken(control: str, child: str) -> None:
    """Has this file run in the place of the module `child`, whichever part of the agent starts it."""
    from loradeck_agent.host.supervisor import Program

    if importlib.util.find_spec(child) is None:  # a control without effect would pass for a report that sees nothing
        raise SystemExit(f"there is no module {child} to break")
    init = Program.__init__

    def broken(self: Any, name: str, argv: tuple[str, ...], *rest: Any, **named: Any) -> None:
        if argv[1:3] == ("-m", child):
            argv = (argv[0], str(Path(__file__).resolve()), control, "child", *argv[3:])
        init(self, name, argv, *rest, **named)

    Program.__init__ = broken  # type: ignore[method-assign]


def _load_the_wrong_file() -> None:
    from loradeck_agent.serving.engine_api import EngineApi

    load = EngineApi.load
    first: dict[str, Path] = {}

    async def wrong(self: Any, name: str, folder: Path, instead: Sequence[str] = ()) -> None:
        tenant = name.rpartition("-")[0]
        await load(self, name, first.setdefault(tenant, folder), instead)

    EngineApi.load = wrong  # type: ignore[assignment,method-assign]


def late_router(argv: list[str]) -> int:
    from loradeck_agent.router.__main__ import main
    from loradeck_agent.router.switch import Switch

    recompile = Switch._recompile

    def late(self: Any, key: Any) -> None:
        asyncio.get_running_loop().call_later(LATE_S, recompile, self, key)

    Switch._recompile = late  # type: ignore[method-assign]
    return main(argv)


def bare_base(argv: list[str]) -> int:
    from loradeck_agent.embedded.adapter_bank import BASE, AdapterBank
    from loradeck_agent.embedded.serve import main

    select = AdapterBank.select

    def bare(self: Any, handles: list[int]) -> None:
        select(self, [BASE for _ in handles])

    AdapterBank.select = bare  # type: ignore[method-assign]
    return int(main(argv) or 0)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in CONTROLS:
        sys.exit(__doc__)
    control, *rest = sys.argv[1:]
    if rest[0] != "child":
        sys.argv[1:] = rest
        agent(control)
    else:
        sys.exit({"late-router": late_router, "bare-base": bare_base}[control](rest[1:]))
