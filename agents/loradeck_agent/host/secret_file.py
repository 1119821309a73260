"""Reads secrets from files that only their owner may read, so that none stands in a command line or a log."""

import os
import stat
from pathlib import Path

from loradeck_agent.host.errors import ConfigError


def read_secret(path: Path, what: str, fix: str) -> str:
    """Reads the one word in a file of mode 0600.

    Args:
        what: name of the secret, for the error ("token").
        fix: how to make one.

    Raises: ConfigError: `<what>_unreadable`, `<what>_mode` (others may read it), `<what>_empty`.
    """
    try:
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what}_unreadable", f"cannot read the {what} file {path}", str(error), fix) from error
    check_mode(path, what)
    if not secret or any(c.isspace() for c in secret):
        raise ConfigError(f"{what}_empty", f"the {what} file {path} holds no single {what}", "", f"make a new {what}")
    return secret


def check_mode(path: Path, what: str) -> None:
    """Raises ConfigError `<what>_mode` where others may read a secret file."""
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        raise ConfigError(
            f"{what}_mode", f"the {what} file {path} may be read by others", f"mode {mode:04o}", f"chmod 0600 {path}"
        )
