"""The hub's state as consoles receive it: one row for each pointer, node and job, all facts, no prose.

Ages and `*_ms` differences are by the hub's monotonic clock at the time of the message; a console adds the time since
it received it.
"""

from enum import StrEnum

from pydantic import Field

from loradeck.schemas.attestation import GateResult
from loradeck.schemas.candidate import ArmsCompared
from loradeck.schemas.capacity import CapacityPlan
from loradeck.schemas.counts import AskedAgain, ColdFigures, Counts, WireCounts
from loradeck.schemas.ids import Digest, Label, Line, Name, OfPointer, Role, Strict, Whole, Wire, added
from loradeck.schemas.jobs import Job
from loradeck.schemas.judge import JUDGE, VERDICTS
from loradeck.schemas.link import JobRoom, JobsBackend
from loradeck.schemas.log import Event, EventKind, PointerState
from loradeck.schemas.lost_tail import LostRevs
from loradeck.schemas.manifest import Form
from loradeck.schemas.replica_state import AckLevel, AckState, EngineState
from loradeck.schemas.table import Gap, Pin
from loradeck.schemas.telemetry import Gpu, Host, NvmlState
from loradeck.schemas.training import TrainingProof


class ReleaseView(Wire):
    """A release with the labels that people recognise it by."""

    id: Digest
    form: Form
    label: str = Field(description="'v7', or 'base'")
    base: Digest
    base_label: str = Field(description="'B1': bases numbered in the order they were registered")
    adapter: Digest | None = None


class Readiness(StrEnum):
    """How near a release is to serving, on one replica or at worst over all placed ones."""

    RESIDENT = "resident"  # loaded in the running engine, in its lifetime
    WARM = "warm"  # its engine runs, the adapter is on disk
    CACHED = "cached"  # on disk, and its engine does not run
    ABSENT = "absent"  # neither
    UNKNOWN = "unknown"  # no placed replica reports


class PreviewAction(StrEnum):
    """What pressing R would do."""

    ROLLBACK = "rollback"
    CANCEL_PREPARE = "cancel_prepare"
    FALLBACK = "fallback"  # no prior; F would go to the base alone
    NONE = "none"


class Skipped(Wire):
    """A release that R steps over, and why."""

    release: ReleaseView
    reason: str
    liftable: bool = Field(False, description="a releaser may lift its quarantine or breach")


class ReplicaReadiness(Wire):
    """One placed replica that does not hold the target of R resident; the node itself if it has no engine of
    the base.
    """

    node: Name
    replica: Name
    readiness: Readiness
    engine: bool = Field(True, description="False: the node has no engine of the target's base and will be left behind")
    seconds: float | None = Field(None, description="until it could answer, as measured there; None: not measured yet")


class Preview(Wire):
    """What R would do on this pointer at this generation, computed by the hub before the key is pressed."""

    action: PreviewAction
    generation: int
    target: ReleaseView | None = None
    asks: str | None = Field(None, description="why R asks for y first, e.g. 'not soaked'; None: it acts at once")
    refused: str | None = Field(None, description="why R is refused, with action none or fallback")
    skipped: tuple[Skipped, ...] = ()
    prepare: str | None = Field(None, description="job that R would cancel")
    readiness: Readiness = Readiness.UNKNOWN
    ready: int = Field(0, description="placed replicas that hold the target resident")
    placed: int = 0
    estimate_ms: float | None = Field(None, description="median of the last flips measured here; None: none yet")
    behind: tuple[ReplicaReadiness, ...] = Field((), description="placed replicas that do not hold it, worst first")
    wait_s: float | None = Field(
        None,
        description="until the slowest of them could answer, as measured; None: nothing to wait for, or not measured",
    )
    answer_s: float | None = Field(
        None,
        description="`wait_s` and a first token: the 95th percentile of the last minute there; None: not measured",
    )
    gap: Gap = Field(Gap.LEFT, description="how such a replica answers until it has the target")
    served_s: float | None = Field(None, description="how long the target served on this pointer")
    served_requests: int = 0
    streams: int = Field(0, description="answers of the current release under way")


class ReplicaRow(Wire):
    """How far one placed replica is with the pointer's current generation."""

    node: Name
    replica: Name
    state: AckState | None = Field(None, description="None: not acknowledged")
    code: str | None = None
    detail: str = ""
    flipped_ms: float | None = Field(None, description="first flip of this generation, after the commit")
    flipped_mono_ns: int | None = Field(None, description="router's CLOCK_MONOTONIC at the flip; for its own host only")
    level: AckLevel | None = Field(None, description="how near the release is there; None: it did not say")
    cold: bool = Field(False, description="flipped, and the release is yet to be loaded: nobody is answered by it")
    boot: str = Field("", description="of the engine that it speaks of; '': it did not say")
    load: int | None = Field(None, description="which load of the release in that engine's lifetime")
    proven_ms: float | None = Field(None, description="first proof of this generation, after the commit")
    proof_age_s: float | None = None
    heard_age_s: float | None = Field(description="None: never since the hub started")
    linked: bool
    lost: bool = Field(False, description="unheard, by its node or the hub: it may answer with whatever it last held")
    withdrawn: bool = Field(
        False, description="the pointer is placed there no longer, and it has not acknowledged that: it may answer"
    )
    admitted_left: int | None = Field(None, description="admitted to another release since; None: unknown")
    pinned: Digest | None = None


class Cause(Wire):
    """The figures that the CAUSE line compares, all of units from `since_ms` on, and whose doing they are.

    Absent ones are None; under n = 50 a console shows 'too few'. Counts of units have no refused ones: each is a
    request that was admitted, with the tries after it.
    """

    live: WireCounts = Counts()
    prior: WireCounts | None = Field(None, description="the target of R: what it made of the same, else in its time")
    by_replica: dict[str, WireCounts] = Field(default_factory=dict)
    others: WireCounts | None = Field(None, description="the median of other tenants on the replicas of this one")
    base: WireCounts | None = None
    verdict: str = Field(
        "unknown", description="release | requests | callers | node | engine | base | fine | too_few | unknown"
    )
    figure: str = Field("bad", description="the deciding share: bad (of checked answers) | errors (failed of admitted)")
    who: Line = added("", "the node, the engines or the caller whose doing it is; '': nobody in particular")
    overdue: tuple[Whole, Whole] = added((0, 0), "overdue units of that time, and those of which that was decided")
    since_ms: int | None = added(
        None,
        "from when on the figures are: the change point, or ten minutes ago where that is later; hub's wall clock, "
        "milliseconds since 1970",
    )
    bad_since_ms: int | None = added(None, "the change point of the flag that stands; None: none does")
    asked_same: bool = added(False, "whether `prior` is what the target of R made of the same requests")
    tenants: int = added(0, "other tenants that `others` is the median of")
    against: Line = added("", "what an ended flag holds against the live release, until it is cleared; '': nothing")
    faults: dict[str, int] = added(
        dict, "the live release's bad answers by the check that they failed, most of them first"
    )
    noticed: dict[str, int] = added(dict, "its answers by the checks that they failed which make none bad")
    judged: dict[str, int] = added(dict, "its answers by what came of asking the route's judge")
    asked: dict[str, int] = added(dict, "its answers that went to a check which may not see all of them")
    alone: str = added("", "the node by whose word alone the release is past its limit")

    @property
    def why(self) -> str:
        """The checks that most answers fail, for people: 'schema 28, empty 3; noticed language 4, judge 2 of 40'."""
        asked = {**self.asked, JUDGE: sum(self.judged.get(verdict, 0) for verdict in VERDICTS)}
        faults, noticed = (
            ", ".join(
                f"{name} {n:,}" + (f" of {asked[name]:,}" if asked.get(name) else "")
                for name, n in list(found.items())[:3]
            )
            for found in (self.faults, self.noticed)
        )
        return "; ".join(filter(None, (faults, noticed and f"noticed {noticed}")))


class CandidateRow(Wire):
    """The candidate of a pointer as a console shows it; its share is in the pointer's state."""

    release: ReleaseView
    minute: WireCounts = Field(Counts(), description="its requests in the last minute")
    keys: int = Field(0, description="keys that the share is drawn from, as far as they are known")
    arms: tuple[ArmsCompared, ...] = added(())
    waits: tuple[str, ...] = added((), "what its next step by the hub waits for, in words")


class ActedAlone(Wire):
    """What somebody did alone on the hub's host where two people are asked for: its event, when, and why."""

    event: str
    kind: EventKind
    actor: str
    reason: str
    at_ms: int


class OpenIncident(Wire):
    """The newest open incident of a pointer: who opened it, when, and why."""

    id: str
    title: str
    by: str
    opened_ms: int


class AskedAgainRow(Wire):
    """What the release beneath a live one, or a candidate in its shadow, made of a sample of its requests.

    `noise`: beside a shadow, what the live release made itself of a sample that it was asked a second time.
    """

    release: ReleaseView
    counts: AskedAgain
    noise: AskedAgain | None = added(None)


class ShadowLoad(Wire):
    """What a shadow would cost by the counts of the last minute, and what goes on beside it."""

    requests_per_s: float = Field(description="that the candidate, or the live one a second time, would be asked")
    tokens_per_s: float | None = Field(description="of these at most, as limits count tokens; None: not counted yet")
    under_way: int = Field(description="callers' answers under way on the pointer's engines, of all tenants")
    engines: int


class CountSource(Wire):
    """Where a count of a row comes from: the oldest word that is counted in it.

    By an `acknowledgement` of the router, which stands while its node is heard; by a `probe`, canaries that the agent
    sends through the router; or by a `report` of what the router has counted.
    """

    count: str = Field(description="the field of the row: flipped | proven | minute")
    by: str = Field(description="acknowledgement | probe | report")
    node: Name
    age_s: float = Field(description="of that word")


class CallerSeen(Wire):
    """A caller of a deprecated release: the id of its key, and when it asked last (milliseconds since 1970 UTC)."""

    key: str
    last_ms: int


class DeprecationRow(Wire):
    """That a live release is deprecated, since when, and who has called it since that was said."""

    from_ms: int = Field(description="from then on it is not promoted, milliseconds since 1970 UTC")
    until_ms: int | None = Field(None, description="until then callers can count on answers; None: it is not said")
    reason: str
    callers: tuple[CallerSeen, ...] = Field((), description="the one that asked last first")


class TenantRow(OfPointer):
    """One pointer, as a console shows it.

    `flags`: BAD OVR UNPRVN FAILED SLOW GLASS AHEAD NOPRIOR DRIFT HELD PIN PREP CAND SUSP.
    """

    pointer: PointerState
    epoch: int
    live: ReleaseView | None
    candidate: CandidateRow | None = added(None, "what a share of callers gets beside it")
    suspended: bool = False
    held_back: tuple[str, ...] = Field(
        (), description="nodes that have seen moves of it which the log lacks: it waits for a recover"
    )
    flags: tuple[str, ...] = ()
    preview: Preview
    replicas: tuple[ReplicaRow, ...]
    flipped: int
    proven: int
    listed: int
    placed: int
    sources: tuple[CountSource, ...] = added((), "of `flipped`, `proven` and `minute`")
    attested: tuple[int, int] | None = Field(None, description="(n, m) once this generation was attested")
    settled: bool = Field(description="no reachable replica is still on its way to the current generation")
    cause: Cause = Cause()
    minute: WireCounts = Field(Counts(), description="requests of the live release in the last minute")
    units: int | None = added(
        None, "of `minute`, units of evidence: without the further tries of a request; None: not counted"
    )
    requests_per_s: float = Field(0.0, description="attempted, over the last minute")
    error_share: float | None = Field(None, description="failed of attempted, over the last minute; None: no request")
    bad_before: float | None = Field(None, description="share of bad answers under the prior, or before the move")
    bad_before_n: int = added(0, "answers that this is a share of; 0: not known")
    bad_now: float | None = Field(None, description="over the last minute of this release; None: none checked")
    bad_n: int = 0
    ttft95_ms: float | None = None
    last_left_ms: int | None = Field(None, description="hub time of the last token of the left release")
    left_answered: int = Field(0, description="requests the left release answered while it was current")
    gate: GateResult | None = None
    last_event: Event | None = None
    undo_asks: str | None = Field(None, description="why the undo of the last move is asked about; None: it is not")
    promote_asks: str | None = added(
        None, "why the promote is asked about that this row was asked for with; None: it is not, or of none"
    )
    promote_on_demand: bool = added(False, "that promote is the route's first, and sets it on demand")
    promote_fits: CapacityPlan | None = added(
        None, "whether that promote fits, and who would be colder for it; None: the hub does not say"
    )
    soak: tuple[float, int] = Field((600, 200), description="seconds and requests of this route's soak")
    guard: str = added("", "what guard found since the last move, and did")
    alone: tuple[ActedAlone, ...] = added((), "what nobody else has countersigned yet")
    incident: OpenIncident | None = added(None, "the newest open one")
    again: AskedAgainRow | None = added(None, "the release beneath, or a shadow, that is asked again")
    deprecated: DeprecationRow | None = added(None, "that the live release is")
    shadow_load: ShadowLoad | None = added(None, "of the share that this row was asked for with; None: of none")
    slow: tuple[str, ...] = added((), "what of its answers comes later than the route promises")
    drift: tuple[str, ...] = added(
        (), "checks that make no answer bad, and corrections: those above their promise, in the last minute"
    )

    burning: tuple[str, ...] = added((), "those of them that spend the route's error budget within days")
    refusals_promised: float | None = added(None, "share of requests that routers may refuse; None: it is not said")

    def source(self, count: str) -> CountSource | None:
        """Returns where one of its counts comes from; None: it counts nothing."""
        return next((source for source in self.sources if source.count == count), None)


class NodeReplica(Wire):
    """One engine of a node, as a console shows it."""

    replica: Name
    state: EngineState
    base: Digest | None
    base_label: str
    build: str
    slots: int
    loaded: tuple[ReleaseView, ...]
    batch_slots: int = added(0, "releases that one batch mixes; 0: not known")
    on_device: int | None = added(None, "how many of `loaded` the batch holds; None: not known")
    evictions: int = added(0, "releases unloaded to make room since its start")
    load_s: float | None = added(None, "how long a load takes here; None: none was measured")
    gpus: tuple[int, ...] = Field((), description="indices of the node's GPUs on which its processes were seen")
    instances: tuple[str, ...] = added((), "`place` of those of MIG there")
    alarm: str = Field("", description="one line: why the engine is not used, or which R target has no slot in it")
    levels_known: bool = added(True, "False: the engine does not say which adapters it holds")


class RelabelRequest(Strict):
    """Have a node placed by the labels that it says, which are named so that nothing else is allowed."""

    labels: dict[Label, Label] = Field(max_length=64)


class NodeRow(Wire):
    """One node, as a console shows it."""

    node: Name
    version: str
    labels: dict[str, str] = Field(description="what it is placed by")
    says: dict[str, str] | None = added(None, "the labels of its hello, where they are others")
    linked: bool
    heard_age_s: float | None
    lost: bool
    cordoned: bool = False
    drained: bool = False
    cordoned_for: tuple[str, ...] = added(
        (), "GPUs that fail, and what guard found: for these the hub cordoned it by itself"
    )
    behind: str | None = Field(None, description="problem code: log_behind, ...")
    contested: tuple[str, ...] = added(
        (), "addresses of agents that are linked under this name at once: none of them counts"
    )
    gateway: bool = added(False, "it has no engine, and sends callers on to nodes")
    jobs_as_agent: bool = added(False, "its jobs run as the agent's own user, and could read its token or key")
    backend: JobsBackend | None = added(None, "what runs its jobs; None: the node itself, on the bases of its engines")
    room: JobRoom | None = added(None, "what it has for jobs, and which of them holds what")
    training: str = added("", "whether training on it is proven, in a line; '': it cannot train, or does not say")
    proof: TrainingProof | None = added(None, "what the newest trial of training on it has measured")
    replicas: tuple[NodeReplica, ...]
    cold: ColdFigures | None = added(None, "None: no on-demand route was asked for, or not known")
    host: Host | None
    gpus: tuple[Gpu, ...]
    nvml: NvmlState
    pins: tuple[Pin, ...] = ()

    @property
    def unproven(self) -> str:
        """The line of `training` where it does not say that training is proven; '' otherwise."""
        return "" if self.training.startswith("proven") else self.training


class Me(Wire):
    """The caller of the API: name, role, and whether it came over the hub's own socket."""

    actor: str
    role: Role
    local: bool = Field(description="over the hub's own socket: may create tokens and recover")
    tenants: dict[Name, Role] | None = added(
        None, "the role at each tenant that is shown, of which `role` is the highest; None: `role` at all"
    )

    backward: bool = added(
        False, "the sign-in has expired and its provider is silent: of the role R, F and hold are left"
    )

    def role_at(self, tenant: str) -> Role:
        """The caller's role at a tenant."""
        return self.role if self.tenants is None else self.tenants.get(tenant, Role.VIEWER)


class HubStatus(Wire):
    """The hub's own state, sent with every list and at least every two seconds on the feed."""

    hub: str = Field(description="name of this hub, shown in the header")
    production: bool = False
    version: str
    epoch: int
    rev: int
    hash: Digest
    at_ms: int
    started_ms: int
    refusing: str | None = Field(None, description="problem code that refuses every move: settling, ...")
    waiting: str | None = Field(
        None,
        description="of forward moves: disk_full, one_copy; log_behind, also of each move of a row that is `held_back`",
    )
    last_backup_ms: int | None = added(None, "of a hub that makes backups: when it made the newest")
    backup_late: bool = added(False, "two backups are overdue")
    lost: tuple[LostRevs, ...] = added((), "what hubs had folded and the database does not hold, until a recover")
    sqlite: str = ""
    seq: int = Field(0, description="changes of rows since this hub started; with the epoch, a cursor for the feed")


class LeaseStatus(Wire):
    """The answer to `GET /v1/lease`: whether a hub is active or stands by, and who holds the lease of its database."""

    hub: str = Field(description="name of the hub that answers")
    active: bool
    holder: str = Field(description="name of the hub that holds the lease, or held it last")
    address: str = Field(description="where that one is reached; empty where it did not say")
    left_s: float | None = Field(description="until its hold ends unless it renews it, when this was read; None: never")
    epoch: int
    rev: int = Field(description="newest event that the hub that answers has folded")
    lag: int = Field(description="events that it has not folded yet")
    read_s: float = Field(description="seconds since it read all this in the database")
    unrenewed_s: float = Field(
        0.0, description="seconds since a hub that stands by read the newest renewal of the lease, by its own clock"
    )
    lost: tuple[LostRevs, ...] = added((), "what hubs had folded and the database does not hold, until a recover")


class HubState(Wire):
    """The answer to `GET /v1/state`: everything a console lists, at one rev."""

    status: HubStatus
    me: Me
    tenants: tuple[TenantRow, ...]
    nodes: tuple[NodeRow, ...]
    jobs: tuple[Job, ...]
    events: tuple[Event, ...] = Field(description="the newest, oldest first")
