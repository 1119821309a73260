"""The votes on live releases: the units of requests that routers report, and the evidence that they give together."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import NamedTuple

from loradeck.hub.progress.request_counts import LARGEST, CountedRow, Stint
from loradeck.hub.progress.router_reports import ReportedSecond, RouterClock, RouterReports
from loradeck.hub.progress.steps import Steps, UnitSums
from loradeck.rules.quality.cause import CallersShare
from loradeck.rules.quality.detection import (
    HORIZON_S,
    KEPT_S,
    OVERDUE_LIMIT,
    ROLLBACK_LEVEL,
    SLOW_LIMIT,
    SPARE,
    Detector,
    Limits,
    alert_level,
    evidence_since_move,
    flag_level,
    flag_limit,
    late,
    rollback_limit,
)
from loradeck.rules.quality.guard import Arms, Control, Evidence, compared
from loradeck.rules.quality.health import FIGURES, OVERDUE, Units, breach_of_votes, seen, total
from loradeck.schemas.counts import (
    STEP_S,
    TOKEN_BUCKETS_MS,
    TTFT_BUCKETS_MS,
    AskedAgain,
    Counts,
    SecondOfVotes,
    Traffic,
)
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.judge import JUDGE

FIRST_TOKENS, FURTHER_TOKENS = "first tokens", "further tokens"

CORRECTED = "corrected"
"""The figure of feedback that says that an answer was not right."""


@dataclass(slots=True)
class _AskedAgainBy:
    """The counts of one replica on a release that is asked again: `last` in this life of its router, and `before`."""

    node: str
    boot: str
    last: AskedAgain
    before: AskedAgain

    def take(self, boot: str, counts: AskedAgain, admitted: int) -> None:
        """Takes the router's newest counts, unless they cannot be.

        What has grown since the last report need not add up by itself: a pair is counted when both of its answers have
        ended, which for those in flight at the last report is after it.
        """
        same = counts.release == self.last.release
        last = self.last if same and boot == self.boot else AskedAgain(release=counts.release)
        if not counts.adds_up or not counts.asked <= admitted <= LARGEST or _has_fallen(counts, last):
            return
        before = AskedAgain(release=counts.release) if not same else self.total if boot != self.boot else self.before
        if max(before.asked, before.shed, counts.shed) <= LARGEST:
            self.boot, self.last, self.before = boot, counts, before

    @property
    def total(self) -> AskedAgain:
        """It in all this time."""
        return _added(self.before, self.last)


def _forget(seconds: dict[int, Units], now: int) -> None:
    for at in [at for at in seconds if at < now - HORIZON_S]:
        del seconds[at]


def _has_fallen(counts: AskedAgain, last: AskedAgain) -> bool:
    """Tells whether a count is below what it was. Within one life of a router no count falls."""
    return any(
        (
            counts.asked < last.asked,
            counts.shed < last.shed,
            counts.pairs < last.pairs,
            counts.checked < last.checked,
            *(now < before for now, before in zip(counts.failed, last.failed, strict=True)),
            *(now < before for now, before in zip(counts.bad, last.bad, strict=True)),
        )
    )


def _added(one: AskedAgain, other: AskedAgain) -> AskedAgain:
    return AskedAgain(
        release=one.release,
        asked=one.asked + other.asked,
        shed=one.shed + other.shed,
        pairs=one.pairs + other.pairs,
        failed=(one.failed[0] + other.failed[0], one.failed[1] + other.failed[1]),
        checked=one.checked + other.checked,
        bad=(one.bad[0] + other.bad[0], one.bad[1] + other.bad[1]),
    )


@dataclass(slots=True)
class _StintVotes:
    limits: Limits
    since: int = 0
    """The hub's second from which votes count: a person has lifted a breach then."""
    lift: int = 0
    reports: dict[str, RouterReports] = field(default_factory=dict)
    again: dict[str, _AskedAgainBy] = field(default_factory=dict)
    """Replica -> what the release beneath, or a shadow, made of its requests."""
    noise: dict[str, _AskedAgainBy] = field(default_factory=dict)
    """Replica -> what the stint's own release made of requests that it was asked twice."""
    detectors: dict[str, Detector] = field(default_factory=dict)
    since_move: dict[str, Detector] = field(default_factory=dict)
    late: dict[str, Detector] = field(default_factory=dict)
    """What is promised in time -> the evidence that it comes late."""
    noticed: dict[str, Detector] = field(default_factory=dict)
    """Check that makes no answer bad -> the evidence that it notices more than it may."""
    feedback: dict[str, Detector] = field(default_factory=dict)
    """What callers say -> the evidence that they say it more often than is promised."""
    totals: dict[str, dict[str, Units]] = field(default_factory=dict)
    """Figure -> node -> its units in all this time."""
    replicas: dict[str, Steps] = field(default_factory=dict)
    """Replica -> its units of the last ten minutes."""
    recent: dict[str, dict[str, dict[int, Units]]] = field(default_factory=dict)
    """Check that makes no answer bad -> node -> second -> its units of the last minute."""

    def begin(self, lift: int, since: int) -> None:
        """Begins without evidence."""
        self.lift, self.since = lift, since
        self.limit(self.limits)
        by_figure = zip(FIGURES, self.limits[:2], strict=True)
        self.since_move = {figure: Detector(rollback_limit(share), restarting=False) for figure, share in by_figure}
        self.totals = {figure: {} for figure in (*FIGURES, OVERDUE)}
        self.replicas, self.recent = {}, {}

    def limit(self, limits: Limits) -> None:
        """Takes other limits. What speaks against the release now is looked at anew; what has since its move, stays."""
        self.limits, by_figure = limits, zip(FIGURES, limits[:2], strict=True)
        self.detectors = {figure: Detector(flag_limit(share), restarting=True) for figure, share in by_figure}
        self.detectors[OVERDUE] = Detector(OVERDUE_LIMIT, restarting=True)
        promised = {FIRST_TOKENS: limits.ttft_ms, FURTHER_TOKENS: limits.token_ms}
        self.late = {what: Detector(SLOW_LIMIT, restarting=True) for what, ms in promised.items() if ms is not None}
        shares = dict.fromkeys(limits.watched, limits.noticed)
        if limits.judged is not None and JUDGE in shares:
            shares[JUDGE] = limits.judged
        self.noticed = {name: Detector(flag_limit(share), restarting=True) for name, share in shares.items()}
        share = limits.corrected
        self.feedback = {} if share is None else {CORRECTED: Detector(flag_limit(share), restarting=True)}

    def add(self, node: str, replica: str, at: int, grown: UnitSums) -> None:
        """Adds units of a second, and what has become of units of that second since: that, or what is overdue."""
        steps = self.replicas.get(replica)
        if steps is None:
            steps = self.replicas[replica] = Steps()
        steps.add(at, grown)
        for figure in (OVERDUE,) if grown.decided or grown.overdue else FIGURES:
            bad, units = grown.of(figure)
            self.detectors[figure].add(at, units, bad)
            if figure in self.since_move:
                self.since_move[figure].add(at, units, bad)
            k, n = self.totals[figure].get(node, (0, 0))
            self.totals[figure][node] = (k + min(bad, n + units - k), n + units)

    def notice(self, node: str, at: int, check: str, units: int, noticed: int) -> None:
        """Adds units of a second whose answers are checked, and how many of that second a check has noticed."""
        self.noticed[check].add(at, units, self.keep(node, at, check, units, noticed))

    def keep(self, node: str, at: int, figure: str, units: int, bad: int) -> int:
        """Adds units of a second to those of a node's last minute. Returns how many of the bad ones count.

        Those do not that were admitted before what counts began, and turned out to be bad since.
        """
        seconds = self.recent.setdefault(figure, {}).setdefault(node, {})
        k, n = seconds.get(at, (0, 0))
        bad = min(bad, n + units - k)
        seconds[at] = (k + bad, n + units)
        if at - next(iter(seconds)) > KEPT_S:  # nobody may ask for hours
            _forget(seconds, max(seconds))
        return bad

    def by_replica(self, since: int, now: int) -> dict[str, UnitSums]:
        """Replica -> its units from a second on, of the last ten minutes at most."""
        sums = {replica: steps.since(since, now) for replica, steps in self.replicas.items()}
        return {replica: units for replica, units in sums.items() if units.units}

    def by_node(self, figure: str, since: int, now: int) -> dict[str, Units]:
        """Node -> its units of a figure from a second on, of the last ten minutes at most."""
        by_node: dict[str, Units] = {}
        for replica, units in self.by_replica(since, now).items():
            node = self.reports[replica].node
            by_node[node] = total((by_node.get(node, (0, 0)), units.of(figure)))
        return by_node

    def noticed_by_node(self, check: str, now: int) -> dict[str, Units]:
        """Node -> its units of the last minute that a check has noticed which makes none bad."""
        recent = self.recent.get(check, {})
        for seconds in recent.values():
            _forget(seconds, now)
        return {node: total(seconds.values()) for node, seconds in recent.items()}

    def units_on(self, node: str, now: int) -> int:
        """The units of a node's last minute."""
        return self.by_node("errors", now - HORIZON_S, now).get(node, (0, 0))[1]

    def callers(self, figure: str, placed: Iterable[str]) -> int:
        """Different callers with bad units of a figure, at least, whichever node is not believed.

        Where a router does not count by caller, all callers that it has seen count. `placed`: as for `seen`.
        """
        by_node: dict[str, int] = {}
        for reports in self.reports.values():
            bins = {caller for (_, caller), (_, sums) in reports.by_caller.items() if sums.of(figure)[0]}
            callers = len(bins) if reports.by_caller else reports.callers
            by_node[reports.node] = max(by_node.get(reports.node, 0), callers)
        return seen(by_node, placed)

    def callers_share(self, figure: str, since: int, now: int) -> CallersShare | None:
        """The units by bins of callers, of the steps since a second that have bad ones; None: no router names any."""
        by_bin: dict[int, Units] = {}
        begin = max(since - since % STEP_S, self.since)
        named = [
            (replica, caller, at, sums.of(figure))
            for replica, reports in self.reports.items()
            for (_, caller), (at, sums) in reports.by_caller.items()
            if at + STEP_S > begin
        ]
        if not named:
            return None
        everybody: dict[str, Units] = {}
        for replica, at in {(replica, at) for replica, _, at, _ in named}:  # in other steps nobody is named
            steps = self.replicas.get(replica)
            sums = steps.between(at, at + STEP_S, now) if steps is not None else UnitSums()
            everybody[replica] = total((everybody.get(replica, (0, 0)), sums.of(figure)))
        there: dict[tuple[str, int], Units] = {}
        for replica, caller, _, units in named:
            there[replica, caller] = total((there.get((replica, caller), (0, 0)), units))
        for (replica, caller), (bad, n) in there.items():  # a caller has no more than all callers of a replica together
            most_bad, most = everybody[replica]
            by_bin[caller] = total((by_bin.get(caller, (0, 0)), (min(bad, most_bad), min(n, most))))
        return CallersShare(by_bin, total(everybody.values()))


class Raised(NamedTuple):
    """A figure that speaks against a release enough to flag it.

    `limit`: the share that it is above. `since`: the second of the hub since when it does.
    """

    figure: str
    limit: float
    since: int


NEIGHBOURS = 64
"""Other tenants on one replica that a release is compared with at most."""

MOST_LOOKS = 1_000
"""Looks at the tenants of a replica that are remembered, each for the second in which it was taken."""


@dataclass(eq=False)
class Votes:
    """Votes by pointer and stint. Only the newest stints of a pointer are kept."""

    _limits: Callable[[PointerKey], Limits]
    _clock: Callable[[], float]
    dropped: dict[str, int] = field(default_factory=dict, init=False)
    """Node -> units of its reports that came too late to count."""
    _stints: dict[PointerKey, dict[Stint, _StintVotes]] = field(default_factory=dict, init=False)
    _clocks: dict[str, RouterClock] = field(default_factory=dict, init=False)
    _served: dict[str, dict[PointerKey, None]] = field(default_factory=dict, init=False)
    """Replica -> the pointers that it has had units of, those first that it had first."""
    _looked: dict[tuple[str, int], tuple[int, dict[str, UnitSums]]] = field(default_factory=dict, init=False)
    """(replica, first second) -> when its tenants were looked at, and the units of each since."""

    def counted(self, node: str, boot: str, rows: Iterable[Traffic]) -> CountedRow:
        """Returns the callback that takes each accepted row of a node's report and its growth since the last report.

        `rows`: of the whole report, by whose newest second the clocks are compared: a quiet route may have an old one.
        """
        now, clock = floor(self._clock()), self._clocks.get(node)
        if clock is None or clock.boot != boot:
            clock = self._clocks[node] = RouterClock(boot)
        newest = max((second for row in rows if row.callers for second, *_ in row.votes), default=None)
        if newest is not None:
            clock.compare(now, newest)

        def count(row: Traffic, growth: Counts, ttft: Sequence[int], pace: Sequence[int]) -> str:
            before = self.dropped.get(node, 0)
            stint_votes = self._count(node, clock, now, row, growth)
            for what, grown, bounds, promised in (
                (FIRST_TOKENS, ttft, TTFT_BUCKETS_MS, stint_votes.limits.ttft_ms),
                (FURTHER_TOKENS, pace, TOKEN_BUCKETS_MS, stint_votes.limits.token_ms),
            ):
                if promised is not None and grown and min(grown) >= 0:
                    stint_votes.late[what].add(now, *late(grown, bounds, promised))
            dropped = self.dropped.get(node, 0) - before
            if not dropped:
                return ""
            return f"{dropped} requests of {row.tenant}/{row.route} were reported too late to judge its release by them"

        return count

    def _count(self, node: str, clock: RouterClock, now: int, row: Traffic, growth: Counts) -> _StintVotes:
        key, stint = (row.tenant, row.route), (row.generation, row.release)
        stints = self._stints.setdefault(key, {})
        stint_votes = stints.get(stint)
        if stint_votes is None:
            for old in [s for s in stints if s[0] < row.generation]:
                del stints[old]
            stint_votes = stints[stint] = _StintVotes(self._limits(key))
            stint_votes.begin(0, 0)
        reports = stint_votes.reports.get(row.replica)
        if reports is None or reports.boot != clock.boot:
            reports = stint_votes.reports[row.replica] = RouterReports(node, clock.boot)
        self._served.setdefault(row.replica, {}).setdefault(key)
        offset = (clock.offset or 0) if row.callers else 0  # `_of` gives seconds of the hub
        reports.sampling |= stint_votes.noticed.keys() & row.asked_votes.keys()
        for votes in row.votes if row.callers else _of(growth, reports, now):
            second, units, failed, sampled, bad = votes
            at, known = reports.seconds.get(second) or ReportedSecond(second + offset, (second, 0, 0, 0, 0))
            if second not in reports.seconds and second < reports.newest - KEPT_S:
                known = reports.late.get(second, votes)  # what it had when it was forgotten has counted
            grown = UnitSums(units - known[1], failed - known[2], sampled - known[3], bad - known[4])
            if min(grown) < 0 or not bad <= sampled <= units <= LARGEST or failed > units:
                continue  # no count of anything
            reports.put(second, ReportedSecond(at, votes))
            reports.newest = max(reports.newest, second)
            if at < now - HORIZON_S:
                if grown.units:
                    self.dropped[node] = self.dropped.get(node, 0) + grown.units
                elif (grown.failed or grown.bad) and at >= stint_votes.since:
                    stint_votes.add(node, row.replica, now, _late(grown))
            elif at >= stint_votes.since:
                stint_votes.add(node, row.replica, at, grown)
                for check in stint_votes.noticed.keys() - reports.sampling:
                    stint_votes.notice(node, at, check, grown.checked, 0)
        if row.caller_votes and row.votes:
            reports.count_callers(row.caller_votes, offset, now)
        if row.overdue_votes and clock.offset is not None:
            self._count_overdue(stint_votes, reports, clock.offset, now, row)
        self._count_noticed(stint_votes, reports, now, row)
        self._count_asked(stint_votes, reports, now, row)
        reports.callers = row.callers
        for twice, known_twice in ((row.again, stint_votes.again), (row.noise, stint_votes.noise)):
            if twice is not None:
                nothing = AskedAgain(release=twice.release)
                of_replica = known_twice.setdefault(row.replica, _AskedAgainBy(node, clock.boot, nothing, nothing))
                of_replica.take(clock.boot, twice, row.admitted)
        reports.forget()
        return stint_votes

    @staticmethod
    def _count_overdue(stint_votes: _StintVotes, reports: RouterReports, offset: int, now: int, row: Traffic) -> None:
        """Counts units in the second in which it was decided whether they are overdue."""
        for second, n, overdue in row.overdue_votes:
            at, k, m = reports.overdue.get(second, (second + offset, 0, 0))
            is_lately = now - HORIZON_S <= at <= now + 1 and at >= stint_votes.since
            if is_lately and k <= overdue <= n <= LARGEST and n >= m:
                reports.overdue[second] = at, overdue, n
                grown = UnitSums(decided=n - m, overdue=overdue - k)
                stint_votes.add(reports.node, row.replica, min(at, now), grown)
        oldest = now - KEPT_S
        reports.overdue = {second: known for second, known in reports.overdue.items() if known[0] >= oldest}

    @staticmethod
    def _count_noticed(stint_votes: _StintVotes, reports: RouterReports, now: int, row: Traffic) -> None:
        for check in stint_votes.noticed.keys() & row.noticed_votes.keys() - reports.sampling:
            for second, n in row.noticed_votes[check]:
                reported = reports.counted(second, max(stint_votes.since, now - HORIZON_S))
                if reported is None:
                    continue
                grown = n - reports.noticed.get((second, check), 0)
                if grown > 0 and n <= reported.votes[3]:
                    reports.noticed[second, check] = n
                    stint_votes.notice(reports.node, reported.at, check, 0, grown)

    @staticmethod
    def _count_asked(stint_votes: _StintVotes, reports: RouterReports, now: int, row: Traffic) -> None:
        """Counts what checks have noticed that see only some of the units, beside the units that they were asked of."""
        for check in stint_votes.noticed.keys() & row.asked_votes.keys():
            for second, n, noticed in row.asked_votes[check]:
                reported = reports.counted(second, max(stint_votes.since, now - HORIZON_S))
                if reported is None:
                    continue
                known = reports.asked.get((second, check), (0, 0))
                if known[0] <= noticed <= n <= reported.votes[3] and n >= known[1]:
                    reports.asked[second, check] = noticed, n
                    stint_votes.notice(reports.node, reported.at, check, n - known[1], noticed - known[0])

    def add_feedback(self, key: PointerKey, stint: Stint, node: str, *, corrected: bool) -> None:
        """Adds what a caller said of an answer, over a node. It counts in the second in which the hub heard of it."""
        stint_votes, now = self._stints.get(key, {}).get(stint), floor(self._clock())
        if stint_votes is not None and CORRECTED in stint_votes.feedback:
            stint_votes.feedback[CORRECTED].add(now, 1, int(corrected))
            stint_votes.keep(node, now, CORRECTED, 1, int(corrected))

    def slow(self, key: PointerKey, stint: Stint) -> tuple[str, ...]:
        """Says what of a release's answers comes later than its route promises; (): nothing."""
        stint_votes, second = self._stints.get(key, {}).get(stint), floor(self._clock())
        if stint_votes is None or not stint_votes.late:
            return ()
        alerts = len(stint_votes.late) + len(stint_votes.noticed) + len(stint_votes.feedback)
        level = alert_level(len(self._stints), alerts)
        return tuple(what for what, detector in stint_votes.late.items() if detector.reaches(level, second))

    def drift(self, key: PointerKey, stint: Stint, placed: Callable[[], Iterable[str]]) -> tuple[str, ...]:
        """Says which checks that make no answer bad notice more of a release than they may, and whether its callers
        correct more; (): none does.

        `placed`: gives the nodes that the pointer is placed on.
        """
        stint_votes, second = self._stints.get(key, {}).get(stint), floor(self._clock())
        alerts = stint_votes.noticed | stint_votes.feedback if stint_votes is not None else {}
        if stint_votes is None or not alerts:
            return ()
        level, checks = alert_level(len(self._stints), len(stint_votes.late) + len(alerts)), []
        for check, detector in alerts.items():
            if detector.reaches(level, second):
                judged = breach_of_votes(check, stint_votes.noticed_by_node(check, second), placed(), detector.limit)
                checks.append(str(judged.breach) if judged.breach is not None else f"{check}, by {judged.alone} alone")
        return tuple(checks)

    def raised(self, key: PointerKey, stint: Stint, lift: int, *, stands: bool) -> Raised | None:
        """Tells which figure speaks against a release enough to flag it; None: neither does.

        Args:
            lift: the flag that a person has lifted last; votes from before that do not count.
            stands: it is flagged already, which ends only when SPARE nats of what has flagged it are gone.
        """
        stint_votes = self._stints.get(key, {}).get(stint)
        if stint_votes is None:
            return None
        limits, second = self._limits(key), floor(self._clock())
        if limits != stint_votes.limits:
            stint_votes.limit(limits)
        if lift != stint_votes.lift:
            stint_votes.begin(lift, second)
        level = flag_level(len(self._stints))
        for figure, detector in stint_votes.detectors.items():
            if detector.reaches(level, second) or (stands and detector.evidence(second) >= level - SPARE):
                since = detector.change_point(second)
                return Raised(figure, detector.limit, second if since is None else since)
        return None

    def begin_anew(self, key: PointerKey, stint: Stint) -> None:
        """Drops the evidence by which a stint may be flagged."""
        stint_votes = self._stints.get(key, {}).get(stint)
        if stint_votes is not None:
            stint_votes.limit(stint_votes.limits)

    def flag_limit(self, key: PointerKey, figure: str) -> float:
        """The share of one figure above which a release of a pointer is flagged."""
        if figure == OVERDUE:
            return OVERDUE_LIMIT
        return flag_limit(dict(zip(FIGURES, self._limits(key)[:2], strict=True))[figure])

    def by_replica(self, key: PointerKey, stint: Stint, since: int) -> dict[str, UnitSums]:
        """Replica -> a stint's units that were admitted from a second of the hub on, of ten minutes at most."""
        stint_votes = self._stints.get(key, {}).get(stint)
        return stint_votes.by_replica(since, floor(self._clock())) if stint_votes is not None else {}

    def by_node(self, key: PointerKey, stint: Stint, figure: str, since: int) -> dict[str, Units]:
        """Node -> a stint's units of a figure that were admitted from a second on, of ten minutes at most."""
        stint_votes = self._stints.get(key, {}).get(stint)
        return stint_votes.by_node(figure, since, floor(self._clock())) if stint_votes is not None else {}

    def units_since_begin(self, key: PointerKey, stint: Stint, figure: str) -> Units:
        """A stint's units of a figure since the hub knows it, or since the last lift."""
        stint_votes = self._stints.get(key, {}).get(stint)
        return total(stint_votes.totals[figure].values()) if stint_votes is not None else (0, 0)

    def callers(self, key: PointerKey, stint: Stint, figure: str, since: int) -> CallersShare | None:
        """A stint's units by bins of callers from a second on; None: its routers do not count the figure by caller."""
        stint_votes = self._stints.get(key, {}).get(stint)
        if stint_votes is None or figure == OVERDUE:
            return None
        return stint_votes.callers_share(figure, since, floor(self._clock()))

    def control(self, key: PointerKey, stint: Stint, figure: str, other: str, placed: Iterable[str]) -> Control | None:
        """Compares a stint with another release that was asked the same; None: no pair of answers is known."""
        stint_votes = self._stints.get(key, {}).get(stint)
        if stint_votes is None:
            return None
        return compared(_pairs(stint_votes.again.values(), figure, other), placed)

    def neighbours(
        self, tenant: str, replicas: Mapping[str, str], figure: str, since: int
    ) -> dict[str, dict[str, Units]]:
        """Returns the units of a figure of each other tenant on some replicas, by node, from a second on.

        Of each replica the NEIGHBOURS that it has answered for longest are looked at. `replicas`: replica -> its node.
        """
        by_node: dict[str, dict[str, Units]] = {}
        for replica, node in replicas.items():
            there = by_node.setdefault(node, {})
            for neighbour, units in self._tenants_on(replica, since).items():
                if neighbour != tenant:
                    there[neighbour] = total((there.get(neighbour, (0, 0)), units.of(figure)))
        return by_node

    def _tenants_on(self, replica: str, since: int) -> dict[str, UnitSums]:
        now = floor(self._clock())
        looked, by_tenant = self._looked.get((replica, since), (0, {}))
        if looked == now:
            return by_tenant
        if len(self._looked) > MOST_LOOKS:
            self._looked.clear()
        by_tenant = {}
        for key in list(self._served.get(replica, ())):
            steps = [one.replicas[replica] for one in self._stints.get(key, {}).values() if replica in one.replicas]
            if not steps:
                del self._served[replica][key]
            for one in steps:
                if (units := one.since(since, now)).units:
                    by_tenant[key[0]] = by_tenant.get(key[0], UnitSums()).plus(units)
            if len(by_tenant) > NEIGHBOURS:
                break
        self._looked[replica, since] = now, by_tenant
        return by_tenant

    def last_minute(self, key: PointerKey, stint: Stint, figure: str) -> dict[str, Units]:
        """Node -> its units of the last minute of one figure, 'bad' or 'errors'."""
        return self.by_node(key, stint, figure, floor(self._clock()) - HORIZON_S)

    def units(self, key: PointerKey, stint: Stint) -> int | None:
        """Counts the units among a stint's requests of the last minute; None: no router has reported any."""
        units = self.last_minute(key, stint, "errors")
        return total(units.values())[1] if units else None

    def last_minute_on(self, node: str, key: PointerKey, stint: Stint) -> int:
        """Counts the requests that a node has answered or failed in the last minute."""
        stint_votes = self._stints.get(key, {}).get(stint)
        return stint_votes.units_on(node, floor(self._clock())) if stint_votes is not None else 0

    def guard_limit(self, key: PointerKey, figure: str) -> float:
        """The share of one figure, 'bad' or 'errors', above which guard rolls a release of a pointer back."""
        return rollback_limit(dict(zip(FIGURES, self._limits(key)[:2], strict=True))[figure])

    def asked_again(self, key: PointerKey, stint: Stint, other: str) -> AskedAgain | None:
        """The answers of another release, or once more of its own, to a stint's requests, on all replicas; None: it was
        asked none again.
        """
        stint_votes = self._stints.get(key, {}).get(stint)
        total = AskedAgain(release=other)
        if stint_votes is not None:
            for again in (stint_votes.noise if other == stint[1] else stint_votes.again).values():
                if again.last.release == other:
                    total = _added(total, again.total)
        return total if total.asked or total.shed else None

    def of_shadow(
        self, key: PointerKey, stint: Stint, shadow: str, placed: Callable[[], Iterable[str]]
    ) -> Evidence | None:
        """Returns what speaks against a candidate that nobody gets, by what it was asked too; None: too little.

        The pairs count in the order of their admission, so that the evidence may be taken from their sums at any time.

        Args:
            stint: the live release's, whose requests it was asked.
            placed: gives the nodes that the pointer is placed on.
        """
        stint_votes = self._stints.get(key, {}).get(stint)
        if stint_votes is None:
            return None
        for figure, since in stint_votes.since_move.items():
            pairs = _pairs(stint_votes.again.values(), figure, shadow)
            arms = {node: (its, live) for node, (live, its) in pairs.items()}
            by_node = {node: its for node, (its, _) in arms.items()}
            votes = total(by_node.values())
            if (nats := evidence_since_move(votes, since.limit)) >= ROLLBACK_LEVEL:
                judged = breach_of_votes(figure, by_node, placed(), since.limit)
                return Evidence(
                    figure=figure,
                    votes=votes,
                    control=compared(arms, placed(), is_paired=True),
                    callers=None,
                    nats=nats,
                    alone=judged.alone if judged.breach is None else "",
                )
        return None

    def since_move(
        self,
        key: PointerKey,
        stint: Stint,
        control: Stint | None,
        placed: Callable[[], Iterable[str]],
        *,
        beneath: Callable[[], str | None] = lambda: None,
    ) -> Evidence | None:
        """Returns what speaks for rolling back a release since its move; None: too little.

        Args:
            control: the stint that answers beside it.
            placed: gives the nodes that the pointer is placed on.
            beneath: gives the release that is compared with it where nothing answers beside it: R goes there.
        """
        stints, second = self._stints.get(key, {}), floor(self._clock())
        stint_votes, beside = stints.get(stint), stints.get(control) if control is not None else None
        if stint_votes is None:
            return None
        for figure, detector in stint_votes.since_move.items():
            nats = detector.evidence(second)
            if nats < ROLLBACK_LEVEL:
                continue
            by_node = stint_votes.totals[figure]
            judged = breach_of_votes(figure, by_node, placed(), detector.limit)
            if beside is not None:
                others = beside.totals[figure]
                nodes = by_node.keys() | others.keys()
                arms = {node: (by_node.get(node, (0, 0)), others.get(node, (0, 0))) for node in nodes}
            else:
                arms = _pairs(stint_votes.again.values(), figure, beneath())
            return Evidence(
                figure=figure,
                votes=total(by_node.values()),
                control=compared(arms, placed(), is_paired=beside is None),
                callers=stint_votes.callers(figure, placed()),
                nats=nats,
                alone=judged.alone if judged.breach is None else "",
            )
        return None


def _pairs(replicas: Iterable[_AskedAgainBy], figure: str, other: str | None) -> dict[str, Arms]:
    """Node -> the units of a stint and of another release, of the pairs that both have answered."""
    arms: dict[str, Arms] = {}
    for again in replicas:
        pairs = again.total
        if again.last.release == other:
            bad, n = (pairs.bad, pairs.checked) if figure == "bad" else (pairs.failed, pairs.pairs)
            known = arms.get(again.node, ((0, 0), (0, 0)))
            arms[again.node] = total((known[0], (bad[0], n))), total((known[1], (bad[1], n)))
    return arms


def _late(grown: UnitSums) -> UnitSums:
    """Counts what turns out so late that its units have counted as good, as units of the second that runs.

    Each counts once more, and badly. A bet on a share p that is above the limit q is worth (1 - p) / (1 - q) of itself
    after the first time, and 1 + p - q times that after both on average, which is less than 1. So it stays a fair one.
    """
    bad = grown.bad
    return UnitSums(max(grown.failed, bad), grown.failed, bad, bad)


def _of(growth: Counts, reports: RouterReports, now: int) -> list[SecondOfVotes]:
    """Votes of a router that sends none: what has ended since its last report, each request a unit."""
    _, (_, units, failed, sampled, bad) = reports.seconds.get(now) or ReportedSecond(now, (now, 0, 0, 0, 0))
    over = max(0, growth.failed) + max(0, growth.finished)
    units, checked = units + over, min(over, max(0, growth.checked))
    return [(now, units, failed + max(0, growth.failed), sampled + checked, bad + min(checked, max(0, growth.bad)))]
