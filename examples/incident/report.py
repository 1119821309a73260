"""The report: claims, each with what was measured, and whether it held."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from loradeck.schemas.ids import short

NEEDED_IN_WINDOW = 20
"""Requests admitted within 100 ms either side of an acknowledgement that a move must be judged on."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The requests around one router's acknowledgement of one move, judged by their answers' tokens."""

    node: str
    before: int = 0
    after: int = 0
    answered_by: dict[str, int] = field(default_factory=dict)
    late: int = 0
    """Admitted after the acknowledgement, answered by the left release."""
    undecided: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        return self.before + self.after


@dataclass(frozen=True, kw_only=True)
class Move:
    n: int
    kind: str
    left: str
    to: str
    generation: int
    commit_ms: float
    flipped_ms: float | None
    proven_ms: float | None
    levels: dict[str, str]
    windows: tuple[Window, ...]
    seen_late: int
    """Requests sent after the caller's console said FLIPPED and answered by the left release."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    text: str
    held: bool
    measured: str


@dataclass
class Report:
    """Everything one run measured. `labels`: release id -> 'v3'."""

    labels: dict[str, str]
    replicas: int
    moves: list[Move] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def claim(self, text: str, held: bool, measured: str) -> None:
        self.claims.append(Claim(text=text, held=held, measured=measured))

    @property
    def held(self) -> bool:
        return bool(self.claims) and all(claim.held for claim in self.claims)

    def judge_moves(self, expected: int, *, needed: int = NEEDED_IN_WINDOW) -> None:
        """Turn the moves into claims. Not one of them may rest on nothing: counts are claims too.

        `needed`: requests that must have been admitted within 100 ms of each acknowledgement.
        """
        windows = [window for move in self.moves for window in move.windows]
        self.claim(f"{expected} moves committed", len(self.moves) == expected, f"{len(self.moves)} moves")
        unflipped = [m.n for m in self.moves if m.flipped_ms is None]
        self.claim(
            "every move flipped on every replica",
            not unflipped,
            _spread([m.flipped_ms for m in self.moves if m.flipped_ms is not None], "commit to flipped"),
        )
        unproven = [
            f"move {m.n} {name} {level}"
            for m in self.moves
            for name, level in sorted(m.levels.items())
            if level != "proven"
        ] + [f"move {m.n} has {len(m.levels)} replicas" for m in self.moves if len(m.levels) != self.replicas]
        proven = [m.proven_ms for m in self.moves if m.proven_ms is not None]
        self.claim(
            "every move was proven on every replica by its tokens",
            not unproven and len(proven) == len(self.moves),
            _few(unproven) or _spread(proven, "commit to proven"),
        )
        thin = [f"move {m.n} {w.node}: {w.total}" for m in self.moves for w in m.windows if w.total < needed]
        thin += [f"move {m.n}: {len(m.windows)} acks" for m in self.moves if len(m.windows) != self.replicas]
        least = min((w.total for w in windows), default=0)
        self.claim(
            f"at least {needed} requests admitted within 100 ms of each acknowledgement",
            bool(windows) and not thin,
            _few(thin) or f"{sum(w.total for w in windows)} requests around {len(windows)} acks, {least} at least",
        )
        late = sum(w.late for w in windows) + sum(m.seen_late for m in self.moves)
        after = sum(w.after for w in windows)
        self.claim(
            "after an acknowledgement nothing is answered by the left release (decided by tokens)",
            late == 0 and after > 0,
            f"{late} of {after}",
        )
        undecided = sum(w.undecided for w in windows)
        self.claim("every answer's tokens name one release", undecided == 0, f"{undecided} undecided")
        failed = sum(w.failed for w in windows)
        self.claim("no request failed around a move", failed == 0, f"{failed} failed")

    def text(self) -> str:
        """The report for people, at most 100 columns."""
        lines = ["", "MOVES  (milliseconds; flipped and proven from the commit; a promote prepares before it commits)"]
        lines.append(
            f"{'':>3} {'move':<9} {'':<12} {'key>commit':>10} {'flipped':>8} {'proven':>8}"
            f" {'levels':<14} {'in 200 ms':>9} {'answered by'}"
        )
        for m in self.moves:
            by: Counter[str] = Counter()
            for window in m.windows:
                by.update(window.answered_by)
            answered = ", ".join(f"{self.labels.get(r, short(r))} {n}" for r, n in by.most_common())
            levels = ", ".join(f"{n} {level}" for level, n in Counter(m.levels.values()).items())
            lines.append(
                f"{m.n:>3} {m.kind:<9} {self.label(m.left):>4} > {self.label(m.to):<5} {m.commit_ms:>10.1f}"
                f" {_ms(m.flipped_ms):>8} {_ms(m.proven_ms):>8} {levels:<14}"
                f" {sum(w.total for w in m.windows):>9} {answered}"
            )
        lines += ["", *self.notes, "", "CLAIMS"]
        for claim in self.claims:
            lines.append(f" {'held  ' if claim.held else 'BROKEN'}  {claim.text}")
            lines.append(f"         {claim.measured}")
        broken = sum(1 for claim in self.claims if not claim.held)
        lines.append("")
        lines.append(f"{len(self.claims) - broken} of {len(self.claims)} claims held" + (": RED" if broken else ""))
        return "\n".join(lines)

    def label(self, release: str) -> str:
        return self.labels.get(release, short(release))

    def write(self, path: Path) -> None:
        document: dict[str, Any] = {
            "held": self.held,
            "claims": [asdict(claim) for claim in self.claims],
            "moves": [asdict(move) for move in self.moves],
            "notes": self.notes,
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _few(lines: Sequence[str]) -> str:
    return "; ".join(lines[:4]) + (f"; and {len(lines) - 4} more" if len(lines) > 4 else "")


def _spread(values: Sequence[float], what: str) -> str:
    if not values:
        return f"{what}: never"
    ordered = sorted(values)
    return f"{what}: median {statistics.median(ordered):.1f} ms, worst {ordered[-1]:.1f} ms, n {len(ordered)}"
