"""Fetches an artifact's files from the hub into a folder of this node, whole and verified or not at all.

Hashes are compared in `loradeck.artifacts.hash_checks`.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from loradeck.artifacts import BadArtifact, installing
from loradeck.artifacts.errors import FULL
from loradeck.schemas.manifest import FileEntry
from loradeck_agent.host.errors import AgentError
from loradeck_agent.uplink.hub_api import HubApi

Inside = TypeVar("Inside")


def disk_error(error: OSError, where: Path) -> AgentError:
    """The error with a stable code for a write that the disk refused."""
    full = error.errno in FULL
    return AgentError(
        "disk_full" if full else "disk_error",
        "there is no room on the disk" if full else "the disk refused a write",
        f"{where}: {error.strerror or error}",
        "free some room; nothing was changed" if full else "look at the host's kernel log; nothing was changed",
    )


@contextmanager
def as_agent_error(where: Path) -> Iterator[None]:
    """Turns a fault of an artifact or a disk inside the block into an AgentError."""
    try:
        yield
    except BadArtifact as bad:
        raise AgentError(bad.code, bad.title, bad.detail, bad.fix) from bad
    except OSError as error:
        raise disk_error(error, where) from error


async def fetch(
    hub: HubApi,
    files: tuple[FileEntry, ...],
    target: Path,
    *,
    own: tuple[tuple[FileEntry, bytes], ...] = (),
    verify: Callable[[Path], None] = lambda _: None,
) -> None:
    """Fetches exactly these files into `target`, which must not exist, and makes them read-only.

    Args:
        own: files that are not fetched, with their content.
        verify: sees the staged folder, in a thread, before it gets its name.

    Raises: AgentError: `digest_mismatch` or `too_large` when the hub sent other bytes, `disk_full`, what `verify`
    found, or the hub's own code. `target` does not exist then.
    """
    everything = (*files, *(entry for entry, _ in own))
    with as_agent_error(target):
        async with _in_threads(installing(everything, target)) as staging:
            for entry in files:
                with staging.file(entry) as file:

                    def take(chunk: bytes, write: Callable[[bytes], None] = file.write) -> None:
                        with as_agent_error(target):  # not to be taken for a connection that failed
                            write(chunk)

                    await hub.blob(entry.sha256, take)
                    await asyncio.to_thread(file.finish, mode=0o400)
            for entry, content in own:
                with staging.file(entry) as file:
                    file.write(content)
                    await asyncio.to_thread(file.finish, mode=0o400)
            await asyncio.to_thread(verify, staging.folder)


@asynccontextmanager
async def _in_threads(blocking: AbstractContextManager[Inside]) -> AsyncIterator[Inside]:
    """Enters and leaves a context in threads, because it hashes and syncs files: a flip must not wait for that."""
    inside = await asyncio.to_thread(blocking.__enter__)
    try:
        yield inside
    except BaseException:
        await asyncio.to_thread(blocking.__exit__, *sys.exc_info())
        raise
    await asyncio.to_thread(blocking.__exit__, None, None, None)
