"""The messages that all nodes of one table share."""

from __future__ import annotations

import json
from typing import Any

from loradeck.hub.fleet.node_tables import NodeTables


def body(frame: bytes) -> dict[str, Any]:
    """The JSON of a short text frame."""
    found: dict[str, Any] = json.loads(frame[frame.index(b"{") :])
    return found


def test_a_message_of_an_earlier_epoch_is_not_sent_again_after_a_recover() -> None:
    tables = NodeTables(None, None)  # type: ignore[arg-type]  # without an entry nothing is looked up
    table = tables.table({})
    sent = [
        body(tables.desired(table, epoch=epoch, rev=rev, hash_="0" * 64, position=None, prev_rev=0, keys=None))
        for epoch, rev in ((1, 7), (2, 7), (2, 8))
    ]
    assert [(one["epoch"], one["rev"]) for one in sent] == [(1, 7), (2, 7), (2, 8)]
