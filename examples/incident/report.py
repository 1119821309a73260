"""The report: claims, each with its verdict, what was measured, and the reason where it did not hold."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from incident import verdict
from incident.verdict import EXIT_STATUS, Verdict
from loradeck.cli.shared.output import nearness
from loradeck.client import capacity_words as words
from loradeck.rules.quality.statistics import ALPHA, mcnemar
from loradeck.schemas.attestation import EvaluationReport
from loradeck.schemas.capacity import CapacityRow
from loradeck.schemas.ids import short
from loradeck.schemas.state import Preview, Readiness

NEEDED_IN_WINDOW = 20
"""Requests admitted within 100 ms either side of an acknowledgement that a move must be judged on."""

PROVEN = "proven"
REFUTED = ("failed", "listed")
"""Final states of a replica that its canaries did not prove."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The requests around one router's acknowledgement of one move, judged by their answers' tokens.

    `before` and `after`: requests admitted within 100 ms of the acknowledgement, on either side of it.
    """

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
    """One move as it was measured. Milliseconds; `flipped_ms` and `proven_ms` count from the commit.

    `of`: the number of the planned move that this one repeats or leads back to, because that one was made with too
    few requests around it; None for a planned move. A repeat has the kind of the move it repeats.
    """

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
    of: int | None = None

    @property
    def late(self) -> int:
        """Answers by the left release after an acknowledgement: counterexamples."""
        return sum(window.late for window in self.windows) + self.seen_late


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim with its verdict. `reasons`: counterexamples where it is broken, what is missing if inconclusive."""

    text: str
    verdict: Verdict
    measured: str
    reasons: tuple[str, ...] = ()


@dataclass
class Report:
    """Everything one run measured.

    `labels`: release id -> 'v3'. `replicas`: how many serve the tenant. `needed`: requests that must have been
    admitted within 100 ms of each acknowledgement of a planned move, or of one of its repeats.
    """

    labels: dict[str, str]
    replicas: int
    needed: int = NEEDED_IN_WINDOW
    moves: list[Move] = field(default_factory=list)
    previews: list[Preview] = field(default_factory=list)
    """Of each R, before the key."""
    claims: list[Claim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def claim(self, text: str, measured: str, *, against: Sequence[str] = (), missing: Sequence[str] = ()) -> None:
        """Adds a claim, judged by `verdict.of_claim` from what speaks against it and from what is missing."""
        reasons = tuple(against or missing)
        found = verdict.of_claim(against, missing)
        self.claims.append(Claim(text=text, verdict=found, measured=measured, reasons=reasons))

    @property
    def verdict(self) -> Verdict:
        """The verdict on the whole run."""
        return verdict.of_run(claim.verdict for claim in self.claims)

    @property
    def held(self) -> bool:
        """Whether every claim held."""
        return self.verdict is Verdict.HELD

    @property
    def exit_status(self) -> int:
        """The exit status that says the verdict."""
        return EXIT_STATUS[self.verdict]

    def missing_around(self, move: Move) -> list[str]:
        """The evidence that a move lacks, one reason a window; empty if there is enough."""
        if len(move.windows) != self.replicas:
            return [f"move {move.n}: {len(move.windows)} of {self.replicas} acknowledgements"]
        return [
            f"move {move.n} {window.node}: {window.total} requests, {window.after} of them after it"
            for window in move.windows
            if window.total < self.needed or (self.needed and not window.after)
        ]

    def judge_scores(self, v1: EvaluationReport, v2: EvaluationReport, v3: EvaluationReport) -> None:
        """Claims that v2 is better than v1 and v3 not fit to serve, by the same held-out items.

        v2 and v1 are compared on the items on which they differ, by McNemar's exact test, one-sided.
        """
        pairs = [(new.exact, old.exact) for new, old in zip(v2.items, v1.items, strict=True)]
        won, lost = pairs.count((True, False)), pairs.count((False, True))
        p = mcnemar(won, lost)
        scores = [f"{n} exact {r.exact}/{r.n} valid {r.valid}/{r.n}" for n, r in (("v1", v1), ("v2", v2), ("v3", v3))]
        against = ["v2 is not better"] if won <= lost else []
        against += ["v3 is fit to serve"] if v3.valid >= v3.n / 2 else []
        self.claim(
            "on held-out tickets v2 is better than v1, and v3 is not fit to serve",
            f"{', '.join(scores)}; v2 won {won} items and lost {lost}: p = {p:.2g}",
            against=against,
            missing=[f"v2 may be better by chance: p is above {ALPHA:g}"] if p > ALPHA else [],
        )

    def judge_moves(self, expected: int) -> None:
        """Turns the moves into claims, which never rest on nothing: the number of moves is a claim too.

        `expected`: planned moves; repeats come on top of them.
        """
        windows = [window for move in self.moves for window in move.windows]
        planned = [move for move in self.moves if move.of is None]
        extra = f" and {len(self.moves) - len(planned)} to repeat thin ones" if len(planned) < len(self.moves) else ""
        self.claim(
            f"{expected} moves committed",
            f"{len(planned)} moves{extra}",
            missing=[f"{len(planned)} of {expected} were made"] if len(planned) != expected else [],
        )
        self.claim(
            "every move flipped on every replica",
            _spread([m.flipped_ms for m in self.moves if m.flipped_ms is not None], "commit to flipped"),
            missing=[f"move {m.n} was not seen to flip everywhere" for m in self.moves if m.flipped_ms is None],
        )
        self._claim_proofs()
        thin = self._thin()
        least = min((w.total for w in windows), default=0)
        self.claim(
            f"at least {self.needed} requests admitted within 100 ms of each acknowledgement",
            f"{sum(w.total for w in windows)} requests around {len(windows)} acknowledgements, {least} at least",
            missing=thin if windows else ["no acknowledgement was seen"],
        )
        late = [f"move {m.n}: {m.late} late" for m in self.moves if m.late]
        after = sum(w.after for w in windows)
        self.claim(
            "after an acknowledgement nothing is answered by the left release (decided by tokens)",
            f"{sum(m.late for m in self.moves)} of {after}",
            against=late,
            missing=thin if after else ["no request was admitted after an acknowledgement"],
        )
        undecided = [f"{w.undecided} on {w.node}, move {m.n}" for m in self.moves for w in m.windows if w.undecided]
        judged = sum(w.total for w in windows)
        unjudged = [] if judged else ["no answer was judged"]
        self.claim(
            "every answer's tokens name one release",
            f"{sum(w.undecided for w in windows)} of {judged} undecided",
            against=undecided,
            missing=unjudged,
        )
        failed = [f"{w.failed} on {w.node}, move {m.n}" for m in self.moves for w in m.windows if w.failed]
        self.claim(
            "no request failed around a move",
            f"{sum(w.failed for w in windows)} failed",
            against=failed,
            missing=unjudged,
        )

    def judge_levels(self, rows: Sequence[CapacityRow], on_demand: str) -> None:
        """Claims that no R had to wait for a load, and notes what nodes hold at each level.

        `rows`: of pools and nodes, at the end. `on_demand`: the tenant whose route shares slots.
        """
        near = [f"R {n}: {nearness(preview)}" for n, preview in enumerate(self.previews, 1)]
        told = list(zip(near, (preview.readiness for preview in self.previews), strict=True))
        cold = [text for text, readiness in told if readiness not in (Readiness.RESIDENT, Readiness.UNKNOWN)]
        unknown = [text for text, readiness in told if readiness is Readiness.UNKNOWN]
        self.claim(
            "before each R its preview said that the target is resident (level device or host) on every replica",
            f"{len(near) - len(cold) - len(unknown)} of {len(near)}",
            against=cold,
            missing=unknown if near else ["no R was made"],
        )
        held = [
            f"{_place(r)} {words.of(r.device)} device, {words.of(r.host)} host, {words.count(r.disk)} disk"
            for r in rows
        ]
        asked = [f"{_place(r)} {words.share(r.hit_rate)} of {words.count(r.asked)}" for r in rows if r.asked]
        self.notes.append(f"Releases by level, with the slots: {'; '.join(held)}.")
        self.notes.append(f"{on_demand} is on demand; its requests that met a loaded release: {', '.join(asked)}.")

    def _claim_proofs(self) -> None:
        """The claim that every replica proved every move: one that says it could not is a counterexample."""
        levels = [(f"move {m.n} {name} {level}", level) for m in self.moves for name, level in sorted(m.levels.items())]
        short_of = [f"move {m.n} has {len(m.levels)} replicas" for m in self.moves if len(m.levels) != self.replicas]
        self.claim(
            "every move was proven on every replica by its tokens",
            _spread([m.proven_ms for m in self.moves if m.proven_ms is not None], "commit to proven"),
            against=[text for text, level in levels if level in REFUTED],
            missing=short_of + [text for text, level in levels if level not in (*REFUTED, PROVEN)],
        )

    def _thin(self) -> list[str]:
        """What is missing around planned moves of which no try, first or repeated, had enough requests."""
        missing: list[str] = []
        for move in (move for move in self.moves if move.of is None):
            tries = [move, *(one for one in self.moves if one.of == move.n and one.kind == move.kind)]
            lacks = [self.missing_around(one) for one in tries]
            if all(lacks):
                missing += [reason for lack in lacks for reason in lack]
        return missing

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
            number = f"{m.n}" if m.of is None else f"{m.n}*"
            lines.append(
                f"{number:>3} {m.kind:<9} {self.label(m.left):>4} > {self.label(m.to):<5} {m.commit_ms:>10.1f}"
                f" {_ms(m.flipped_ms):>8} {_ms(m.proven_ms):>8} {levels:<14}"
                f" {sum(w.total for w in m.windows):>9} {answered}"
            )
        if any(m.of is not None for m in self.moves):
            lines.append("    (* a repeat, or the way back to one, of a move that had too few requests around it)")
        lines += ["", *self.notes, "", "CLAIMS"]
        for claim in self.claims:
            lines.append(f" {_WORDS[claim.verdict]:<12}  {claim.text}")
            lines.append(f"               {claim.measured}")
            lines += [f"               {reason}" for reason in _few(claim.reasons)]
        held = sum(claim.verdict is Verdict.HELD for claim in self.claims)
        lines += ["", f"{held} of {len(self.claims)} claims held{_ENDINGS[self.verdict]}"]
        return "\n".join(lines)

    def label(self, release: str) -> str:
        """The release's label in the report, or its short id where it has none."""
        return self.labels.get(release, short(release))

    def write(self, path: Path) -> None:
        """Writes the report as JSON."""
        document: dict[str, Any] = {
            "verdict": self.verdict,
            "claims": [asdict(claim) for claim in self.claims],
            "moves": [asdict(move) for move in self.moves],
            "notes": self.notes,
        }
        path.write_text(json.dumps(document, indent=1) + "\n")


_WORDS = {Verdict.HELD: "held", Verdict.BROKEN: "BROKEN", Verdict.INCONCLUSIVE: "INCONCLUSIVE"}
_ENDINGS = {Verdict.HELD: "", Verdict.BROKEN: ": RED", Verdict.INCONCLUSIVE: ": INCONCLUSIVE"}


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _place(row: CapacityRow) -> str:
    return f"pool {row.name}" if row.pool else row.name


def _few(lines: Sequence[str]) -> list[str]:
    return [*lines[:4], *([f"and {len(lines) - 4} more"] if len(lines) > 4 else [])]


def _spread(values: Sequence[float], what: str) -> str:
    if not values:
        return f"{what}: never"
    ordered = sorted(values)
    return f"{what}: median {statistics.median(ordered):.1f} ms, worst {ordered[-1]:.1f} ms, n {len(ordered)}"
