"""The units of the services, as text, and how they are written to this machine or taken away, which needs root.

One directive that is left out of the hardening says why. `systemd-analyze security` scores the units at most 2.0, which
a test measures.
"""

import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loradeck.schemas.fault import Fault

SYSTEM = Path("/etc/systemd/system")
USERS = Path("/etc/sysusers.d")

HUB, AGENT, ROUTER, GATEWAY = "loradeck-hub", "loradeck-agent", "loradeck-router", "loradeck-gateway"
"""The names of the units, and of the users of all but the router."""


@dataclass(frozen=True)
class UnitFile:
    """A file that a service needs."""

    path: Path
    text: str


def hub_files(program: Path, data: Path, options: Sequence[str]) -> list[UnitFile]:
    """The hub's: a user of its own, and the service. `options` are those of `loradeck hub run`."""
    command = [str(program), "hub", "run", "--data", str(data), *options]
    return _service(HUB, "hub", command, data, _MIGRATES)


def agent_files(
    program: Path, config: Path, state: Path, listen: str, *, as_root: bool, read_home: bool
) -> list[UnitFile]:
    """The agent's: a user of its own, the service, and the router's listening socket.

    Args:
        listen: HOST:PORT of the router.
        as_root: executors run as another user, whom only root can become.
        read_home: it reads files below /home.
    """
    command = [str(program), "run", "--config", str(config)]
    who = _AS_ROOT if as_root else _AS_ITSELF.format(user=AGENT)
    home = "read-only" if read_home else "yes"
    text = _AGENT.format(
        command=_quoted(command), who=who, home=home, state=_state(state), router=ROUTER, common=_HARDENED
    )
    return [
        UnitFile(USERS / f"{AGENT}.conf", _user(AGENT, "Loradeck agent", state)),
        UnitFile(SYSTEM / f"{AGENT}.service", text),
        UnitFile(SYSTEM / f"{ROUTER}.socket", _ROUTER.format(listen=_stream(listen), agent=AGENT)),
    ]


def gateway_files(program: Path, config: Path, state: Path) -> list[UnitFile]:
    """The gateway's: a user of its own, and the service."""
    return _service(GATEWAY, "gateway", [str(program), "gateway", "--config", str(config)], state)


def printed(files: Sequence[UnitFile]) -> str:
    """The files one after the other, each under its path."""
    return "\n".join(f"# {file.path}\n{file.text}" for file in files)


def _service(name: str, what: str, command: Sequence[str], folder: Path, start: str = "") -> list[UnitFile]:
    """Writes a user of its own, and a service that writes to one folder. `start`: lines about its start."""
    said = {"command": _quoted(command), "state": _state(folder), "start": start, "common": _HARDENED}
    return [
        UnitFile(USERS / f"{name}.conf", _user(name, f"Loradeck {what}", folder)),
        UnitFile(SYSTEM / f"{name}.service", _SERVICE.format(what=what, user=name, **said)),
    ]


def _user(name: str, what: str, home: Path) -> str:
    return f'{_BY}u {name} - "{what}" {home}\n'


def _state(folder: Path) -> str:
    """The lines by which the folder that a service writes to is made, and may be written."""
    if folder.parent == Path("/var/lib"):
        return f"StateDirectory={folder.name}\nStateDirectoryMode=0700"
    return f"ReadWritePaths={folder}"


def _stream(listen: str) -> str:
    """HOST:PORT as ListenStream= takes it: an address, no name."""
    host, _, port = listen.rpartition(":")
    host = {"localhost": "127.0.0.1", "": "0.0.0.0"}.get(host.strip("[]"), host.strip("[]"))
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quoted(command: Sequence[str]) -> str:
    """A command as ExecStart= takes it: `%` and `$` mean something there."""
    return shlex.join(part.replace("%", "%%").replace("$", "$$") for part in command)


_BY = "# Written by `install-service`; your own settings belong into a drop-in (systemctl edit).\n"

_HARDENED = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
UMask=0077"""

_MIGRATES = "# A database of an earlier version is migrated at the start.\nTimeoutStartSec=15min\n"

_SERVICE = (
    _BY
    + """[Unit]
Description=Loradeck {what}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
User={user}
Group={user}
{state}
Restart=always
RestartSec=1
# Fed by its event loop: one that hangs is ended and started again. The lease of a hub has run out by then.
WatchdogSec=30
{start}LimitNOFILE=1048576

{common}
PrivateTmp=yes
CapabilityBoundingSet=
AmbientCapabilities=
DevicePolicy=closed
PrivateDevices=yes
PrivateUsers=yes
ProtectHome=yes
ProtectProc=invisible
ProcSubset=pid
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallFilter=@system-service
# It raises its own limit of open files, which is one of @resources: those stay.
SystemCallFilter=~@privileged
# No PrivateNetwork=, IPAddressDeny=: nodes and consoles link from anywhere. Narrow it in a drop-in.

[Install]
WantedBy=multi-user.target
"""
)

_AS_ITSELF = """\
User={user}
Group={user}
CapabilityBoundingSet=
AmbientCapabilities=
PrivateUsers=yes
SystemCallFilter=@system-service
SystemCallFilter=~@privileged"""

_AS_ROOT = """\
# Root, since `user` under [jobs] names whom executors run as: it becomes that user, and gives it files.
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_KILL
AmbientCapabilities=
SystemCallFilter=@system-service
SystemCallFilter=~@clock @cpu-emulation @debug @module @mount @obsolete @raw-io @reboot @swap"""

_AGENT = (
    _BY
    + """[Unit]
Description=Loradeck agent
Wants=network-online.target
After=network-online.target {router}.socket
Requires={router}.socket
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
{who}
{state}
Sockets={router}.socket
# Router, engines and executors outlive the agent, and the next one adopts them. To end all: systemctl stop
# {router}.socket loradeck-agent, then loradeck-agent stop.
KillMode=process
Restart=always
RestartSec=1
# Fed by its event loop. What it has started serves on while it is ended and started again.
WatchdogSec=30
LimitNOFILE=1048576

{common}
# Its own /tmp, which lives as long as an engine that uses it (systemd 257; `yes` empties it when the agent ends).
PrivateTmp=disconnected
ProtectHome={home}
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
# GPUs and nothing else; PrivateDevices= would hide them. NCCL looks up its addresses by AF_NETLINK.
DevicePolicy=closed
DeviceAllow=char-nvidia* rw
DeviceAllow=char-drm rw
DeviceAllow=char-kfd rw
# No MemoryDenyWriteExecute=: CUDA, Triton and PyTorch compile kernels at run time, in engines and executors.
# No ProtectProc=, ProcSubset=: it asks /proc/locks who holds a router's or an engine's lock, and names other users'
# processes that sit on a GPU.
# No PrivateNetwork=, IPAddressDeny=: callers and the hub are anywhere. Narrow it in a drop-in.

[Install]
WantedBy=multi-user.target
"""
)

_ROUTER = (
    _BY
    + """[Unit]
Description=Where Loradeck's router listens for callers
# It outlives agent and router: the kernel queues connections until a router accepts them.

[Socket]
ListenStream={listen}
BindIPv6Only=ipv6-only
Backlog=1024
NoDelay=yes
Service={agent}.service

[Install]
WantedBy=sockets.target
"""
)


Say = Callable[[str], None]

_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))


class ServiceFault(Fault):
    """A service cannot be installed. What was done before stays, and the same command goes on from there."""


def program(name: str) -> Path:
    """The program of this installation that a unit starts.

    Raises: ServiceFault: it is not there, or lies where no service may look.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise ServiceFault("no_program", f"there is no {path}", "", "install Loradeck with pip into this environment")
    if in_home(path):
        raise ServiceFault(
            "program_in_home",
            f"{path} lies in a home",
            "the service's own user may not look into it",
            "install Loradeck elsewhere, for example: python3 -m venv /opt/loradeck",
        )
    return path


def in_home(path: Path) -> bool:
    """Tells whether a path lies in a folder that ProtectHome= hides."""
    return any(path.is_relative_to(home) for home in _HOMES)


def closed_to(path: Path, user: str) -> Path | None:
    """Returns the first folder on the way to a file, or the file itself, that a user may not go through or read.

    By modes and groups alone, which a narrow umask leaves behind. None: none of them, or no such file.
    """
    account = pwd.getpwnam(user)
    groups = os.getgrouplist(user, account.pw_gid)
    for at in (*reversed(path.absolute().parents), path) if account.pw_uid and path.exists() else ():
        found = at.stat()
        shift = 6 if found.st_uid == account.pw_uid else 3 if found.st_gid in groups else 0
        if not found.st_mode >> shift & (1 if at.is_dir() else 4):
            return at
    return None


def install(files: Sequence[UnitFile], state: Path, user: str, say: Say, *, dry_run: bool) -> None:
    """Writes the files, makes the user, and enables the units; starts none. What is as it should be stays.

    `state`: the service's folder, made here where systemd does not make it.

    Raises: ServiceFault: `needs_root`, `no_systemd` or `systemd_failed`.
    """
    _check(dry_run)
    for file in files:
        same = file.path.exists() and file.path.read_text() == file.text
        say(f"{'unchanged' if same else 'would write' if dry_run else 'written'}: {file.path}")
        if not same and not dry_run:
            _write(file)
    accounts = [str(file.path) for file in files if file.path.suffix == ".conf"]
    units = [file.path.name for file in files if file.path.suffix != ".conf"]
    commands = [["systemd-sysusers", *accounts], ["systemctl", "daemon-reload"], ["systemctl", "enable", *units]]
    for command in commands:
        _run(command, say, dry_run=dry_run)
    if state.parent != Path("/var/lib") and not dry_run:
        owner = pwd.getpwnam(user)
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chown(state, owner.pw_uid, owner.pw_gid)
    say(f"start it: systemctl restart {' '.join(units[::-1])}")


def uninstall(files: Sequence[UnitFile], say: Say, *, dry_run: bool) -> None:
    """Stops the units and removes the files; state, users and settings stay. Raises: ServiceFault, as `install`."""
    _check(dry_run)
    there = [file.path for file in files if file.path.exists()]
    if not there:
        say("nothing is installed")
        return
    units = [path.name for path in there if path.suffix != ".conf"]
    if units:
        _run(["systemctl", "disable", "--now", *units], say, dry_run=dry_run)
    for path in there:
        say(f"{'would remove' if dry_run else 'removed'}: {path}")
        if not dry_run:
            path.unlink()
    _run(["systemctl", "daemon-reload"], say, dry_run=dry_run)


def _check(dry_run: bool) -> None:
    if dry_run:
        return
    if os.geteuid() != 0:
        raise ServiceFault(
            "needs_root", "only root installs services", "", "call it with sudo, or with --dry-run or --print to look"
        )
    if not Path("/run/systemd/system").is_dir():
        raise ServiceFault(
            "no_systemd",
            "systemd does not run this machine",
            "/run/systemd/system is not there",
            "use --print, and give the files to what does",
        )


def _write(file: UnitFile) -> None:
    staged = file.path.with_name(f".{file.path.name}.new")
    try:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        staged.write_text(file.text)
        staged.chmod(0o644)
        staged.rename(file.path)
    except OSError as error:
        raise ServiceFault("not_written", f"{file.path} cannot be written", error.strerror or "", "") from error


def _run(command: Sequence[str], say: Say, *, dry_run: bool) -> None:
    """Says a command, and runs it. Raises: ServiceFault: `no_systemd` or `systemd_failed`."""
    say(f"{'would run' if dry_run else 'run'}: {' '.join(command)}")
    if dry_run:
        return
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ServiceFault(
            "no_systemd", f"{command[0]} is not there", error.strerror or "", "install systemd"
        ) from error
    if done.returncode != 0:
        raise ServiceFault("systemd_failed", f"{' '.join(command)} failed", done.stderr.strip(), "see the reason above")
