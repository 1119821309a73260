"""Segments of the answer ledger as files: gzip of a head and rows, a line of JSON each (`schemas.ledger_segment`)."""

import zlib
from collections.abc import Iterable

from pydantic import ValidationError

from loradeck.artifacts.errors import BadArtifact
from loradeck.schemas.ledger_segment import SegmentHead

HEAD_BYTES = 128 << 10
"""Most bytes of a head, and of one row."""


def sealed(head: SegmentHead, rows: Iterable[bytes]) -> bytes:
    """The bytes of a segment. Equal content gives equal bytes. `rows`: lines of JSON without their ends."""
    text = b"\n".join([head.model_dump_json().encode(), *rows, b""])
    packer = zlib.compressobj(6, wbits=31)  # gzip, without a time
    return packer.compress(text) + packer.flush()


def head_of(segment: bytes) -> SegmentHead:
    """The head of a segment, of which no more than the beginning is unpacked. Raises: BadArtifact: `bad_segment`."""
    try:
        text = zlib.decompressobj(wbits=31).decompress(segment, HEAD_BYTES)
        return SegmentHead.model_validate_json(text.split(b"\n", 1)[0])
    except (zlib.error, ValidationError) as error:
        raise bad_segment(str(error)) from error


def bad_segment(why: str) -> BadArtifact:
    """The error about bytes that are no segment."""
    return BadArtifact("bad_segment", "this is no segment of the answer ledger", why[:300], "report it")
