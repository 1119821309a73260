"""Blobs: the files of adapters, datasets and suites, under the SHA-256 of their content."""

import asyncio
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from loradeck.hub.access.auth import Caller
from loradeck.hub.access.routes import Guarded
from loradeck.hub.api.parameters import MakerOfEach, ReaderOfEach, ThisHub
from loradeck.hub.data.datasets import called
from loradeck.hub.hub import Hub
from loradeck.hub.log.audit import mark
from loradeck.rules.access import role_at
from loradeck.rules.errors import Refused
from loradeck.schemas.ids import Role
from loradeck.schemas.manifest import DatasetManifest, SuiteManifest
from loradeck.schemas.protocol import ROWS, SIGNED_URLS

LARGEST = 64 << 30
"""Bytes of one blob."""


class _BlobRoute(Guarded):
    body_bytes: ClassVar[Mapping[Role, int]] = {Role.RELEASER: LARGEST, Role.AGENT: LARGEST}


router = APIRouter(prefix="/v1", tags=["blobs"], route_class=_BlobRoute)

PIECE = 1 << 20
"""Bytes gathered before they go to the disk, in a thread of its own."""

DIRECT = 8 << 20
"""Bytes from which on a blob comes from the object store itself, for those who can follow."""

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@router.put("/blobs/{sha256}")
async def put(sha256: str, hub: ThisHub, request: Request, caller: MakerOfEach) -> dict[str, Any]:
    """Stores a file. Content that has another digest than its address is refused, and nothing of it is kept.

    A file that is here already is received like any other, so that nobody learns of it who does not have it.
    """
    hub.datasets.check_upload(sha256)
    length = request.headers.get("content-length")
    size = int(length) if length and length.isdecimal() else None
    lost = hub.lost_files.size_of(caller.node, sha256)  # of an adapter that this hub asked the node for

    def took(size: int) -> None:  # what a node was not asked for is counted; what people send is not
        if lost is None and caller.role is Role.AGENT and caller.node is not None:
            hub.uploads.take(caller.node, hub.queue.leases(caller.node), size)

    took(size or 0)
    if hub.store.reserve is not None:
        hub.store.reserve.check_upload(size or 0)
    limit, rows = LARGEST if lost is None else lost, ROWS in request.headers
    incoming = await asyncio.to_thread(hub.blobs.receive, sha256, size=size, limit=limit, rows=rows)
    with incoming:
        gathered = bytearray()
        async for chunk in request.stream():
            gathered += chunk
            if size is None:
                took(len(chunk))
            if len(gathered) >= PIECE:
                if hub.store.reserve is not None:
                    hub.store.reserve.check_upload()
                await asyncio.to_thread(incoming.write, bytes(gathered))
                gathered.clear()
        if gathered:
            await asyncio.to_thread(incoming.write, bytes(gathered))
        await asyncio.to_thread(incoming.keep)
    return {"sha256": sha256, "size": incoming.written}


@router.head("/blobs/{sha256}", response_class=Response)
async def head(sha256: str, hub: ThisHub, caller: ReaderOfEach) -> Response:
    """Tells whether a blob is here, and its size."""
    _check_read(hub, caller, sha256)
    size = await asyncio.to_thread(hub.blobs.size, sha256)
    return Response(headers={"content-length": str(size), "accept-ranges": "bytes"})


@router.get("/blobs/{sha256}", response_class=StreamingResponse)
async def get(sha256: str, hub: ThisHub, request: Request, caller: ReaderOfEach) -> Response:
    """A blob's bytes, or those of one Range. Rows are for releasers, and for nodes with a job on them.

    A read of rows is in the audit trail. An agent that can follow is sent to a signed URL of the object store, where
    there is one and the blob is large.
    """
    _check_read(hub, caller, sha256)
    if rows := hub.catalogue.rows_in.get(sha256):
        mark(request, rows_of=" ".join(sorted(rows)))
    blobs = hub.blobs
    size = await asyncio.to_thread(blobs.size, sha256)
    if SIGNED_URLS in request.headers and size >= DIRECT and (url := await asyncio.to_thread(blobs.signed, sha256)):
        return RedirectResponse(url, headers={"cache-control": "no-store"})
    start, stop, part = _range(request.headers.get("range"), size)
    headers = {"content-length": str(stop - start), "accept-ranges": "bytes", "etag": f'"{sha256}"'}
    if part:
        headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
    content = await asyncio.to_thread(blobs.open, sha256, start, stop)
    return StreamingResponse(content, 206 if part else 200, headers, "application/octet-stream")


def _check_read(hub: Hub, caller: Caller, sha256: str) -> None:
    """Checks that the caller may read a blob, by the documents that name it.

    Raises: Refused `unknown_blob`, the caller sees none of these; `forbidden`, it holds rows.
    """
    catalogue = hub.catalogue
    rows: dict[str, DatasetManifest | SuiteManifest] = {
        digest: catalogue.datasets.get(digest) or catalogue.suites[digest]
        for digest in catalogue.rows_in.get(sha256, ())
    }
    tenants = {manifest.tenant for manifest in rows.values()}
    of_adapters = {catalogue.adapters[digest].manifest.tenant for digest in catalogue.adapters_with.get(sha256, ())}
    if caller.node is not None and of_adapters and of_adapters.isdisjoint(_tenants_at(hub, caller.node)):
        raise Refused(
            "forbidden",
            "the file is of an adapter whose tenant has neither a route nor a job on this node",
            detail=caller.node,
            fix="place a route of the tenant there",
        )
    if caller.tenants is not None and not any(map(caller.sees, tenants | of_adapters)):
        raise Refused("unknown_blob", "there is no such blob", detail=sha256)
    if not rows or any(role_at(caller, tenant) is Role.RELEASER for tenant in tenants):
        return
    if caller.node is not None and not hub.queue.inputs(caller.node).isdisjoint(rows):
        return
    named = sorted(called(manifest) for manifest in rows.values() if caller.sees(manifest.tenant))
    raise Refused(
        "forbidden",
        f"rows of {' and '.join(named)} are read by a releaser, or by a node that holds the lease of a job on them",
        detail=f"{caller.actor} is {caller.role.value}",
        fix="ask a releaser",
    )


def _tenants_at(hub: Hub, name: str) -> set[str]:
    """The tenants that a node works for: by a pointer that it may answer for, a pin, or a job that it holds."""
    node = hub.fleet.nodes.get(name)
    if node is None:
        return set()
    keys = hub.tables.placed(hub.tables.table(node.labels, name)) | hub.withdrawals.on(name)
    return {tenant for tenant, _ in keys} | {pin.tenant for pin in node.pins} | hub.queue.tenants(name)


def _range(header: str | None, size: int) -> tuple[int, int, bool]:
    """(start, stop, whether it is a part) of a Range header; one that is not understood asks for everything.

    Raises: Refused `range_not_satisfiable`.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match[1] == match[2] == "":
        return 0, size, False
    if match[1] == "":
        start, stop = max(0, size - int(match[2])), size
    else:
        start = int(match[1])
        stop = min(size, int(match[2]) + 1) if match[2] else size
    if start >= stop:
        raise Refused("range_not_satisfiable", "the range lies beyond the blob", detail=f"{header}, {size} bytes")
    return start, stop, True
