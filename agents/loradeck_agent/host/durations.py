"""How long the slow steps take on this node: an engine's start the last time, a fetch and a load in the mean.

The hub shows from these how long a way back would take, so only measured times are ever written.
"""

import json
import logging
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from loradeck.schemas.ids import Wire

log = logging.getLogger(__name__)


NEWEST = 0.3
"""The weight of the newest fetch or load in the mean of their durations, so that a disturbed one counts little."""


class Took(Wire):
    """Seconds, for one base. None: not timed here yet.

    Of fetches and loads it is a mean in which the newest counts NEWEST. `start_s`: from an engine's start until it
    answers. `fetch_s`: from the hub until an adapter lies on the disk here, verified. `load_s`: from there until the
    engine has answered its canaries as recorded.
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
        known = self.of(base)
        new = {"start_s": start, "fetch_s": _mean(known.fetch_s, fetch), "load_s": _mean(known.load_s, load)}
        update = {name: round(seconds, 3) for name, seconds in new.items() if seconds is not None}
        self._took[base] = self.of(base).model_copy(update=update)
        staging = self._file.with_suffix(".new")
        try:  # lost with the machine it would be measured again, so it is not synced
            staging.write_text(json.dumps({digest: took.model_dump() for digest, took in self._took.items()}))
            staging.replace(self._file)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._file, error)


def _mean(known: float | None, newest: float | None) -> float | None:
    return newest if known is None or newest is None else known + NEWEST * (newest - known)
