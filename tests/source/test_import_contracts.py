"""The import contracts hold, and see what they forbid: imports are planted in a copy of the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Plant:
    """An import statement at the end of a module, and what lint then says."""

    module: str
    statement: str
    contract: str
    evidence: str


PLANTS = {
    "router imports torch": Plant(
        "agents/loradeck_agent/router/switch.py",
        "import torch",
        "torch and its kin are for executors and the embedded engine",
        "loradeck_agent.router.switch -> torch",
    ),
    "router imports another room of the agent": Plant(
        "agents/loradeck_agent/router/table.py",
        "from loradeck_agent.serving import proof",
        "the router stands alone but for schemas, rules, strangers and what a host has",
        "loradeck_agent.router.table imports loradeck_agent.serving.proof",
    ),
    "console imports the commands": Plant(
        "console/loradeck/tui/app.py",
        "from loradeck.cli.shared import output",
        "console floors",
        "loradeck.tui.app -> loradeck.cli.shared.output",
    ),
    "client imports artifacts": Plant(
        "console/loradeck/client/blobs.py",
        "from loradeck.artifacts import staging",
        "the console and the client are no hub, and read no artifacts",
        "loradeck.client.blobs -> loradeck.artifacts.staging",
    ),
    "a call of the hub imports SQLite": Plant(
        "console/loradeck/hub/api/moves.py",
        "from loradeck.store import sqlite",
        "the hub knows its store, and the wiring chooses the database",
        "loradeck.hub.api.moves -> loradeck.store.sqlite",
    ),
    "a part of the hub names the whole hub, as a type": Plant(
        "console/loradeck/hub/links/pins.py",
        "if TYPE_CHECKING:\n    from loradeck.hub.hub import Hub",
        "rooms of the hub",
        "loradeck.hub.links.pins -> loradeck.hub.hub",
    ),
    "rules import sqlite3": Plant(
        "console/loradeck/rules/moves/forward.py",
        "import sqlite3",
        "rules import schemas and pure modules of the standard library",
        "loradeck.rules.moves.forward imports sqlite3",
    ),
    "the console's state imports Textual": Plant(
        "console/loradeck/tui/model/state.py",
        "from textual.app import App",
        "schemas, rules, client and the console's model know no Textual",
        "loradeck.tui.model.state -> textual",
    ),
    "the console's gate knows the app, if only its type": Plant(
        "console/loradeck/tui/key_checks/decide.py",
        "if TYPE_CHECKING:\n    from loradeck.tui.app import Deck",
        "rooms of the console",
        "loradeck.tui.key_checks.decide -> loradeck.tui.app",
    ),
    "daemon imports torch": Plant(
        "agents/loradeck_agent/daemon.py",
        "import torch",
        "torch and its kin are for executors and the embedded engine",
        "loradeck_agent.daemon -> torch",
    ),
    "a circle that only types see": Plant(
        "console/loradeck/schemas/ids.py",
        "if TYPE_CHECKING:\n    from loradeck.schemas.problem import Problem",
        "no circle of imports",
        "a circle of 2 modules: loradeck.schemas.ids, loradeck.schemas.problem",
    ),
    "a command imports the simulated fleet": Plant(
        "console/loradeck/cli/commands/node.py",
        "from loradeck.testing import simulated_fleet",
        "nobody imports the simulated fleet",
        "loradeck.cli.commands.node -> loradeck.testing.simulated_fleet",
    ),
}


def lint(folder: Path, *plants: Plant) -> tuple[int, str]:
    """Copies the sources, plants imports in the copy, and lints it. Returns the exit status and what it prints."""
    only_python = shutil.ignore_patterns("__pycache__", "*.sql", "*.pyc")
    for package in ("console/loradeck", "agents/loradeck_agent"):
        shutil.copytree(ROOT / package, folder / package, ignore=only_python)
    for file in ("pyproject.toml", "scripts/import_contracts.py"):
        (folder / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    for plant in plants:
        with (folder / plant.module).open("a") as module:
            module.write(f"\n{plant.statement}\n")
    paths = os.pathsep.join(str(folder / source) for source in ("console", "agents"))
    run = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return run.returncode, run.stdout + run.stderr


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """The copy with everything planted: lint reports every contract in one run."""
    return lint(tmp_path_factory.mktemp("planted"), *PLANTS.values())


def test_the_sources_as_they_are_break_no_contract(tmp_path: Path) -> None:
    status, printed = lint(tmp_path)
    assert "0 broken" in printed, printed
    assert status == 0


@pytest.mark.parametrize("name", PLANTS)
def test_a_forbidden_import_turns_lint_red_and_names_the_contract(name: str, planted: tuple[int, str]) -> None:
    status, printed = planted
    plant = PLANTS[name]
    assert status != 0
    assert f"{plant.contract} BROKEN" in printed
    assert plant.evidence in printed
