"""Blobs: whole, right and on disk, or not there at all."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from tests.unit.client.client_script import Script, problem

from loradeck.client.api import HubApi
from loradeck.client.blobs import download, upload
from loradeck.client.errors import ApiError, BlobDamaged, HubUnreachable, OutcomeUnknown
from loradeck.client.transport import AnswerLost

Hubs = Callable[..., HubApi]

DATA = bytes(range(256)) * 9000
SHA = hashlib.sha256(DATA).hexdigest()


class Pieces(httpx.AsyncByteStream):
    """A body that breaks off after `keep` bytes."""

    def __init__(self, data: bytes, keep: int | None = None) -> None:
        self.data = data
        self.keep = keep

    async def __aiter__(self) -> AsyncIterator[bytes]:
        end = len(self.data) if self.keep is None else self.keep
        for at in range(0, end, 50_000):
            yield self.data[at : min(at + 50_000, end)]
        if self.keep is not None:
            raise httpx.ReadError("broke off")


def served(keep: int | None = None, data: bytes = DATA) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        return httpx.Response(206 if start else 200, stream=Pieces(data[start:], keep))

    return answer


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_blob_arrives_whole_and_only_for_its_owner(hub_of: Hubs, tmp_path: Path) -> None:
    target = tmp_path / "blob"
    await download(hub_of(Script(served())), SHA, target)
    assert target.read_bytes() == DATA
    assert target.stat().st_mode & 0o777 == 0o600
    assert names_in(tmp_path) == ["blob"]


async def test_a_broken_download_goes_on_where_it_broke_off(hub_of: Hubs, tmp_path: Path) -> None:
    script = Script(served(keep=1_000_000), served(keep=600_000), served())
    target = tmp_path / "blob"
    await download(hub_of(script), SHA, target)
    assert target.read_bytes() == DATA
    assert [request.headers.get("range") for request in script.asked] == [None, "bytes=1000000-", "bytes=1600000-"]


async def test_bytes_of_another_digest_are_discarded(hub_of: Hubs, tmp_path: Path) -> None:
    target = tmp_path / "blob"
    with pytest.raises(BlobDamaged):
        await download(hub_of(Script(served(data=DATA[:-1] + b"!"))), SHA, target)
    assert names_in(tmp_path) == []


async def test_a_part_that_comes_as_the_whole_is_not_appended(hub_of: Hubs, tmp_path: Path) -> None:
    def whole(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Pieces(DATA))

    with pytest.raises(HubUnreachable):
        await download(hub_of(Script(served(keep=500_000), whole)), SHA, tmp_path / "blob")
    assert names_in(tmp_path) == []


async def test_a_download_that_keeps_breaking_ends_and_leaves_nothing(hub_of: Hubs, tmp_path: Path) -> None:
    with pytest.raises(AnswerLost):
        await download(hub_of(Script(*[served(keep=10)] * 5)), SHA, tmp_path / "blob")
    assert names_in(tmp_path) == []


async def test_an_unknown_blob_is_the_hubs_refusal(hub_of: Hubs, tmp_path: Path) -> None:
    with pytest.raises(ApiError):
        await download(hub_of(Script(problem(404, "unknown_blob"))), SHA, tmp_path / "blob")
    assert names_in(tmp_path) == []


async def test_what_the_hub_has_is_not_sent_again(hub_of: Hubs, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(DATA)
    script = Script(httpx.Response(200))
    assert await upload(hub_of(script), file) == (SHA, len(DATA))
    assert script.calls == [f"HEAD blobs/{SHA}"]


async def test_a_file_is_sent_with_its_digest_and_length(hub_of: Hubs, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(DATA)
    script = Script(httpx.Response(404), httpx.Response(201))
    await upload(hub_of(script), file)
    sent = script.asked[1]
    assert script.calls == [f"HEAD blobs/{SHA}", f"PUT blobs/{SHA}"]
    assert sent.headers["content-length"] == str(len(DATA))
    assert await sent.aread() == DATA


async def test_a_lost_answer_to_an_upload_is_looked_up_first(hub_of: Hubs, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(DATA)
    script = Script(httpx.Response(404), httpx.ReadError("x"), httpx.Response(200))
    await upload(hub_of(script), file)
    assert script.calls == [f"HEAD blobs/{SHA}", f"PUT blobs/{SHA}", f"HEAD blobs/{SHA}"]
    script = Script(*[httpx.Response(404), httpx.ReadError("x")] * 5)
    with pytest.raises(OutcomeUnknown):
        await upload(hub_of(script), file)


async def test_an_upload_the_hub_refuses_says_why(hub_of: Hubs, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(DATA)
    with pytest.raises(ApiError) as error:
        await upload(hub_of(Script(httpx.Response(404), problem(507, "disk_full"))), file)
    assert error.value.code == "disk_full"
