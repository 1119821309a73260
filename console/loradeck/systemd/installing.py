"""Writes the files of a service to this machine and has systemd read them, or takes them away. Needs root."""

import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from loradeck.schemas.fault import Fault
from loradeck.systemd.units import UnitFile

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
