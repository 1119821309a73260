"""Transfer of artifacts' files to and from the hub, streamed and checked against their SHA-256 on both ends."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import httpx

from loradeck.client.api import HubApi
from loradeck.client.backoff import Backoff
from loradeck.client.errors import ApiError, BlobDamaged, OutcomeUnknown
from loradeck.client.transport import AnswerLost
from loradeck.schemas.protocol import ROWS

PIECE = 1 << 20
"""Bytes read at a time."""

_ATTEMPTS = 5


def sha256_of(path: Path) -> tuple[str, int]:
    """Digest (hex) and size in bytes of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return digest.hexdigest(), file.tell()


async def has_blob(api: HubApi, sha256: str) -> bool:
    """Tells whether the hub holds a blob. Raises: ApiError, HubUnreachable: the hub refused, or was not reached."""
    try:
        answer = await api.transport.http.request("HEAD", f"blobs/{sha256}")
    except httpx.TransportError as error:
        raise api.transport.trouble(error) from None
    if answer.status_code == 404:
        return False
    if answer.is_success:
        return True
    # A HEAD has no body to say why; the same question as a GET has.
    await api.transport.request("GET", f"blobs/{sha256}")
    return True


async def upload(api: HubApi, path: Path, *, rows: bool = False) -> tuple[str, int]:
    """Uploads a file unless the hub has it; returns its SHA-256 (hex) and size in bytes.

    `rows`: it holds rows of a dataset or suite, which the hub seals as they arrive.

    Raises:
        BlobDamaged: the file was changed while it was being sent.
        ApiError, HubUnreachable: the hub refused, or was not reached.
        OutcomeUnknown: the answer was lost repeatedly. Repeating the upload is harmless.
    """
    sha256, size = await asyncio.to_thread(sha256_of, path)
    headers = {"content-length": str(size), "content-type": "application/octet-stream"} | ({ROWS: "1"} if rows else {})
    for attempt, pause in enumerate(Backoff(0.1, 2.0).pauses(), start=1):
        if await has_blob(api, sha256):
            return sha256, size
        try:
            with path.open("rb") as file:
                answer = await api.transport.http.put(
                    f"blobs/{sha256}",
                    content=_read(file, sha256, path),
                    headers=headers,
                    timeout=httpx.Timeout(60, connect=5),
                )
        except httpx.TransportError as error:
            trouble = api.transport.trouble(error)
            if not isinstance(trouble, AnswerLost):
                raise trouble from None
            if attempt == _ATTEMPTS:
                raise OutcomeUnknown(None, detail=trouble.detail) from None
            await asyncio.sleep(pause)
            continue
        if answer.is_success:
            return sha256, size
        raise api.transport.refusal(answer)
    raise AssertionError("the pauses never ends")


async def download(api: HubApi, sha256: str, target: Path) -> None:
    """Downloads a blob into `target` (0600), which appears only when it is complete, verified and durable.

    A broken connection resumes where it broke off.

    Raises:
        BlobDamaged: the received bytes have another digest; nothing was left behind.
        ApiError, HubUnreachable, AnswerLost: the hub refused, was not reached, or broke off repeatedly.
    """
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    digest = hashlib.sha256()
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for attempt, pause in enumerate(Backoff(0.1, 2.0).pauses(), start=1):
                try:
                    async for piece in api.transport.pieces(f"blobs/{sha256}", file.tell()):
                        digest.update(piece)
                        file.write(piece)
                    break
                except ApiError as error:
                    # A range that starts at the very end: all had arrived but the end of the answer.
                    if error.problem.status == 416 and digest.hexdigest() == sha256:
                        break
                    raise
                except AnswerLost:
                    if attempt == _ATTEMPTS:
                        raise
                    await asyncio.sleep(pause)
            if digest.hexdigest() != sha256:
                raise BlobDamaged(
                    "the received blob has another digest",
                    detail=f"{api.where}: asked for {sha256}, got {digest.hexdigest()}",
                    fix="run `loradeck audit verify`; the hub's artifact store may be damaged",
                )
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        part.rename(target)
        await asyncio.to_thread(_sync_folder, target.parent)
    finally:
        part.unlink(missing_ok=True)


async def _read(file: BinaryIO, sha256: str, path: Path) -> AsyncIterator[bytes]:
    digest = hashlib.sha256()
    while piece := await asyncio.to_thread(file.read, PIECE):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != sha256:
        raise BlobDamaged("the file was changed while it was being sent", detail=str(path), fix="send it again")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
