"""docs/quickstart.md works as written: its commands are run from the page, on a real hub, agent and engine."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.fleets.processes.fleet import Material

from incident.fleet import BIN, free_port, wait_for
from incident.keyboard import Keyboard
from loradeck_agent.host.config import AgentConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OWN_TERMINAL = "# in a terminal of its own"
PORTS = ("7400", "7500")
CONSOLE = "loradeck"


def section(heading: str) -> list[tuple[str, str]]:
    """The code blocks of one section: (language, text)."""
    text = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return BLOCK.findall(text)


def commands(text: str) -> list[str]:
    """The commands of a block, those over several lines joined."""
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


@dataclass
class Desk:
    """The one folder of the page, its ports replaced by free ones, and the terminals that stay open."""

    root: Path
    ports: dict[str, str] = field(default_factory=lambda: {port: str(free_port()) for port in PORTS})
    open: list[subprocess.Popen[bytes]] = field(default_factory=list)
    printed: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("LORADECK_", "XDG_"))}
        folders = {f"XDG_{name}_HOME": str(self.root / name.lower()) for name in ("STATE", "CONFIG", "CACHE")}
        return kept | folders | {"PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "200"}

    def ported(self, text: str) -> str:
        for port, free in self.ports.items():
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
        return text

    def start(self, command: str) -> None:
        """What runs until it is ended."""
        log = (self.root / f"{len(self.open)}.log").open("wb")
        shell = ["bash", "-c", f"exec {self.ported(command)}"]
        with log:
            self.open.append(
                subprocess.Popen(
                    shell, cwd=self.root, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True,
                )
            )  # fmt: skip

    def type(self, command: str) -> str:
        """What a command prints at a terminal, where its questions are answered with y. It has to succeed."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            ["bash", "-c", self.ported(command)], cwd=self.root, env=self.env, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        text, answered, deadline = "", 0, time.monotonic() + 120
        try:
            while time.monotonic() < deadline:
                readable, _, _ = select.select([master], [], [], 0.2)
                try:
                    text += os.read(master, 65536).decode(errors="replace") if readable else ""
                except OSError:  # the command has closed its side
                    break
                if text.count("[y/N]:") > answered:
                    answered += 1
                    os.write(master, b"y\n")
            status = process.wait(60)
        finally:
            process.kill()
            os.close(master)
        assert status == 0, f"{command}\n{text}\n{self.logs()}"
        self.printed[command] = text
        return text

    def logs(self) -> str:
        return "\n".join(f"--- {log}\n{log.read_text(errors='replace')[-2000:]}" for log in self.root.rglob("*.log"))


@pytest.fixture
def desk(material: Material, folder: Path) -> Iterator[Desk]:
    for name, source in (
        ("my-base", material.base),
        ("my-adapter", material.adapters[0]),
        ("my-adapter-2", material.adapters[1]),
    ):
        shutil.copytree(source, folder / name)
    rows = [{"prompt": f"w{n} w{n + 1} w{n + 2}", "answer": "w1"} for n in range(30)]
    (folder / "my-rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    desk = Desk(folder)
    try:
        yield desk
    finally:
        if (folder / "agent.toml").exists():
            stop = ["loradeck-agent", "stop", "--config", "agent.toml"]
            subprocess.run(stop, cwd=folder, env=desk.env, capture_output=True, timeout=60, check=False)
        for process in desk.open:
            process.send_signal(signal.SIGTERM)
        for process in desk.open:
            process.wait(60)


def run(desk: Desk, heading: str) -> str:
    """Runs the blocks of a section in order; what the last command printed."""
    text = ""
    for language, block in section(heading):
        if language == "toml":
            (desk.root / "agent.toml").write_text(desk.ported(block))
            continue
        for command in commands(block):
            if OWN_TERMINAL in command:
                desk.start(command)
            else:
                text = desk.type(command)
    return text


def test_every_command_of_the_quickstart_works_as_written(desk: Desk) -> None:
    run(desk, "The hub")
    socket = desk.root / "state" / "loradeck" / "hub" / "hub.sock"
    wait_for("the hub's socket", socket.exists, 60)

    run(desk, "The host")
    wait_for("the engine is up", lambda: "1/1 up" in desk.type("loradeck node ls"), 120, every=0.5)

    answer = run(desk, "A tenant")
    assert "PROVEN 1/1" in desk.printed["loradeck promote acme v1 --wait proven"]
    assert '"choices"' in answer

    run(desk, "Reach proven")
    assert re.search(
        r"^\* +my-rows\.jsonl, line \d+ ", desk.printed["loradeck canary suggest acme v1 --dataset rows"], re.M
    )
    wait_for("v1 is proven by them", lambda: "proven 1/1" in desk.type("loradeck route show acme"), 30)

    way_back = [command for _, block in section("The way back") for command in commands(block)]
    at = next(n for n, command in enumerate(way_back) if command.startswith("loradeck route set"))
    for command in way_back[:at]:
        shown = desk.type(command)
    assert re.search(r"R goes to +v1 .*asks: not soaked", shown)
    desk.type(way_back[at])
    wait_for("R asks nothing", lambda: "not soaked" not in desk.type("loradeck route show acme"), 30)

    assert way_back[at + 1].partition(" ")[0] == CONSOLE
    assert OWN_TERMINAL in way_back[at + 1]
    at_console(desk)
    for command in way_back[at + 2 :]:
        assert "FLIPPED 1/1" in desk.type(command)

    run(desk, "The end")
    assert desk.open[1].wait(20) == 0, "the agent has ended"
    desk.open[0].send_signal(signal.SIGINT)
    assert desk.open[0].wait(20) == 0, "the hub ends with ctrl-c"
    assert {heading for heading in re.findall(r"^## (.*)$", PAGE, re.MULTILINE) if section(heading)} == {
        "Install", "The hub", "The host", "A tenant", "Reach proven", "The way back", "The end", "A vLLM of your own",
    }, "every section that has commands is run here"  # fmt: skip


def at_console(desk: Desk) -> None:
    """R and u in the console, as the page says."""
    state = desk.env["XDG_STATE_HOME"]
    with Keyboard(["env", f"XDG_STATE_HOME={state}", str(BIN / CONSOLE)], columns=120) as console:
        console.wait("acme with R armed", lambda text: "acme" in text and "R ARMED" in text, 30)
        console.press("R")
        console.wait("the move back", lambda text: "BACK ON v1" in text, 30)
        console.wait("undo", lambda text: "u asks y" in text, 30)
        console.press("u")
        console.wait("the question", lambda text: "quarantined, left by R" in text, 30)
        console.confirm()
        console.wait("the move undone", lambda text: "BACK ON v2" in text or "UNDONE" in text, 30)
        console.press("q")


def test_the_install_commands_name_extras_that_the_package_has() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"pip install '?[^\s'\[]+\[([\w,]+)\]", PAGE + readme)
    assert named
    assert {extra for names in named for extra in names.split(",")} <= project["optional-dependencies"].keys()
    wheels = set(re.findall(r"dist/(\S+?\.whl)", readme))
    assert wheels == {f"{project['name']}-{project['version']}-py3-none-any.whl"}


def test_the_vllm_table_is_a_configuration_that_the_agent_takes(tmp_path: Path) -> None:
    ((_, host), *_) = [block for block in section("The host") if block[0] == "toml"]
    ((_, engine),) = [block for block in section("A vLLM of your own") if block[0] == "toml"]
    file = tmp_path / "agent.toml"
    file.write_text(host.partition("[[engine]]")[0] + engine)
    (loaded,) = AgentConfig.load(file).engine
    assert (loaded.kind, loaded.slots) == ("vllm", 4)
