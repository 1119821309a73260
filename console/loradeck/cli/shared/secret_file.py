"""Files that hold a token or a key: new, 0600, durable before the command reports success, removed when it fails."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from loradeck.cli.shared.exits import misused


@contextlib.contextmanager
def new_secret_file(path: Path) -> Iterator[Callable[[str], None]]:
    """Creates a new file (0600) and yields a function that writes the secret into it, durably.

    The file is created before the hub is asked for a secret, so that none is lost for want of it.

    Raises: CliError: it exists or cannot be created; nothing was asked of the hub.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise misused("this file exists already", where=str(path), fix="name a new file, or remove it") from None
    except OSError as error:
        raise misused("the file cannot be created", where=f"{path}: {error.strerror}", fix="name another") from None

    def write(secret: str) -> None:
        os.write(file, secret.encode() + b"\n")
        os.fsync(file)

    try:
        yield write
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
