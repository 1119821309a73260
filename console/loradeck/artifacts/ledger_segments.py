"""Segments of the answer ledger as files: gzip of a head and rows, a line of JSON each (`schemas.answer_ledger`)."""

import gzip
import zlib
from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from loradeck.artifacts.errors import BadArtifact
from loradeck.schemas.answer_ledger import SEGMENT_ROWS, LedgerRow, SegmentHead

_HEAD_BYTES = 128 << 10
_PIECE = 1 << 16


def sealed(head: SegmentHead, rows: Iterable[bytes]) -> bytes:
    """The bytes of a segment. Equal content gives equal bytes. `rows`: lines of JSON without their ends."""
    text = b"\n".join([head.model_dump_json().encode(), *rows, b""])
    return gzip.compress(text, compresslevel=6, mtime=0)


def head_of(segment: bytes) -> SegmentHead:
    """The head of a segment, of which no more than the beginning is unpacked. Raises: BadArtifact: `bad_segment`."""
    try:
        text = zlib.decompressobj(wbits=31).decompress(segment, _HEAD_BYTES)
        return SegmentHead.model_validate_json(text.split(b"\n", 1)[0])
    except (zlib.error, ValidationError) as error:
        raise _bad(str(error)) from error


def rows_of(pieces: Iterable[bytes], request: str) -> Iterator[LedgerRow]:
    """Yields the rows of one request in a segment, whose bytes come in pieces. All of it is unpacked, piece by piece.

    Raises: BadArtifact: `bad_segment`; what was yielded before is as good as the segment's digest.
    """
    wanted = b'"' + request.encode() + b'"'
    for line in _lines(pieces):
        if wanted in line:
            try:
                row = LedgerRow.model_validate_json(line)
            except ValidationError as error:
                raise _bad(str(error)) from error
            if row.request == request:
                yield row


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest, seen = b"", 0
    for text in _unpacked(pieces):
        *lines, rest = (rest + text).split(b"\n")
        seen += len(lines)
        if seen > SEGMENT_ROWS + 1 or len(rest) > _HEAD_BYTES:
            raise _bad(f"more than {SEGMENT_ROWS} rows, or a line of more than {_HEAD_BYTES} bytes")
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
        raise _bad(str(error)) from error
    if not unpack.eof:
        raise _bad("it ends too soon")


def _bad(why: str) -> BadArtifact:
    return BadArtifact("bad_segment", "this is no segment of the answer ledger", why[:300], "report it")
