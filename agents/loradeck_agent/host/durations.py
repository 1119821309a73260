"""How long the slow steps took on this node, the last time each was done: an engine's start, a fetch, a load.

The hub shows from these how long a way back would take, so only measured times are ever written.
"""

import json
import logging
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from loradeck.schemas.ids import Wire

log = logging.getLogger(__name__)


class Took(Wire):
    """Seconds, for one base. None: not timed here yet.

    `start_s`: from an engine's start until it answers. `fetch_s`: from the hub until an adapter lies on the disk
    here, verified. `load_s`: from there until the engine has answered its canaries as recorded.
    """

    start_s: float | None = None
    fetch_s: float | None = None
    load_s: float | None = None


_document: TypeAdapter[dict[str, Took]] = TypeAdapter(dict[str, Took])


class Measured:
    """Durations by digest of the base, kept in a file: a restarted agent still knows how long a cold start takes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._took: dict[str, Took] = {}
        try:
            self._took = _document.validate_json(file.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            log.warning("durations cannot be read and are measured again: %s: %s", file, error)

    def of(self, base: str | None) -> Took:
        """The durations that were measured for a base; all unknown where there are none."""
        return self._took.get(base, Took()) if base else Took()

    def note(
        self, base: str, *, start: float | None = None, fetch: float | None = None, load: float | None = None
    ) -> None:
        """Notes the seconds that a step has just taken; None leaves the known duration."""
        new = {"start_s": start, "fetch_s": fetch, "load_s": load}
        update = {name: round(seconds, 3) for name, seconds in new.items() if seconds is not None}
        self._took[base] = self.of(base).model_copy(update=update)
        staging = self._file.with_suffix(".new")
        try:  # lost with the machine it would be measured again, so it is not synced
            staging.write_text(json.dumps({digest: took.model_dump() for digest, took in self._took.items()}))
            staging.replace(self._file)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._file, error)
