"""The rows in a segment of the answer ledger, which the hub reads; nodes only write them."""

import re
import zlib
from collections.abc import Container, Iterable, Iterator

from pydantic import ValidationError

from loradeck.artifacts.rows.ledger_segments import HEAD_BYTES, bad_segment
from loradeck.schemas.answer_ledger import LedgerRow
from loradeck.schemas.ledger_segment import SEGMENT_ROWS

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
