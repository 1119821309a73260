"""Gives the hub what the routers of this node wrote in files: the answer ledger, feedback, and counts of what is asked.

FOLDER/chain.json               where each tenant's chain stands, and which file of rows was sealed last
FOLDER/N.TENANT.SEQ.segment     a segment that the hub does not have yet, in the order in which they were sealed

A file of rows of the ledger is sealed whole: its segments are durable first, then the chain, and then the file goes.
What an agent that was killed in between had begun is made again, over what it left.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows.ledger_rows import head_of, sealed
from loradeck.rules.clocks import DAY_MS
from loradeck.schemas.answer_ledger import SEGMENT_ROWS, SegmentHead
from loradeck.schemas.fault import Fault
from loradeck.schemas.ids import GENESIS, LARGEST_INT, Name
from loradeck_agent.host.errors import AgentError, Unreachable
from loradeck_agent.host.state_folder import FEEDBACK_SUFFIX, INPUTS_SUFFIX, StateFolder, write_durably
from loradeck_agent.router.ledger_files import COMPLETE, FOLDER_BYTES, OPEN, unlocked
from loradeck_agent.uplink.hub_api import HubApi

if TYPE_CHECKING:
    from loradeck.schemas.feedback import FeedbackRow

log = logging.getLogger(__name__)

LOOK_S = 15.0
"""Seconds between two looks for files of rows, and after a hub that did not take a segment."""

SPREAD_S = 300.0
"""Seconds over which the nodes of a fleet, whose hours all end at once, begin to send."""

_PIECE = 1000
"""Lines that are read at a time, between which the thread that carries out moves gets its turn."""

_BREATH_S = 0.001

_NEVER = frozenset({"bad_segment", "digest_mismatch", "too_large"})
"""Refusals of a hub that will refuse the same segment for ever."""

_CHAIN = "chain.json"
_SEGMENTS = "*.segment"
_SEGMENT = re.compile(r"\d+\.(?P<tenant>.+)\.(?P<seq>\d+)\.segment")
_name = TypeAdapter(Name)


class _Link(BaseModel):
    """The newest segment of one tenant."""

    seq: int = 0
    sha256: str = GENESIS


class _Chain(BaseModel):
    """Where the ledger of this node stands."""

    chain: str = Field(default_factory=lambda: secrets.token_hex(16))
    tenants: dict[str, _Link] = Field(default_factory=dict)
    count: int = 0
    lost: int = 0
    rows_of: str = ""
    """The file of rows that was sealed last."""


@dataclass
class _Rows:
    """One tenant's rows of a file."""

    lines: list[bytes] = field(default_factory=list)
    first_ms: int = 2**62
    last_ms: int = 0


@dataclass(eq=False)
class LedgerSegments:
    """Seals and sends. `builds` gives each replica's engine build, as it is now."""

    folder: StateFolder
    hub: HubApi
    node: str
    builds: Callable[[], Mapping[str, str]]
    _warned: str = field(default="", init=False)

    async def run(self) -> None:
        """Seals what is complete and sends what is sealed, for ever."""
        while True:
            for step in (self._seal_and_wait, self.send):  # a disk that is too full to seal gets room by sending
                try:
                    await step()
                except (OSError, Fault, ValueError) as error:
                    log.error("the answer ledger is held up: %s", error)
            await asyncio.sleep(LOOK_S)

    async def _seal_and_wait(self) -> None:
        if await asyncio.to_thread(self.seal):
            await asyncio.sleep(random.uniform(0, SPREAD_S))

    # ---- sealing -------------------------------------------------------------------------------------------

    def seal(self) -> int:
        """Makes segments of all complete files of rows. Returns how many files there were. Blocking."""
        found = sorted(self._complete())
        for path in found:
            self._seal(path)
        return len(found)

    def _complete(self) -> Iterator[Path]:
        rows = self.folder.ledger_rows
        yield from rows.glob(f"*{COMPLETE}")
        yield from (path for path in rows.glob(f"*{OPEN}") if unlocked(path))  # its router was killed

    def _seal(self, path: Path) -> None:
        chain = self._read_chain()
        if chain.rows_of != path.stem:
            by_tenant, lost = _rows_of(path)
            chain.lost += lost
            made: list[Path] = []
            try:
                for (tenant, _), rows in sorted(by_tenant.items()):
                    pieces = (rows.lines[at : at + SEGMENT_ROWS] for at in range(0, len(rows.lines), SEGMENT_ROWS))
                    made.extend(self._write(chain, tenant, rows, piece) for piece in pieces)
            except OSError:
                for part in made:  # or they would be sent, and made again under the same numbers
                    part.unlink()
                raise
            chain.rows_of = path.stem
            self._give_up_oldest(chain)
            write_durably(self._chain_file, chain.model_dump_json().encode())
        path.unlink(missing_ok=True)

    def _write(self, chain: _Chain, tenant: str, rows: _Rows, lines: Sequence[bytes]) -> Path:
        link = chain.tenants.setdefault(tenant, _Link())
        head = SegmentHead(
            node=self.node,
            tenant=tenant,
            chain=chain.chain,
            seq=link.seq + 1,
            prev=link.sha256,
            first_ms=rows.first_ms,
            last_ms=rows.last_ms,
            rows=len(lines),
            lost=chain.lost,
            builds=dict(self.builds()),
        )
        made = sealed(head, lines)
        chain.count += 1
        path = self.folder.ledger / f"{chain.count:012d}.{tenant}.{head.seq}.segment"
        write_durably(path, made)
        chain.tenants[tenant] = _Link(seq=head.seq, sha256=hashlib.sha256(made).hexdigest())
        return path

    def _give_up_oldest(self, chain: _Chain) -> None:
        """Removes the oldest segments that no hub took, until they have their room again, and counts their rows."""
        sizes = {path: path.stat().st_size for path in sorted(self.folder.ledger.glob(_SEGMENTS))}
        for path in sizes:
            if sum(sizes.values()) <= FOLDER_BYTES:
                return
            log.error("%s is given up: no hub took it, and the ledger's segments fill their room", path.name)
            self._drop(path, chain)
            sizes[path] = 0

    def _drop(self, path: Path, chain: _Chain) -> None:
        """Removes a segment that no hub has, and counts its rows as lost."""
        try:
            chain.lost += head_of(path.read_bytes()).rows
        except BadArtifact as error:
            log.error("how many rows %s had is not known: %s", path.name, error)
        path.unlink()

    @property
    def _chain_file(self) -> Path:
        return self.folder.ledger / _CHAIN

    def _read_chain(self) -> _Chain:
        try:
            return _Chain.model_validate_json(self._chain_file.read_bytes())
        except FileNotFoundError:
            pass
        except ValidationError as error:
            log.error("%s cannot be read, and a new chain begins: %s", self._chain_file, error)
        chain = _Chain()
        write_durably(self._chain_file, chain.model_dump_json().encode())
        return chain

    # ---- sending -------------------------------------------------------------------------------------------

    async def send(self) -> None:
        """Gives the hub what it does not have yet, oldest first, until there is nothing left or it does not take it."""
        for path in sorted(self.folder.ledger.glob(_SEGMENTS)):
            found = _SEGMENT.fullmatch(path.name)
            made = await asyncio.to_thread(path.read_bytes)
            try:
                if found is not None:
                    await self.hub.put_segment(found["tenant"], hashlib.sha256(made).hexdigest(), made)
            except AgentError as error:
                if error.code == "unknown_tenant":
                    continue  # the hub has lost some of its log, and may have it back
                if error.code not in _NEVER:
                    if str(error) != self._warned:
                        log.warning("segments of the answer ledger wait here: %s", error)
                    self._warned = str(error)
                    return
                log.error("the hub will never take %s, and it is dropped: %s", path.name, error)
                chain = self._read_chain()
                self._drop(path, chain)
                write_durably(self._chain_file, chain.model_dump_json().encode())
            path.unlink(missing_ok=True)
        self._warned = ""


def waiting_and_lost(folder: StateFolder) -> tuple[int, int]:
    """The segments that no hub has taken yet, and the rows that this node had to give up since its chain began."""
    try:
        chain = _Chain.model_validate_json((folder.ledger / _CHAIN).read_bytes())
    except (OSError, ValidationError):
        return 0, 0
    return len(list(folder.ledger.glob(_SEGMENTS))), chain.lost


def _rows_of(path: Path) -> tuple[dict[tuple[str, int], _Rows], int]:
    """The rows of a file by tenant and day, and how many were lost before them. A torn line counts as one that was.

    A day apart are rows of one file only where the node's clock was set; no segment spans more.
    """
    found: dict[tuple[str, int], _Rows] = defaultdict(_Rows)
    lost = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number % _PIECE == 0:
                time.sleep(_BREATH_S)
            tenant, _, rest = line.partition(b"\t")
            at, _, row = rest.partition(b"\t")
            try:
                if not tenant and rest:
                    lost += int(rest)
                    continue
                admitted_ms, name = int(at), tenant.decode()
                key = (name, admitted_ms // DAY_MS)
                if not row.endswith(b"}\n") or not 0 <= admitted_ms <= LARGEST_INT:
                    raise ValueError
                if key not in found:
                    _name.validate_python(name)
            except ValueError:
                lost += bool(line.strip())
                continue
            rows = found[key]
            rows.lines.append(row[:-1])
            rows.first_ms, rows.last_ms = min(rows.first_ms, admitted_ms), max(rows.last_ms, admitted_ms)
    return found, lost


FEEDBACK_LOOK_S = 5.0
"""Seconds between two looks for feedback."""

STAGED_S = 600.0
"""Seconds after which a file that a router has begun to write is taken for one of a router that was killed."""

_NEVER_TAKEN = frozenset({"feedback_off", "forbidden", "unknown_tenant", "invalid_request", "too_large"})
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
            await asyncio.sleep(FEEDBACK_LOOK_S)

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
                if error.code not in _NEVER_TAKEN | {
                    "inputs_off",
                    "unknown_route",
                    "not_found",
                }:  # a hub of before has none
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
            if error.code not in _NEVER_TAKEN:
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
