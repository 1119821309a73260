"""Tuning of Python's garbage collector: full collections run after nodes have linked or left, not while they stay.

A full collection with thousands of linked nodes takes longer than a move may wait, and finds nothing as long as none of
them leaves: messages have no cycles.
"""

import gc
import logging
import time

log = logging.getLogger("loradeck.hub.links.gc_tuning")

THRESHOLDS = (20_000, 50, 100)
"""Arguments of `gc.set_threshold`. A fleet that answers at once has thousands of messages under way: with the usual 700
objects the collector would go through the same ones again and again."""

FEW = 100
"""Links that may open and end before a full collection is worth its time; in a large fleet a tenth of the links."""


class GcTuning:
    """Counts links that open and end, and decides when a full collection runs.

    Objects that survive it are frozen: the collector does not look at them until the next one.
    """

    def __init__(self) -> None:
        self._changed = self._before = 0

    def freeze(self) -> None:
        """Freezes all objects there are: once everything is loaded."""
        gc.set_threshold(*THRESHOLDS)
        gc.freeze()

    def changed(self) -> None:
        """A link was opened or has ended."""
        self._changed += 1

    def tick(self, links: int) -> None:
        """Runs a full collection once links no longer change; called once a second with the number of links."""
        quiet, self._before = self._changed == self._before, self._changed
        if not quiet or self._changed < max(FEW, links // 10):
            return
        self._changed = self._before = 0
        began = time.monotonic()
        gc.unfreeze()  # what links that have ended left behind is in there too
        found = gc.collect()
        gc.freeze()
        log.info("collected objects=%d links=%d ms=%.0f", found, links, (time.monotonic() - began) * 1000)
