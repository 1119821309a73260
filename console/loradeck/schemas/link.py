"""The link: one outbound WebSocket from an agent to its hub. Level-triggered: the newest message wins.

Every message is one JSON object with a `type`. `DownMessage` travels from hub to agent, `UpMessage` back.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, FiniteFloat, StringConstraints, TypeAdapter

from loradeck.schemas.attestation import CanaryItem, EngineBuild
from loradeck.schemas.counts import ColdFigures, Traffic
from loradeck.schemas.executor import ExecutorEvent
from loradeck.schemas.ids import Digest, Label, Line, Name, OfPointer, PointerKey, Whole, Wire, added, json_bytes
from loradeck.schemas.jobs import JobAssignment, Scheduled
from loradeck.schemas.manifest import AdapterManifest
from loradeck.schemas.position import EMPTY_ROOT, AuditHead, Position
from loradeck.schemas.replica_state import AckLevel, AckState, EngineState
from loradeck.schemas.table import EntryOnWire, Pin, ReleaseRef
from loradeck.schemas.telemetry import Gpu, Host, NvmlState
from loradeck.schemas.trace import MOST_KEPT, SAMPLES, Sample, TraceRow

Address = Annotated[
    str, StringConstraints(max_length=262, pattern=r"^(\[[0-9a-f:.]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]*):[0-9]{1,5}$")
]
"""HOST:PORT of a router: a name, an IPv4 address, or an IPv6 address in brackets."""


# ---- down ------------------------------------------------------------------------------------------------


class Desired(Wire):
    """Table entries from the hub: those that changed since `prev_rev`, or all of them when `full`.

    A gap between `prev_rev` and the agent's own rev makes the agent send `Resync`.
    """

    type: Literal["desired"] = "desired"
    epoch: int
    rev: int
    prev_rev: int
    hash: Digest = Field(description="hash of the event at `rev`; the agent stores it and sends it in its hello")
    entries: tuple[EntryOnWire, ...]
    full: bool = False
    table: Digest = Field(description="digest of the whole table at `rev`")
    position: Position | None = Field(None, description="`epoch`, `rev` and `hash` as the hub signs them")
    unpin: tuple[PointerKey, ...] = Field((), description="(tenant, route) whose pins end now")


class Bookmark(Wire):
    """Heartbeat of the hub, with its newest rev: the agent has missed nothing if it holds that rev."""

    type: Literal["bookmark"] = "bookmark"
    epoch: int
    rev: int
    hash: Digest
    position: Position | None = Field(None, description="`epoch`, `rev` and `hash` as the hub signs them")


class Order(Wire):
    """Base of the hub's orders. An agent drops one whose epoch is below that of its table: another hub steers now."""

    epoch: int = Field(0, description="the hub's when it gave the order; 0: a hub of version 1, which did not say")


class JobMessage(Order):
    """The hub assigns a job to the node."""

    type: Literal["job"] = "job"
    job: JobAssignment


class JobCancel(Order):
    """The hub cancels a job of the node, under this lease."""

    type: Literal["job_cancel"] = "job_cancel"
    job: str
    lease: int


class JobNoted(Order):
    """The hub has recorded an event of a job, so the agent need not send it again after the link was lost."""

    type: Literal["job_noted"] = "job_noted"
    job: str
    lease: int
    seq: int


MOST_ADAPTERS = 64
"""Most adapters in one `TableAsk`."""


class TableAsk(Wire):
    """The hub asks for the agent's whole table (for `loradeck hub recover`); answered by `TableState`.

    It has lost the `adapters` that it names: the agent sends the manifests of those that lie here whole, and then
    uploads their files.
    """

    type: Literal["table_ask"] = "table_ask"
    adapters: tuple[Digest, ...] = added((), max_length=MOST_ADAPTERS)


TRACE_ROWS = 200
"""Most rows of the trace in one answer: a router assembles them beside the requests it serves."""


class TraceAsk(Wire):
    """The hub asks for a pointer's newest rows of the router's trace; answered by `TraceRows`.

    `before` is a seq of an earlier answer, for paging.
    """

    type: Literal["trace_ask"] = "trace_ask"
    ask: str = Field(description="id of the question, repeated in the answer")
    tenant: Name
    route: Name
    release: Digest | None = Field(None, description="only requests that this release served")
    request: str | None = added(None, "only this request; a node of the version before sends all", max_length=64)
    before: int | None = Field(None, ge=1)
    last: int = Field(TRACE_ROWS, ge=1, le=TRACE_ROWS)


class SampleAsk(Wire):
    """The hub asks for a pointer's newest samples, for somebody who may read them; answered by `SampleRows`.

    `last` 0 only asks how many there are.
    """

    type: Literal["sample_ask"] = "sample_ask"
    ask: str = Field(description="id of the question, repeated in the answer")
    tenant: Name
    route: Name
    release: Digest | None = Field(None, description="only its answers")
    last: int = Field(SAMPLES, ge=0, le=SAMPLES)


ASKED = 8
"""Most releases in one `CanaryAsk`."""


class CanaryAsk(Wire):
    """The hub asks one engine for several releases' greedy answers to one prompt; answered by `CanaryAnswers`.

    A release that is not loaded is loaded first. Nobody is served by this, and nothing is recorded.
    """

    type: Literal["canary_ask"] = "canary_ask"
    ask: str = Field(description="id of the question, repeated in the answer")
    replica: Name
    releases: tuple[ReleaseRef, ...] = Field(max_length=ASKED)
    messages: tuple[dict[str, str], ...]


class ServedRoute(OfPointer):
    """The nodes that a pointer is placed on, and how near its release is to answering there."""

    nodes: dict[Name, AckLevel]


class Serving(Wire):
    """Where pointers are served, for gateways: those of which that has changed, or all of them when `full`.

    A node that is not among the newest `nodes` has no address for gateways, or no key that counts.
    """

    type: Literal["serving"] = "serving"
    full: bool = False
    nodes: dict[Name, Address] | None = Field(None, description="the addresses of all nodes' routers; None: unchanged")
    lost: tuple[Name, ...] = Field(
        (), description="with nodes: those that the hub has lost, which may answer all the same"
    )
    routes: tuple[ServedRoute, ...] = ()


class NodeOrder(Order):
    """The hub drains or cordons the node. Level-triggered: sent in full after each hello."""

    type: Literal["node_order"] = "node_order"
    cordoned: bool = False
    drained: bool = False
    contested: bool = added(False, "another agent is linked under this node's name: neither counts")


class Challenge(Wire):
    """The hub asks whether anybody is still at the other end of the link; answered by `ChallengeAnswer`.

    A hub sends it on a node's link when another one opens under the node's name.
    """

    type: Literal["challenge"] = "challenge"
    nonce: str = Field(max_length=64, description="random; repeated in the answer")


class TrustRoots(Wire):
    """The authorities that the hub's certificates rest on. A node that was given others renews its certificate at once.

    It is believed because the link is: only a hub that the node trusts already can say it.
    """

    type: Literal["trust_roots"] = "trust_roots"
    roots: tuple[str, ...] = Field((), description="SHA-256 of the authorities' certificates, the one that signs first")


class Welcome(Wire):
    """The hub's answer to a hello. `refuse` is a problem code if the hub will not steer this node: log_behind, or
    NOT_ACTIVE of a hub that stands by.
    """

    type: Literal["welcome"] = "welcome"
    epoch: int
    rev: int
    hash: Digest
    refuse: str | None = None
    protocol: int = Field(1, description="version of the wire that the hub speaks; see `schemas.protocol`")
    keys: tuple[str, ...] = Field(
        (), description="public keys (Ed25519, hexadecimal) of the log's hubs; with any, entries come as signed texts"
    )
    recipes: Whole = added(0, "level of the reports of jobs it reads, as in the hello")
    parts: bool = added(False, "it takes a report in parts (`Report.more`)")


PROOF = 128
"""Most hashes in a proof that one audit trail goes on from another."""


class Countersign(Wire):
    """The hub asks a node to sign the head of its audit trail; answered by `Countersigned`. See `rules.cosigning`.

    It is sent to nodes that say `cosigned` in their hello. `size` and `root`: of the tree over the trail's lines.
    """

    type: Literal["countersign"] = "countersign"
    log: str = Field(max_length=64, description="id of the hub's log")
    size: int = Field(ge=0, lt=2**53)
    root: Digest
    signature: str = Field(max_length=128, description="the hub's, over `artifacts.notes.text_of`")
    old: int = Field(ge=0, lt=2**53, description="size that the node signed last, as far as the hub knows")
    proof: tuple[Digest, ...] = Field((), max_length=PROOF, description="that the trail goes on from there (RFC 9162)")

    @property
    def head(self) -> AuditHead:
        """The head that is to be signed."""
        return AuditHead(size=self.size, root=self.root)


DownMessage = Annotated[
    Welcome
    | Desired
    | Bookmark
    | JobMessage
    | JobCancel
    | JobNoted
    | TableAsk
    | TraceAsk
    | SampleAsk
    | CanaryAsk
    | NodeOrder
    | Challenge
    | Countersign
    | Serving
    | TrustRoots,
    Field(discriminator="type"),
]
"""A message from hub to agent."""


# ---- up --------------------------------------------------------------------------------------------------


class Replica(Wire):
    """One engine process, as its agent reports it in `Hello` and `Report`."""

    replica: Name = Field(description="unique in the fleet: '<node>' or '<node>.<engine>'")
    state: EngineState
    boot: Line = Field("", description="changes with every start of the engine process")
    base: Digest | None = None
    base_name: Line = Field("base", description="name under which the engine serves its own base")
    build: EngineBuild | None = None
    slots: Whole = Field(0, description="adapters in its memory at once")
    batch_slots: Whole = added(0, "adapters that one batch mixes; 0: not known")
    loaded: tuple[Digest, ...] = Field((), description="releases loaded and listed in this engine's lifetime")
    on_device: Whole | None = added(None, "how many of them the batch holds; None: not known")
    evictions: Whole = added(0, "releases unloaded to make room, in this engine's lifetime")
    start_s: FiniteFloat | None = Field(None, description="how long the last start took; None: none was measured here")
    load_s: FiniteFloat | None = Field(None, description="how long an adapter takes from disk to answering as recorded")
    fetch_s: FiniteFloat | None = Field(None, description="how long an adapter takes from the hub to this node's disk")
    memory_gb: FiniteFloat | None = Field(None, description="memory of its engine as configured; None: not configured")
    always: bool = Field(True, description="False: it runs only while something wants its base")
    gpus: tuple[Whole, ...] = Field(
        (), max_length=64, description="indices of GPUs on which its processes were seen; (): on none"
    )
    instances: tuple[Line, ...] = added((), "`place` of those of MIG there", max_length=64)
    alarm: Line = Field("", description="one line: why the engine is not used, or which R target has no slot in it")
    answers: bool = added(True, "False: the engine, or the node's router, is silent: acknowledgements do not count now")
    levels_known: bool = added(True, "False: levels unknown; the engine does not say which adapters it holds")


LOADED = 10_000
"""Most releases that all engines of a node list: its row names each, on every console."""

PINS = 250
"""Most pins of a node that are reported: each takes a kilobyte of every report."""

STORED = 100_000
"""Most adapters and merged weights that a node says it has in its folders."""

STORED_FIRST, STORED_STEP = 10_000, 1_000
"""Most of them that are named in a hello, and that an agent adds or takes away in a report."""


def _few_loaded(replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
    if sum(len(replica.loaded) for replica in replicas) > LOADED:
        raise ValueError(f"the engines of a node list at most {LOADED} releases together")
    return replicas


Replicas = Annotated[tuple[Replica, ...], Field(max_length=64), AfterValidator(_few_loaded)]
"""All engines of a node."""


def belongs(replica: str, node: str) -> bool:
    """Tells whether a replica of this name may be the node's: '<node>', or '<node>.<engine>' where it has several."""
    return replica == node or replica.startswith(f"{node}.")


class Countersigned(Wire):
    """The newest head of an audit trail that a node has signed: that it was shown this one, and none that contradicts.

    It answers a `Countersign`, and says why the node did not sign what it was asked for. The signature is Ed25519 over
    `artifacts.notes.cosigned_bytes`, in hexadecimal; '' with size 0: it has signed none.
    """

    type: Literal["countersigned"] = "countersigned"
    key: Digest = Field(description="the node's public key for this, in hexadecimal")
    log: str = Field("", max_length=64, description="id of the hub's log whose trail it is")
    size: int = Field(0, ge=0, lt=2**53)
    root: Digest = EMPTY_ROOT
    at_s: int = Field(0, ge=0, lt=2**53, description="node's wall clock, seconds since 1970 UTC")
    signature: str = Field("", max_length=128)
    refuses: Line = added("")

    @property
    def head(self) -> AuditHead:
        """The head that it has signed."""
        return AuditHead(size=self.size, root=self.root)


HERE = "node"
"""`JobsBackend.system` of a node that runs its jobs itself."""


class JobsBackend(Wire):
    """What runs a node's jobs, and on which bases that no engine there has: the node itself, or a scheduler.

    A node that only submits to a scheduler has no engine.
    """

    system: Line = Field(description="node, slurm")
    at_once: Whole = Field(ge=1, le=1000, description="jobs that the node takes at once; node: see `JobRoom`")
    bases: tuple[Digest, ...] = Field((), max_length=64, description="those that jobs there may read without an engine")


class JobHold(Wire):
    """What a job that has begun holds of its node."""

    job: Line
    gpus: tuple[Line, ...] = Field((), max_length=64, description="UUIDs of those that are reserved for it")
    memory_bytes: Whole = Field(0, description="of the host, in its processes: what is theirs alone, and shared memory")


class JobRoom(Wire):
    """What a node that runs its jobs itself has for a further one. Jobs on GPUs count by their GPUs alone."""

    at_once: Whole = Field(1, ge=1, le=1000, description="jobs without a GPU of their own that run at once")
    gpus: tuple[Line, ...] = Field((), max_length=64, description="UUIDs of the GPUs that a job could be given now")
    taken: Line = Field("", description="why the others cannot be given")
    held: tuple[JobHold, ...] = Field((), max_length=1000)


class Hello(Wire):
    """The agent's first message on a link: who it is, what it holds durably, and what runs on the node."""

    type: Literal["hello"] = "hello"
    node: Name
    boot: Line
    version: Line
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=64)
    epoch: Whole = Field(
        ge=0, lt=2**53, description="last epoch, rev and hash it durably holds; 0, 0, GENESIS when new"
    )
    rev: Whole = Field(ge=0, lt=2**53)
    hash: Digest
    replicas: Replicas
    pins: tuple[Pin, ...] = Field((), max_length=PINS)
    jobs: tuple[tuple[Line, Whole], ...] = Field((), max_length=10_000, description="(job, lease) still running here")
    stored: tuple[Digest, ...] = Field(
        (),
        max_length=STORED,
        description="adapters and merged weights in this agent's folders, by digest; more come with reports",
    )
    memory_gb: FiniteFloat | None = Field(None, description="memory of the node for its engines; None: not limited")
    witness: Position | None = Field(None, description="the same position as a hub signed it")
    protocol: Whole = Field(1, description="version of the wire that the agent speaks; see `schemas.protocol`")
    features: tuple[Line, ...] = Field(
        (), max_length=64, description="what its router acts on in entries; see `schemas.protocol`"
    )
    cosigned: Countersigned | None = added(
        None, "of a node that has joined, which signs heads of the audit trail: the newest that it has signed"
    )
    address: Address | Literal[""] = added(
        "", "where its router takes gateways, over TLS with the node's certificate; '': it takes none"
    )
    jobs_as_agent: bool = added(False, "executors run as the agent's own user, and could read its token or key")
    training: dict[Line, Line] = added(
        dict, "versions of the libraries that training there uses, and of its GPUs' driver, by name", max_length=16
    )
    recipes: Whole = added(0, "level of the recipes it reads; see `schemas.jobs.RECIPES`")
    backend: JobsBackend | None = added(None, "what runs its jobs; None: the node itself, on the bases of its engines")


class Ack(Wire):
    """An acknowledgement: how far one replica is with an entry, sent by the agent whenever that changes."""

    type: Literal["ack"] = "ack"
    tenant: Name
    route: Name
    epoch: Whole
    generation: Whole
    release: Digest | None
    replica: Name
    state: AckState
    code: Line | None = Field(None, description="problem code, with FAILED and WAITING")
    detail: Line = ""
    at_ms: Whole = Field(description="node's wall clock; the hub counts by its own receive time")
    mono_ns: Whole = Field(0, description="router's CLOCK_MONOTONIC at the swap, comparable on one host only")
    level: AckLevel | None = added(None, "None: not reported")
    boot: Line = added("", "of the engine that it speaks of")
    load: Whole | None = added(None, "which load of the release in that engine's lifetime")
    rev: Whole | None = added(None, "of the hub's log, up to which the router's table follows")


COUNTERS = 100_000
"""Most rows of counters in a report."""


class Report(Wire):
    """The agent's report, once a second. Counters are cumulative, so a lost report loses nothing."""

    type: Literal["report"] = "report"
    replicas: Replicas
    router_boot: Line = Field("", description="counters restart at zero when this changes")
    traffic: tuple[Traffic, ...] = Field((), max_length=COUNTERS)
    host: Host | None = None
    gpus: tuple[Gpu, ...] = Field((), max_length=64)
    nvml: NvmlState
    pins: tuple[Pin, ...] = Field((), max_length=PINS)
    rev: Whole
    epoch: Whole
    cold: ColdFigures | None = added(None, "None: no on-demand route was asked for, or not known")
    stored: tuple[Digest, ...] | None = Field(
        None, max_length=STORED, description="as in the hello, all of them, by earlier agents; None: unchanged"
    )
    more: bool = added(False, "it has some of the counters, and more of the same report come with the next ones")
    stored_added: tuple[Digest, ...] = added((), "those that came to them", max_length=STORED_STEP)
    stored_gone: tuple[Digest, ...] = added((), "those that went", max_length=STORED_STEP)
    scheduled: tuple[tuple[Line, Whole, Scheduled], ...] = added(
        (), "(job, lease, what its scheduler says) of the jobs at the node's backend", max_length=1000
    )
    room: JobRoom | None = added(None, "for jobs; None: it runs one at a time, or none here, or cannot say yet")
    backend: JobsBackend | None = added(None, "as in the hello, once more bases are hashed; None: unchanged")


class Resync(Wire):
    """The agent asks for its whole table, because entries are missing or its digest differs; answered by `Desired`."""

    type: Literal["resync"] = "resync"
    why: Line


class TableState(Wire):
    """The agent's whole table; the answer to `TableAsk`."""

    type: Literal["table_state"] = "table_state"
    epoch: Whole
    rev: Whole
    hash: Digest
    entries: tuple[EntryOnWire, ...]
    adapters: tuple[AdapterManifest, ...] = added((), "those that were asked for", max_length=MOST_ADAPTERS)


RESULT_BYTES = 16 * 2**20
"""Most bytes of a job's result: an evaluation's report has a line for each item."""


class JobEvent(Wire):
    """An executor's event, passed on by the agent; sent again on the next link unless the hub sent `JobNoted`
    for it.
    """

    type: Literal["job_event"] = "job_event"
    job: Line
    lease: Whole
    attempt: Whole
    event: ExecutorEvent
    result: Annotated[dict[str, Any] | None, json_bytes(RESULT_BYTES)] = Field(
        None, description="with a terminal event"
    )


LOG_LINES = 200
LOG_LINE = 400
"""Most lines of a `JobLog`, and most characters of each line."""


class JobLog(Wire):
    """Lines that a job's executor printed since the last `JobLog`, at most once a second; too many are cut to the
    newest.
    """

    type: Literal["job_log"] = "job_log"
    job: Line
    lease: Whole
    attempt: Whole
    first: Whole = Field(ge=1, description="number of the first of these lines, counted from 1 in each attempt")
    lines: tuple[Line, ...] = Field(max_length=LOG_LINES)


class TraceRows(Wire):
    """The answer to a `TraceAsk`, oldest row first."""

    type: Literal["trace_rows"] = "trace_rows"
    ask: Line
    rows: tuple[TraceRow, ...] = Field(max_length=TRACE_ROWS)
    more: bool = Field(False, description="the router holds older matching rows")
    turned_over: bool = Field(False, description="the router has dropped its oldest rows, of any pointer")
    since_ms: Whole | None = Field(None, description="wall clock when the trace began, with the router")
    trouble: Line = Field("", description="why the router could not be asked")


class SampleRows(Wire):
    """The answer to a `SampleAsk`, oldest sample first. `kept`: how many there are of what was asked for."""

    type: Literal["sample_rows"] = "sample_rows"
    ask: Line
    samples: tuple[Sample, ...] = Field((), max_length=SAMPLES)
    kept: Whole = Field(0, ge=0, le=MOST_KEPT)
    trouble: Line = Field("", description="why the router could not be asked")


class CanaryAnswers(Wire):
    """The answer to a `CanaryAsk`: each release has an item, or its `trouble` says why there is none."""

    type: Literal["canary_answers"] = "canary_answers"
    ask: Line
    items: dict[Digest, CanaryItem] = Field(default_factory=dict, max_length=ASKED)
    trouble: dict[Digest, Line] = Field(default_factory=dict, max_length=ASKED)


class ChallengeAnswer(Wire):
    """The answer to a `Challenge`: the agent that opened this link is alive."""

    type: Literal["challenge_answer"] = "challenge_answer"
    nonce: str = Field(max_length=64)
    boot: Line = Field(description="of the agent, as in its hello")


class Heartbeat(Wire):
    """The agent is alive; sent when there was nothing else to send."""

    type: Literal["heartbeat"] = "heartbeat"


UpMessage = Annotated[
    Hello
    | Ack
    | Report
    | Resync
    | TableState
    | JobEvent
    | JobLog
    | TraceRows
    | SampleRows
    | CanaryAnswers
    | ChallengeAnswer
    | Countersigned
    | Heartbeat,
    Field(discriminator="type"),
]
"""A message from agent to hub."""

down_adapter: TypeAdapter[DownMessage] = TypeAdapter(DownMessage, config={"defer_build": True})
up_adapter: TypeAdapter[UpMessage] = TypeAdapter(UpMessage, config={"defer_build": True})
