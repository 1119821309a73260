"""The units of the services, as text: one directive that is left out of the hardening says why.

`systemd-analyze security` scores them at most 2.0, which a test measures.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    return [
        UnitFile(USERS / f"{HUB}.conf", _user(HUB, "Loradeck hub", data)),
        UnitFile(
            SYSTEM / f"{HUB}.service",
            _SERVICE.format(
                what="hub", command=_quoted(command), user=HUB, state=_state(data), start=_MIGRATES, common=_HARDENED
            ),
        ),
    ]


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
    command = _quoted([str(program), "gateway", "--config", str(config)])
    text = _SERVICE.format(
        what="gateway", command=command, user=GATEWAY, state=_state(state), start="", common=_HARDENED
    )
    return [
        UnitFile(USERS / f"{GATEWAY}.conf", _user(GATEWAY, "Loradeck gateway", state)),
        UnitFile(SYSTEM / f"{GATEWAY}.service", text),
    ]


def printed(files: Sequence[UnitFile]) -> str:
    """The files one after the other, each under its path."""
    return "\n".join(f"# {file.path}\n{file.text}" for file in files)


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
