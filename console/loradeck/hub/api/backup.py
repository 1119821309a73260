"""Backup of the hub's database while it serves.

Artifacts are files that never change: any tool copies them.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from fastapi import APIRouter, Request
from pydantic import Field

from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import Local, ThisHub
from loradeck.hub.log.audit import mark
from loradeck.rules.errors import Refused
from loradeck.schemas.ids import Strict
from loradeck.schemas.responses import BackupMade
from loradeck.store.sql_log import Store

router = APIRouter(prefix="/v1", tags=["backup"], route_class=Guarded)


class BackupRequest(Strict):
    """Where a backup is written."""

    path: str = Field(min_length=1, description="absolute, on the hub's host; never an existing file")


@router.post("/backup")
async def backup(body: BackupRequest, hub: ThisHub, request: Request, caller: Local) -> BackupMade:
    """Writes a consistent copy of the database to a path of the hub's host, 0600. Moves are made meanwhile.

    Raises: Refused `invalid_request`, `exists`: nothing was written.
    """
    mark(request, path=body.path)
    path = Path(body.path)
    if not path.is_absolute():
        raise Refused("invalid_request", "the path of a backup is absolute", detail=body.path, fix="give a path from /")
    rev = hub.log.state.rev
    return BackupMade(path=body.path, rev=rev, size=await hub.store.long(partial(_copied, path)))


def _copied(path: Path, store: Store, between: Callable[[], None]) -> int:
    """Writes the copy. Returns its size in bytes."""
    if path.exists():
        raise Refused("exists", "a backup never replaces a file", detail=str(path), fix="name a new file")
    try:
        store.backup(str(path), between)
    except OSError as error:
        raise Refused(
            "invalid_request",
            "the backup cannot be written there",
            detail=f"{path}: {error.strerror or error}",
            fix="name a folder that the hub may write to, with room for its database",
        ) from None
    return path.stat().st_size
