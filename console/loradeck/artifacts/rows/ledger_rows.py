"""Segments of the answer ledger as files: gzip of a head and rows, a line of JSON each (`schemas.answer_ledger`).

Nodes write them, and the hub reads their rows.
"""

import re
import zlib
from collections.abc import Container, Iterable, Iterator

from pydantic import ValidationError

from loradeck.artifacts.errors import BadArtifact
from loradeck.schemas.answer_ledger import SEGMENT_ROWS, LedgerRow, SegmentHead

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


TEXT_BYTES = 256 << 20
"""Most bytes of a segment that is unpacked. A node writes an eighth of it."""

_PIECE = 1 << 16
_REQUEST = re.compile(rb'"request": ?"([\x21-\x7e]{1,64}?)"')


def rows_of(pieces: Iterable[bytes], requests: Container[str]) -> Iterator[LedgerRow]:
    """Yields the rows of some requests in a segment, whose bytes come in pieces. All of it is unpacked, piece by piece.

    Raises: BadArtifact: `bad_segment`; what was yielded before is as good as the segment's digest.
    """
    for line in _lines(pieces):
        found = _REQUEST.search(line)
        if found is not None and found[1].decode() in requests:
            try:
                row = LedgerRow.model_validate_json(line)
            except ValidationError as error:
                raise bad_segment(str(error)) from error
            if row.request in requests:
                yield row


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest, seen, size = b"", 0, 0
    for text in _unpacked(pieces):
        size += len(text)
        *lines, rest = (rest + text).split(b"\n")
        seen += len(lines)
        if seen > SEGMENT_ROWS + 1 or len(rest) > HEAD_BYTES or size > TEXT_BYTES:
            raise bad_segment(
                f"more than {SEGMENT_ROWS} rows, {TEXT_BYTES >> 20} MiB, or a line of more than {HEAD_BYTES} bytes"
            )
        yield from lines


def _unpacked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    unpack = zlib.decompressobj(wbits=31)
    try:
        for piece in pieces:
            while piece:
                yield unpack.decompress(piece, _PIECE)
                piece = unpack.unconsumed_tail
        yield unpack.flush()
    except zlib.error as error:
        raise bad_segment(str(error)) from error
    if not unpack.eof:
        raise bad_segment("it ends too soon")
