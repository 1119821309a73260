"""Proof that a frame is on the terminal before a key may act on it.

Written is not seen: over a slow link a frame may still be in a buffer. A terminal answers a cursor-position
request (`ESC [ 6 n`) only after it has drawn what came before, so each new frame is followed by one, and its
answer is the proof. A terminal that never answers is taken at the writer's word instead: everything up to the
frame's end has been accepted by the terminal's file.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

ANSWER_S = 1.0
"""A terminal that has not answered its first request for this long is one that never does."""


AGAIN_S = 2.0
"""An unanswered request is followed by another after this long: an answer may be lost, as when tmux reattaches."""

OPEN_REQUESTS = 20


@dataclass(frozen=True)
class Shown:
    """The part of a preview that a key would act on. Figures that merely tick are no part of it."""

    tenant: str
    route: str
    generation: int
    action: str
    target: str | None = None
    cancels: str | None = None
    asks: str | None = None


@dataclass(frozen=True)
class Frame:
    """The last frame written: its preview, and its question that waits for y. `seen_at`: None until proven."""

    shown: Shown | None = None
    question: int | None = None
    written_at: float = 0.0
    seen_at: float | None = None


@dataclass(eq=False)
class SeenFrames:
    """Follows frames from written to seen.

    `request` writes a cursor-position request after all output so far. `written` counts the characters handed to the
    terminal's writer, `accepted` those that the terminal's file has accepted.
    """

    _: KW_ONLY
    clock: Callable[[], float]
    request: Callable[[], None]
    written: Callable[[], int]
    accepted: Callable[[], int]
    _frame: Frame = field(default_factory=Frame, init=False)
    _end: int = field(default=0, init=False)
    _asked: deque[tuple[int, float]] = field(default_factory=deque, init=False)
    _number: int = field(default=0, init=False)
    _mine: int = field(default=0, init=False)
    _answers: bool = field(default=False, init=False)
    _silent: bool = field(default=False, init=False)

    def frame(self, shown: Shown | None, question: int | None) -> None:
        """A frame that shows this was handed to the writer."""
        if (shown, question) == (self._frame.shown, self._frame.question):
            return
        self._frame = Frame(shown, question, self.clock())
        self._end = self.written()
        if not self._silent:
            self._mine = self._number + 1
            self._ask()

    def answered(self) -> None:
        """The terminal answered the oldest open request."""
        self._answers = True
        self._silent = False
        if not self._asked:
            return
        number, _ = self._asked.popleft()
        if number >= self._mine and self._frame.seen_at is None:
            self._mark_seen()

    def look(self) -> Frame:
        """The last frame, and since when it is known to be seen."""
        if self._frame.seen_at is None:
            if not self._answers and self._asked and self.clock() - self._asked[0][1] > ANSWER_S:
                self._silent = True
                self._asked.clear()
            if self._silent and self.accepted() >= self._end:
                self._mark_seen()
            elif self._asked and self.clock() - self._asked[-1][1] > AGAIN_S and len(self._asked) < OPEN_REQUESTS:
                self._ask()
        return self._frame

    def _ask(self) -> None:
        self._number += 1
        self._asked.append((self._number, self.clock()))
        self.request()

    @property
    def waiting(self) -> bool:
        """Whether an answer of the terminal is outstanding."""
        return bool(self._asked)

    def _mark_seen(self) -> None:
        frame = self._frame
        self._frame = Frame(frame.shown, frame.question, frame.written_at, self.clock())
