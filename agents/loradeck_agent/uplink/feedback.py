"""Takes feedback, and counts of what is asked, from this node's routers to the hub."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from loradeck.schemas.fault import Fault
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import FEEDBACK_SUFFIX, INPUTS_SUFFIX
from loradeck_agent.uplink.hub_api import HubApi

if TYPE_CHECKING:
    from loradeck.schemas.feedback import FeedbackRow

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Seconds between two looks for feedback."""

STAGED_S = 600.0
"""Seconds after which a file that a router has begun to write is taken for one of a router that was killed."""

_NEVER = frozenset({"feedback_off", "forbidden", "unknown_tenant", "invalid_request", "too_large"})
"""Refusals of a hub that will not take the same feedback later either: it is dropped, and so said in the log."""

_OF_A_ROW = frozenset({"invalid_request", "too_large"})
"""Refusals that a single row can bring upon a whole batch."""


@dataclass(eq=False)
class FeedbackSender:
    """Gives the hub the files of a folder, oldest first, a batch of one tenant at a time."""

    folder: Path
    hub: HubApi
    counts: Path
    """The folder of counts: a file whose answer was lost is given again, and counts twice."""
    _warned: str = field(default="", init=False)

    async def run(self) -> None:
        """Sends what there is, for ever."""
        while True:
            try:
                await self.send()
                await self.send_counts()
                self._warned = ""
            except (OSError, Fault) as error:
                if str(error) != self._warned:
                    log.warning("feedback waits here: %s", error)
                self._warned = str(error)
            await asyncio.sleep(LOOK_S)

    async def send(self) -> None:
        """Sends everything that waits. Raises: AgentError: the hub does not take it now; OSError."""
        from loradeck.schemas.feedback import BATCH  # most nodes never have any: its models take a third of a megabyte

        self._sweep()
        by_tenant: dict[str, list[Path]] = {}
        for path in sorted(self.folder.glob(f"*{FEEDBACK_SUFFIX}")):
            by_tenant.setdefault(path.name.removesuffix(FEEDBACK_SUFFIX).partition(".")[2], []).append(path)
        full: AgentError | None = None
        for tenant, paths in by_tenant.items():
            try:
                for at in range(0, len(paths), BATCH):
                    await self._send(tenant, paths[at : at + BATCH])
            except AgentError as error:
                if error.code not in ("feedback_full", "key_unavailable"):
                    raise
                full = error  # of this tenant, and the others do not wait for it
        if full is not None:
            raise full

    async def send_counts(self) -> None:
        """Sends every file of counts. Raises: AgentError: the hub did not take one now, the first such; OSError."""
        first: AgentError | None = None
        for path in sorted(self.counts.glob(f"*{INPUTS_SUFFIX}")):
            tenant = path.name.removesuffix(INPUTS_SUFFIX).partition(".")[2]
            try:
                await self.hub.give_inputs(tenant, path.read_bytes())
            except AgentError as error:
                if isinstance(error, Unreachable):
                    raise
                if error.code not in _NEVER | {"inputs_off", "unknown_route", "not_found"}:  # a hub of before has none
                    first = first or error  # of this file, and the others do not wait for it
                    continue
                log.warning("counts of inputs of %s are dropped: %s", tenant, error)
            path.unlink(missing_ok=True)
        if first is not None:
            raise first

    def _sweep(self) -> None:
        """Removes what a router that was killed has left half written. Its caller was promised nothing."""
        for path in self.folder.glob(f".*{FEEDBACK_SUFFIX}.*"):
            if time.time() - path.stat().st_mtime > STAGED_S:
                path.unlink(missing_ok=True)

    async def _send(self, tenant: str, paths: list[Path]) -> None:
        from loradeck.schemas.feedback import FeedbackRows, FeedbackTaken

        rows = [row for path in paths if (row := _row(path)) is not None]
        try:
            if rows:
                body = FeedbackRows(rows=tuple(rows)).model_dump_json().encode()
                taken = FeedbackTaken.model_validate_json(await self.hub.give_feedback(tenant, body))
                for request, why in taken.refused:
                    log.warning("the hub refuses feedback of %s on %s: %s", tenant, request, why)
        except AgentError as error:
            if error.code not in _NEVER:
                raise
            if error.code in _OF_A_ROW and len(paths) > 1:  # the others are taken without it
                half = len(paths) // 2
                await self._send(tenant, paths[:half])
                await self._send(tenant, paths[half:])
                return
            which = f"{rows[0].kind} on {rows[0].request}" if len(rows) == 1 else f"{len(rows)} rows"
            log.warning("feedback of %s is dropped (%s): %s", tenant, which, error)
        for path in paths:
            path.unlink(missing_ok=True)


def _row(path: Path) -> FeedbackRow | None:
    from loradeck.schemas.feedback import FeedbackRow

    try:
        return FeedbackRow.model_validate_json(path.read_bytes())
    except ValidationError as error:
        log.error("%s is no feedback, and is dropped: %s", path.name, error)
        return None
