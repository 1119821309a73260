"""Launches a vLLM under a lock: one process, whose end is the end of all of vLLM's.

    python -m loradeck_agent.serving.vllm.launcher --state DIR -- PYTHON -m vllm.entrypoints.openai.api_server …

vLLM is a server, an engine core and workers, and knows no lock file. This program holds DIR/engine.lock for its
life, so that no two share a folder and an agent finds one that outlived it. SIGTERM ends the server, and what of
it is left after that; the server's end ends this program. What an earlier one left behind (it was killed) is
ended before a server is started: it would hold the accelerator's memory. Such a process is recognised by two marks
that it cannot have by chance: the session of that earlier program, and DIR as its working folder.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.state_folder import locked

GRACE_S = 12.0
"""Between SIGTERM and SIGKILL of the server."""

LEFT_S = 4.0
"""Between SIGTERM and SIGKILL of processes that the server leaves. Together with GRACE_S less than what
`loradeck-agent stop` grants this program."""

KILLED_S = 10.0
"""How long a killed process may take to be gone."""

PLUGINS_S = 60.0
"""How long the question may take which plugins vLLM has."""

_PLUGINS = """
from importlib.metadata import entry_points
groups = {group: entry_points(group=group).names for group in entry_points().groups if group.startswith("vllm.")}
routes = groups.pop("vllm.endpoint_plugins", set())
others = set().union(*groups.values())
if "loradeck" in routes and not (routes - {"loradeck"}) & others:
    print(*others, "loradeck")
"""
"""Prints what vLLM loads by itself and our plugin; nothing where that would open routes of others too."""

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05


def launch(state: Path, command: Sequence[str]) -> int:
    """Runs a server to its end. Returns its exit status, 128 + n after signal n, 0 when it was asked to end.

    Raises:
        AgentError: `already_running`.
        OSError: the command cannot be started.
    """
    state = state.resolve()
    lock = state / "engine.lock"
    earlier = _pid_in(lock)
    with locked(lock, "engine"):
        if earlier is not None and earlier != os.getpid():
            end_session(earlier, state)
        (state / "engine.sock").unlink(missing_ok=True)  # vLLM leaves it behind, and will not bind over it
        environment = _environment()
        environment |= plugin_variables(command[0], environment)
        asked = False

        def end(number: int, _frame: object) -> None:
            nonlocal asked
            asked = True
            if server.poll() is None:
                server.terminate()
            signal.setitimer(signal.ITIMER_REAL, GRACE_S)

        def kill(number: int, _frame: object) -> None:
            server.kill()

        # Held back until there is a server to end.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        server = subprocess.Popen(command, cwd=state, env=environment, preexec_fn=_end_with_parent)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        signal.signal(signal.SIGALRM, kill)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
        status = server.wait()
        signal.setitimer(signal.ITIMER_REAL, 0)
        end_session(os.getsid(0), state)
        (state / "engine.sock").unlink(missing_ok=True)
        return 0 if asked else status if status >= 0 else 128 - status


def end_session(session: int, folder: Path) -> None:
    """Ends the processes of a session that work in a folder, but this one: SIGTERM, a grace, SIGKILL.

    Raises: AgentError: `will_not_end`, when something sits in the kernel and even SIGKILL does not end it.
    """
    began = time.monotonic()
    asked: set[int] = set()
    while left := _processes(session, folder):
        waited = time.monotonic() - began
        if waited > LEFT_S + KILLED_S:
            raise AgentError(
                "will_not_end",
                "what is left of an engine does not end",
                f"pids {', '.join(map(str, left))}",
                "look at the host's kernel log; the accelerator may need a reset",
            )
        for pid in left:
            if waited > LEFT_S or pid not in asked:
                sys.stderr.write(f"ending pid {pid}, left of an engine\n")
                asked.add(pid)
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(pid, signal.SIGKILL if waited > LEFT_S else signal.SIGTERM)
        time.sleep(_POLL_S)


def _processes(session: int, folder: Path) -> list[int]:
    """Living processes of a session that work in a folder, this one aside."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state, _, _, sid = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(sid) == session and state not in "ZX" and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def _pid_in(lock: Path) -> int | None:
    """Pid of the last holder of a lock, which is also the session that it led."""
    try:
        return int(lock.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _environment() -> dict[str, str]:
    """This process's variables, less those that make another Python find our packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def plugin_variables(python: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which vLLM loads Loradeck's plugin, where it is installed beside it and nobody chose plugins.

    vLLM takes the variable for a list of all plugins that it may load, so those that it loads without it are in it too.
    """
    if "VLLM_PLUGINS" in environment:
        return {}
    try:
        done = subprocess.run(
            (python, "-c", _PLUGINS), capture_output=True, text=True, timeout=PLUGINS_S, env=dict(environment)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"which plugins vLLM has is not known: {error}\n")
        return {}
    names = sorted(set(done.stdout.split()))
    return {"VLLM_PLUGINS": ",".join(names)} if names else {}


def _end_with_parent() -> None:
    """In the server, before it is one: SIGTERM when this program ends in whatever way."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the launcher from its command line. Returns 1 when another engine holds the folder or nothing starts."""
    parser = argparse.ArgumentParser(
        prog="python -m loradeck_agent.serving.vllm.launcher",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--state", type=Path, required=True, help="folder for the socket and the lock")
    parser.add_argument("command", nargs="+", help="after --: how vLLM is started")
    args = parser.parse_args(argv)
    os.umask(0o077)
    if os.getsid(0) != os.getpid():
        os.setsid()
    try:
        args.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        return launch(args.state, args.command)
    except (AgentError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
