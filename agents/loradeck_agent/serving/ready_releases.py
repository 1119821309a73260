"""Which releases one lifetime of an engine may be asked for: a small file for each engine, replaced whole.

It outlives the agent and counts for one boot of the engine. With it an agent that is started again asks an engine
that went on without it for nothing to be loaded twice; without it everything is loaded and verified anew.
"""

import logging
from pathlib import Path

from pydantic import ValidationError

from loradeck.schemas.ids import Digest, Wire
from loradeck_agent.host.state_folder import write_durably

log = logging.getLogger(__name__)


class ReadyReleases(Wire):
    """Releases that were verified in one lifetime of an engine, by release id.

    `loaded` are adapters that the engine holds, `merged` the releases of the weights that it runs.
    """

    boot: str = ""
    loaded: tuple[Digest, ...] = ()
    merged: tuple[Digest, ...] = ()


class ReadyFile:
    """Says in a file which releases one engine may be asked for. It is read once and has one writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._now = ReadyReleases()
        try:
            self._now = ReadyReleases.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            log.error("%s cannot be read, everything is loaded and verified anew: %s", path, error)

    def of(self, boot: str) -> ReadyReleases | None:
        """Reads the releases of one lifetime of the engine; None when the file is about another."""
        return self._now if boot and self._now.boot == boot else None

    def names(self, release: str) -> bool:
        """Tells whether the file names the release of an adapter."""
        return release in self._now.loaded

    def write(self, releases: ReadyReleases) -> None:
        """Replaces the file's content durably, unless it holds the same already. Blocks for the disk.

        Raises: OSError: the disk refused it; the old content stays.
        """
        if releases == self._now:
            return
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        write_durably(self._path, releases.model_dump_json().encode() + b"\n")
        self._now = releases
