"""A machine that systemd runs: a container on this machine's own files, of which nothing that it changes stays.

Loradeck is in /opt/loradeck there, from this checkout, and there is no network but its own loopback.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOOT_S = 60.0
UMASK = 0o022
_SPACES = ("-m", "-p", "-u", "-i", "-n", "-C")
"""What nsenter enters: mounts, processes, name, IPC, network and control groups."""


class NoMachine(Exception):
    """Why none can be booted here."""


class Machine:
    """A running one. `leader` is the pid of its systemd, as seen from here."""

    def __init__(self, leader: int, root: Path) -> None:
        self.leader = leader
        self.root = root

    def run(self, *command: str, check: bool = True, network_only: bool = False) -> str:
        """Runs a command there, as root, or with `network_only` here, on its network. Returns what it printed."""
        spaces = ("-n",) if network_only else _SPACES
        done = subprocess.run(
            ["nsenter", "-t", str(self.leader), *spaces, "--", *command],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
            umask=UMASK,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + ("" if check else done.stderr)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit."""
        said = self.run("systemctl", "show", unit, *(f"--property={name}" for name in properties))
        return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)

    def write(self, path: str, text: str) -> None:
        """Writes a file there."""
        self.run("mkdir", "-p", str(Path(path).parent))
        self.run("sh", "-c", 'printf %s "$1" > "$2"', "sh", text, path)

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Waits for something to become true, and fails with the journal where it does not."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}\n{self.journal()}"
            time.sleep(0.1)

    def journal(self) -> str:
        """The newest lines of its journal."""
        return self.run("journalctl", "--no-pager", "-n", "80", check=False)


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Boots one. Raises NoMachine, with the reason."""
    if os.geteuid() != 0:
        raise NoMachine("only root boots a container")
    for name in ("systemd-nspawn", "nsenter"):
        if shutil.which(name) is None:
            raise NoMachine(f"there is no {name}: apt-get install systemd-container")
    layers, merged = folder / "layers", folder / "root"
    # Services are users of their own there, and have to read its root, whatever the umask of a developer's shell.
    umask = os.umask(UMASK)
    layers.mkdir()
    merged.mkdir()
    _mounted("mount", "-t", "tmpfs", "tmpfs", str(layers))
    try:
        (layers / "upper").mkdir()
        (layers / "work").mkdir()
        options = f"lowerdir=/,upperdir={layers}/upper,workdir={layers}/work"
        _mounted("mount", "-t", "overlay", "overlay", "-o", options, str(merged))
        try:
            _lay_out(merged)
            with _booted(merged) as booted:
                os.umask(umask)
                yield booted
        finally:
            subprocess.run(["umount", "-l", str(merged)], check=False)
    finally:
        os.umask(umask)
        subprocess.run(["umount", "-l", str(layers)], check=False)


def _mounted(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoMachine(f"{' '.join(command[:3])}: {done.stderr.strip()}")


def _lay_out(root: Path) -> None:
    """An environment in /opt/loradeck, as `python -m venv` and pip would make one, on this one's packages."""
    there = root / "opt" / "loradeck"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = there / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (there / "bin").mkdir()
    (there / "pyvenv.cfg").write_text("home = /opt/python/bin\ninclude-system-site-packages = false\n")
    (there / "bin" / "python").symlink_to(f"/opt/python/bin/{version}")
    (packages / "loradeck.pth").write_text("/opt/packages\n/opt/checkout/console\n/opt/checkout/agents\n")
    for name, module in (("loradeck", "loradeck.cli"), ("loradeck-agent", "loradeck_agent.cli")):
        script = there / "bin" / name
        # Where this Python has a shared library, it is looked for below a prefix that services may not see.
        command = f'exec /opt/loradeck/bin/python -c "from {module} import main; main()" "$@"'
        script.write_text(f"#!/bin/sh\nexport LD_LIBRARY_PATH=/opt/python/lib\n{command}\n")
        script.chmod(0o755)
    for name in ("python", "packages", "checkout"):
        (root / "opt" / name).mkdir()


@contextmanager
def _booted(root: Path) -> Iterator[Machine]:
    binds = {
        Path(sys.base_prefix): "/opt/python",
        Path(sys.prefix) / "lib" / Path(shutil.__file__).parent.name / "site-packages": "/opt/packages",
        ROOT: "/opt/checkout",
    }
    name = f"loradeck-{uuid.uuid4().hex[:8]}"
    log = root.parent / "nspawn.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                "systemd-nspawn",
                "-q",
                "-D",
                str(root),
                f"--machine={name}",
                "--register=no",
                "--keep-unit",
                "--private-network",
                "--console=pipe",
                *(f"--bind-ro={here}:{there}" for here, there in binds.items()),
                "-b",
                "systemd.unit=basic.target",
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        yield Machine(_leader(process, log), root)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        if process.poll() is None:
            process.kill()
            process.wait()


def _leader(process: subprocess.Popen[bytes], log: Path) -> int:
    """The pid of the container's systemd, once it has booted."""
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NoMachine(f"systemd-nspawn: {log.read_text(errors='replace')[-500:]}")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in map(int, children):
            booted = subprocess.run(
                [
                    "nsenter",
                    "-t",
                    str(child),
                    "-m",
                    "-p",
                    "-u",
                    "-i",
                    "-n",
                    "-C",
                    "systemctl",
                    "is-active",
                    "basic.target",
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if booted.stdout.strip() == "active":
                return child
        time.sleep(0.1)
    raise NoMachine(f"systemd did not boot in {BOOT_S:g} s: {log.read_text(errors='replace')[-500:]}")
