"""Files of feedback that a router took and the agent has yet to give the hub: one for each, its tenant in its name.

A caller is answered once its feedback is on the disk, and nothing of a completion waits for that.
"""

import asyncio
import logging
import os
import time
from itertools import count
from pathlib import Path

from loradeck.schemas.feedback import FeedbackRow
from loradeck_agent.host.state_folder import FEEDBACK_SUFFIX, write_durably
from loradeck_agent.router.admission import Refusal

log = logging.getLogger(__name__)

MOST = 10_000
"""Files that wait for the agent at most. A tenant may have as many of them as there is room left, so that none takes
all of it. Beyond that callers are told to come later.
"""

_FULL = Refusal(503, "feedback_full", "This node cannot keep more feedback now.", "Send it again later.", 60)


class FeedbackFiles:
    """Writes feedback to its folder, which is made where it is missing.

    `boot`: tells the files of this router from those of the one before it.
    """

    def __init__(self, folder: Path, boot: str) -> None:
        self._folder, self._boot, self._numbers = folder, boot, count()

    async def keep(self, tenant: str, row: FeedbackRow) -> Refusal | None:
        """Puts feedback on the disk. Returns why not, if it could not."""
        name = f"{time.time_ns() // 1_000_000:013d}-{self._boot}-{next(self._numbers)}.{tenant}{FEEDBACK_SUFFIX}"
        return await asyncio.to_thread(self._write, tenant, name, row.model_dump_json().encode())

    def _write(self, tenant: str, name: str, data: bytes) -> Refusal | None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            there = os.listdir(self._folder)
            own = sum(one.partition(".")[2] == f"{tenant}{FEEDBACK_SUFFIX}" for one in there)
            if own >= MOST - len(there):
                return _FULL
            write_durably(self._folder / name, data)
        except OSError as error:
            log.error("feedback is refused: the disk: %s", error)
            return _FULL
        return None
