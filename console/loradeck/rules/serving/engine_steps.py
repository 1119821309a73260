"""Tells by the steps that an engine counts that its model hangs, though its server says that it is well.

An engine's server and its model are often two processes or threads, so a GPU call that does not return leaves a server
that says it is well. Its counters of steps stand still then while requests are under way. That alone proves little,
since one step may be long: only an engine that stands still and does not answer a request for one token either counts
as one that hangs, which no step of less than nine seconds can look like.
"""

from dataclasses import dataclass

STILL_S = 5.0
"""Seconds without a step, while requests are under way, after which an engine is asked for one token. By the third look
of two seconds each it is, however late one of them is.
"""

PROBE_S = 4.0
"""Seconds within which it has to answer that."""

Steps = tuple[str, ...]
"""An engine's counters that change with each of its steps, as it writes them. They are only compared with others."""


@dataclass(slots=True)
class StepWatch:
    """The steps of one engine, as they were seen."""

    _steps: Steps | None = None
    _since: float = 0.0

    def look(self, now: float, steps: Steps | None, *, is_asked: bool) -> float | None:
        """Takes in what an engine has counted.

        Args:
            now: monotonic seconds.
            steps: its counters; None: it does not say.
            is_asked: requests are under way on it.

        Returns:
            Since when it makes no step, monotonic seconds, if that is STILL_S ago; None: it works, or nobody asks it.
        """
        if steps is None or not is_asked or steps != self._steps:
            self._steps, self._since = steps if is_asked else None, now
            return None
        return self._since if now - self._since >= STILL_S else None
