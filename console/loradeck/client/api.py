"""The hub's calls, one method each, returning the types of `loradeck.schemas`.

Every method raises `ApiError` when the hub refuses (nothing was changed) and `HubUnreachable` when the hub could not be
reached (nothing was sent). A move whose answer was lost is looked up by its idempotency key, and sent again under that
key if it never arrived; if that fails too, it raises `OutcomeUnknown`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, Unpack
from urllib.parse import quote

from pydantic import TypeAdapter

from loradeck.client.calls import Calls, Waiting
from loradeck.client.config import Context
from loradeck.client.connect import Hubs
from loradeck.client.idempotency import new_key
from loradeck.client.state_list import Listed, listed
from loradeck.client.transport import Transport, segment
from loradeck.schemas import moves, responses
from loradeck.schemas.answer_ledger import Explained
from loradeck.schemas.attestation import Attestation, AttestationFilter, GateResult
from loradeck.schemas.audit import AuditLine, AuditVerdict
from loradeck.schemas.campaign import Campaign, CampaignChange, CampaignRequest, CampaignRewind, CampaignStarted
from loradeck.schemas.capacity import CapacityPlan, CapacityRow
from loradeck.schemas.counts import RouteHistory
from loradeck.schemas.dataset_ledger import CollectPlan, CollectRequest, DataPolicy, ErasurePlan, ErasureRequest
from loradeck.schemas.decision import Decided, DecideRequest
from loradeck.schemas.executor import ExecutorEvent
from loradeck.schemas.feedback import FeedbackErase, FeedbackErased, FeedbackPage, FeedbackRows, FeedbackTaken
from loradeck.schemas.freshness import Freshness, LoopRow, Replay
from loradeck.schemas.ids import digest_of
from loradeck.schemas.incident import Incident, IncidentOpen, IncidentReport, IncidentText, RelatedReleases
from loradeck.schemas.jobs import Job, JobLogLine, JobQuery, JobRequest
from loradeck.schemas.log import Event
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion, BaseManifest, DatasetManifest, SuiteManifest
from loradeck.schemas.membership import AuthorityState, Invitation, JoinToken, Revoked
from loradeck.schemas.notice import ChannelRef, Notice, NoticeList, Silence, SilenceRequest
from loradeck.schemas.pool import PlacementExplained, PlacementPreview, PoolConfig, PoolRow
from loradeck.schemas.preference import PreferenceDataset
from loradeck.schemas.review import Review, ReviewSheet
from loradeck.schemas.route import RouteConfig, Suggestions, SuggestRequest
from loradeck.schemas.state import HubState, LeaseStatus, Me, NodeRow, RelabelRequest, ReleaseView, TenantRow
from loradeck.schemas.tenant import Quota, QuotaUse, TenantCreate, TenantState, TokenCreate, TokenRecord
from loradeck.schemas.trace import Sampled, Traced

_gate_result: TypeAdapter[GateResult | None] = TypeAdapter(GateResult | None, config={"defer_build": True})


PointerRequest: TypeAlias = (
    moves.PromoteRequest
    | moves.CandidateStepRequest
    | moves.CandidateCompareRequest
    | moves.CandidateHoldRequest
    | moves.CandidateAbortRequest
    | moves.RollbackRequest
    | moves.UndoRequest
    | moves.FallbackRequest
    | moves.HoldRequest
    | moves.LiftRequest
    | moves.UnpinRequest
    | moves.AnnotateRequest
    | moves.CountersignRequest
)
"""A request about one pointer. A start and a finish of a candidate are promotes, too."""

_POSTED_TO: Mapping[type[PointerRequest], str] = {
    moves.PromoteRequest: "promote",
    moves.CandidateStartRequest: "candidate/start",
    moves.CandidateStepRequest: "candidate/step",
    moves.CandidateCompareRequest: "candidate/compare",
    moves.CandidateHoldRequest: "candidate/hold",
    moves.CandidateFinishRequest: "candidate/finish",
    moves.CandidateAbortRequest: "candidate/abort",
    moves.RollbackRequest: "rollback",
    moves.UndoRequest: "undo",
    moves.FallbackRequest: "fallback",
    moves.HoldRequest: "hold",
    moves.LiftRequest: "lift",
    moves.UnpinRequest: "unpin",
    moves.AnnotateRequest: "annotate",
    moves.CountersignRequest: "countersign",
}
"""Type of a request -> what it is posted to, below the pointer's path."""


class HubApi(Calls):
    """The API of one hub. Use it as an async context manager, or call `aclose`."""

    @classmethod
    def to(cls, context: Context) -> HubApi:
        """Prepares the API of a context's hub, without connecting.

        Raises: ConfigError: an unsafe token file, or an unusable certificate authority.
        """
        hubs = Hubs(context)
        return cls(Transport(hubs.endpoint(), hubs=hubs))

    # ---- the caller ----------------------------------------------------------------------------------------

    async def me(self) -> Me:
        """Asks who the caller is at the hub, and for its roles."""
        return await self._get(Me, "me")

    async def sign_out(self) -> None:
        """Ends the sign-in whose token the caller shows, at the hub."""
        await self._delete("me/sign-in")

    async def lease(self) -> LeaseStatus:
        """Tells whether the hub that answers is active or stands by, and who holds the lease."""
        return await self._get(LeaseStatus, "lease")

    # ---- state ---------------------------------------------------------------------------------------------

    async def state(self) -> HubState:
        """Fetches all that a console lists, at one rev."""
        return await self._get(HubState, "state")

    async def listed(self) -> Listed:
        """Fetches all that a console lists, to be read row by row: a tenth of the memory, for a large fleet."""
        body = await self.transport.request("GET", "state")
        return await asyncio.to_thread(listed, body, self.transport.where)

    async def row(self, tenant: str, route: str, *, promote: str | None = None, shadow: int | None = None) -> TenantRow:
        """Fetches a pointer with its preview.

        Args:
            promote: a release, to learn what is to be asked before its promote.
            shadow: a share in thousandths, to learn what a shadow of it would cost.
        """
        return await self._get(TenantRow, _route(tenant, route), promote=promote, shadow=shadow)

    async def related(self, tenant: str, route: str) -> RelatedReleases:
        """The related releases of a pointer: other live ones that share something with its own."""
        return await self._get(RelatedReleases, f"{_route(tenant, route)}/company")

    async def route_history(self, tenant: str, route: str, *, minutes: int = 180) -> RouteHistory:
        """A pointer's requests by the minute, so many minutes back."""
        return await self._get(RouteHistory, f"{_route(tenant, route)}/history", minutes=minutes)

    async def traces(self, tenant: str, route: str, *, release: str | None = None, last: int = 200) -> Traced:
        """A pointer's newest requests on each router, `last` at most; with `release`, only those it served."""
        return await self._get(Traced, f"{_route(tenant, route)}/traces", release=release, last=last, extra_s=60)

    async def samples(self, tenant: str, route: str, *, release: str | None, last: int) -> Sampled:
        """Samples of a pointer's bad answers with their questions, `last` of each node at most. It is audited."""
        return await self._get(Sampled, f"{_route(tenant, route)}/samples", release=release, last=last)

    async def suggest_canaries(self, tenant: str, route: str, request: SuggestRequest) -> Suggestions:
        """Rows of a dataset as canaries of a release, tried on an engine that serves, best first."""
        path = f"{_route(tenant, route)}/canaries/suggest"
        return await self._post(Suggestions, path, request, extra_s=1200)

    async def events(
        self, *, tenant: str | None = None, route: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[Event]:
        """Events of the log, newest first; `before` is a rev."""
        return await self._get(list[Event], "events", tenant=tenant, route=route, before=before, limit=limit)

    async def audit_trail(self, *, after: int) -> list[AuditLine]:
        """A thousand lines of the audit trail after the one with the number `after`, oldest first."""
        return await self._get(list[AuditLine], "audit", after=after, limit=1000)

    async def audit_checkpoint(self) -> str:
        """The head of the audit trail as a signed note (C2SP tlog-checkpoint)."""
        return (await self.transport.request("GET", "audit/checkpoint")).decode()

    async def audit_keys(self) -> str:
        """The keys that such notes are checked with, one a line."""
        return (await self.transport.request("GET", "audit/keys")).decode()

    async def verify_audit(self) -> AuditVerdict:
        """Has the hub verify the log's hash chain and the state it folds to, and the audit trail."""
        return await self._get(AuditVerdict, "audit/verify", extra_s=120)

    # ---- moves ---------------------------------------------------------------------------------------------

    async def send(self, tenant: str, route: str, request: PointerRequest, **how: Unpack[Waiting]) -> moves.MoveResult:
        """Sends a request about one pointer, of any type: a move of it, or a setting that the log keeps.

        Returns once a move is as far as `wait`, or after `timeout` seconds.
        """
        return await self._move(f"{_route(tenant, route)}/{_POSTED_TO[type(request)]}", request, **how)

    async def undo_together(self, request: moves.UndoRequest, **how: Unpack[Waiting]) -> moves.MoveResult:
        """Undoes every event of a transaction, or several events of different pointers: all of them or none."""
        return await self._move("undo", request, **how)

    async def incidents(self) -> list[Incident]:
        """The open incidents, and the newest closed ones, newest first."""
        return await self._get(list[Incident], "incidents")

    async def incident(self, incident: str) -> IncidentReport:
        """An incident with the events, the minutes and the notices of its time."""
        return await self._get(IncidentReport, f"incidents/{segment(incident)}")

    async def open_incident(self, request: IncidentOpen) -> moves.MoveResult:
        """Opens an incident, or adds pointers to one."""
        return await self._move("incidents", request)

    async def note_incident(self, incident: str, request: IncidentText) -> moves.MoveResult:
        """Adds a note to an incident."""
        return await self._move(f"incidents/{segment(incident)}/notes", request)

    async def close_incident(self, incident: str, request: IncidentText) -> moves.MoveResult:
        """Closes an incident."""
        return await self._move(f"incidents/{segment(incident)}/close", request)

    async def plan_rewind(self, request: moves.RewindRequest) -> moves.RewindPlan:
        """Plans a rewind and changes nothing."""
        return await self._post(moves.RewindPlan, "rewind", request.model_copy(update={"dry_run": True}))

    async def rewind(self, request: moves.RewindRequest, **how: Unpack[Waiting]) -> moves.MoveResult:
        """Executes a plan, whose `generations` the request carries."""
        return await self._move("rewind", request.model_copy(update={"dry_run": False}), **how)

    async def campaigns(self, since: int | None = None) -> list[Campaign]:
        """Lists campaigns, the newest first; those that have changed after the rev `since`."""
        return await self._get(list[Campaign], "campaigns", since=since)

    async def campaign(self, campaign: str) -> Campaign:
        """Fetches one campaign with its routes."""
        return await self._get(Campaign, f"campaigns/{segment(campaign)}")

    async def start_campaign(self, request: CampaignRequest) -> CampaignStarted:
        """Starts a campaign, or with `dry_run` asks what it would be."""
        return await self._post(CampaignStarted, "campaigns", request, extra_s=60)

    async def change_campaign(
        self, campaign: str, what: Literal["pause", "resume", "stop"], request: CampaignChange
    ) -> Campaign:
        """Pauses, resumes or stops a campaign."""
        return await self._post(Campaign, f"campaigns/{segment(campaign)}/{what}", request)

    async def plan_campaign_rewind(self, campaign: str, request: CampaignRewind) -> moves.RewindPlan:
        """Plans what a rewind of a campaign would put back, and changes nothing."""
        return await self._post(moves.RewindPlan, f"campaigns/{segment(campaign)}/rewind", request)

    async def rewind_campaign(self, campaign: str, request: CampaignRewind, **how: Unpack[Waiting]) -> moves.MoveResult:
        """Executes such a plan, whose `generations` the request carries."""
        return await self._move(f"campaigns/{segment(campaign)}/rewind", request, **how)

    async def plan_recover(self, request: moves.RecoverRequest) -> moves.RecoveryPlan:
        """Plans a recover and changes nothing. Only over the hub's own socket."""
        plan = request.model_copy(update={"dry_run": True})
        return await self._post(moves.RecoveryPlan, "recover", plan, extra_s=15)

    async def recover(self, request: moves.RecoverRequest) -> moves.MoveResult:
        """Executes a plan, whose digest the request carries."""
        return await self._move("recover", request.model_copy(update={"dry_run": False}))

    async def recover_files(self) -> responses.LostAdapters:
        """Has nodes send adapters that the hub lacks; what has come, and what is lacking. Only over its own socket."""
        return await self._post(responses.LostAdapters, "recover/files", extra_s=30)

    # ---- tenants -------------------------------------------------------------------------------------------

    async def tenants(self) -> list[TenantState]:
        """Lists all tenants, offboarded ones included."""
        return await self._get(list[TenantState], "tenants")

    async def tenant(self, tenant: str) -> TenantState:
        """Fetches one tenant with its routes, keys and policy."""
        return await self._get(TenantState, f"tenants/{segment(tenant)}")

    async def create_tenant(self, request: TenantCreate) -> TenantState:
        """Creates a tenant without routes."""
        return await self._write(TenantState, "tenants", request)

    async def order_tenant(
        self, tenant: str, order: Literal["suspend", "resume", "offboard"], reason: str = ""
    ) -> TenantState:
        """Suspends a tenant, serves it again, or ends it for ever.

        While it is suspended, routers refuse its callers, and nothing is promoted.
        """
        return await self._write(TenantState, f"tenants/{segment(tenant)}/{order}", {"reason": reason})

    async def set_data_policy(
        self, tenant: str, policy: DataPolicy, reason: str = "", *, was: DataPolicy
    ) -> DataPolicy:
        """Replaces the tenant's data policy, which decides the rows that its adapters may be trained on.

        `was`: the one that the caller has seen. Refused `policy_changed` where it is another one by now.
        """
        path = f"tenants/{segment(tenant)}/data-policy"
        return await self._put(DataPolicy, path, policy, reason, was=digest_of(was))

    async def quota(self, tenant: str) -> QuotaUse:
        """Asks what a tenant may have at the hub, and what it has."""
        return await self._get(QuotaUse, f"tenants/{segment(tenant)}/quota")

    async def set_quota(self, tenant: str, quota: Quota, reason: str = "") -> QuotaUse:
        """Replaces what a tenant may have at the hub."""
        return await self._put(QuotaUse, f"tenants/{segment(tenant)}/quota", quota, reason)

    async def decide(self, tenant: str, request: DecideRequest) -> Decided:
        """Has a worksheet made of evaluate jobs that are done."""
        return await self._post(Decided, f"tenants/{segment(tenant)}/decisions", request)

    async def freshness(self, tenant: str) -> Freshness:
        """Reads what the freshness meters of a tenant's live releases show, and what is recommended."""
        return await self._get(Freshness, f"tenants/{segment(tenant)}/freshness")

    async def replay(self, tenant: str, route: str, days: Replay) -> Attestation:
        """Imports days of a release that were counted elsewhere, or replayed."""
        return await self._post(Attestation, f"{_route(tenant, route)}/replay", days)

    async def loop(self, tenant: str | None = None) -> list[LoopRow]:
        """Reads where each tenant stands between a signal and new weights; of one tenant as of now."""
        return await self._get(list[LoopRow], "loop", tenant=tenant)

    async def explain(self, request: str, *, tenant: str | None, at_ms: int | None) -> Explained:
        """Fetches what stood behind an answer, by its request id. The hub may have to read many files for it."""
        return await self._get(Explained, f"requests/{segment(request)}", tenant=tenant, at_ms=at_ms, extra_s=600)

    async def give_feedback(self, tenant: str, rows: FeedbackRows) -> FeedbackTaken:
        """Imports feedback on answers of a tenant."""
        path = f"tenants/{segment(tenant)}/feedback"
        return await self._post(FeedbackTaken, path, rows, extra_s=60)

    async def feedback(self, tenant: str, *, after: int = 0, waiting: bool = False, limit: int = 100) -> FeedbackPage:
        """Fetches a page of a tenant's feedback after a number, with its texts. Each reading is recorded."""
        path = f"tenants/{segment(tenant)}/feedback"
        return await self._get(FeedbackPage, path, after=after, waiting=waiting or None, limit=limit)

    async def erase_feedback(self, tenant: str, what: FeedbackErase) -> FeedbackErased:
        """Removes feedback of a tenant, and returns how many rows went."""
        path = f"tenants/{segment(tenant)}/feedback/erase"
        return await self._post(FeedbackErased, path, what)

    async def create_key(self, tenant: str) -> responses.KeyCreated:
        """Creates a key for the tenant's own callers."""
        return await self._write(responses.KeyCreated, f"tenants/{segment(tenant)}/keys")

    async def withdraw_key(self, tenant: str, key_id: str) -> None:
        """Withdraws a caller's key."""
        await self._delete(f"tenants/{segment(tenant)}/keys/{segment(key_id)}")

    async def set_route(
        self, tenant: str, route: str, config: RouteConfig, reason: str = "", *, break_glass: bool = False
    ) -> RouteConfig:
        """Replaces all settings of a route, or creates it. To loosen its signers or its gate needs a reason.

        `break_glass`: on the hub's host nobody else is asked where the route asks for two people.
        """
        return await self._put(RouteConfig, _route(tenant, route), config, reason, break_glass=break_glass)

    async def review_sheet(self, tenant: str, route: str, release: str) -> ReviewSheet:
        """The sampled answers of a candidate that the route's gate wants reviewed."""
        return await self._get(ReviewSheet, f"{_route(tenant, route)}/reviews/{segment(release)}")

    async def sign_review(self, tenant: str, route: str, review: Review) -> GateResult | None:
        """Signs a review by the caller's name; returns the gate's new result, if any. Repeating changes nothing."""
        path = f"{_route(tenant, route)}/reviews"
        return await self._post(_gate_result, path, review)

    # ---- registry ------------------------------------------------------------------------------------------

    async def register_base(self, manifest: BaseManifest, tenant: str | None = None) -> responses.Registered:
        """Registers a base's manifest, for one tenant or for all."""
        return await self._post(responses.Registered, "bases", manifest, tenant=tenant)

    async def bases(self) -> list[responses.BaseEntry]:
        """Lists all bases, in the order of registration."""
        return await self._get(list[responses.BaseEntry], "bases")

    async def register_dataset(self, manifest: DatasetManifest, *, accept: str = "") -> responses.Registered:
        """Registers a dataset whose files the hub has; it reads all rows before it answers.

        `accept`: why the dataset is registered although the scan has findings.
        """
        return await self._post(responses.Registered, "datasets", manifest, extra_s=600, accept=accept or None)

    async def register_preferences(self, made: PreferenceDataset, *, accept: str = "") -> responses.Registered:
        """Registers a dataset that is made of judgements, and whose file the hub has; it makes it anew first."""
        return await self._post(responses.Registered, "preferences", made, extra_s=600, accept=accept or None)

    async def datasets(self) -> list[responses.DatasetEntry]:
        """Lists all datasets, in the order of registration."""
        return await self._get(list[responses.DatasetEntry], "datasets")

    async def plan_erasure(self, request: ErasureRequest) -> ErasurePlan:
        """Plans an erasure of rows and changes nothing."""
        plan = request.model_copy(update={"dry_run": True})
        return await self._post(ErasurePlan, "erasures", plan, extra_s=600)

    async def erase(self, request: ErasureRequest) -> ErasurePlan:
        """Executes a plan, whose rows and digest the request carries. Repeating it changes nothing."""
        sent = request.model_copy(update={"dry_run": False})
        return await self._post(ErasurePlan, "erasures", sent, extra_s=600)

    async def register_suite(self, manifest: SuiteManifest, *, accept: str = "") -> responses.Registered:
        """Registers a suite whose files the hub has; it reads all items before it answers.

        `accept`: why the suite is registered although the scan has findings.
        """
        return await self._post(responses.Registered, "suites", manifest, extra_s=600, accept=accept or None)

    async def suites(self) -> list[responses.SuiteEntry]:
        """Lists all suites, in the order of registration."""
        return await self._get(list[responses.SuiteEntry], "suites")

    async def register_adapter(self, manifest: AdapterManifest) -> AdapterVersion:
        """Registers an adapter version whose files the hub has; a known digest returns its version."""
        path = f"adapters/{segment(manifest.tenant)}/{segment(manifest.name)}/versions"
        return await self._post(AdapterVersion, path, manifest)

    async def adapters(self, tenant: str | None = None) -> list[AdapterVersion]:
        """Lists all adapter versions, or those of one tenant."""
        return await self._get(list[AdapterVersion], "adapters", tenant=tenant)

    async def adapter_versions(self, tenant: str, name: str) -> list[AdapterVersion]:
        """Lists all versions of one adapter."""
        path = f"adapters/{segment(tenant)}/{segment(name)}/versions"
        return await self._get(list[AdapterVersion], path)

    async def register_merged(self, release: moves.MergedRelease) -> ReleaseView:
        """Registers merged weights as a release; adapter's release and weights must be registered."""
        return await self._post(ReleaseView, "releases", release)

    async def release(self, release: str) -> responses.ReleaseDetail:
        """Fetches one release, with the manifest of its adapter."""
        return await self._get(responses.ReleaseDetail, f"releases/{segment(release)}")

    async def releases(self, tenant: str | None = None) -> list[ReleaseView]:
        """Lists all registered releases, or those of one tenant, its base alone on every base included."""
        return await self._get(list[ReleaseView], "releases", tenant=tenant)

    async def attest(self, attestation: Attestation) -> Attestation:
        """Stores an attestation; returns it with its seq, author and time."""
        return await self._write(Attestation, "attestations", attestation)

    async def sign(self, statement: Attestation) -> Attestation:
        """Signs an impact assessment or an acknowledgement; returns it with its seq, author and time."""
        return await self._write(Attestation, "attestations/signed", statement)

    async def attestations(self, **wanted: Unpack[AttestationFilter]) -> list[Attestation]:
        """Attestations that match all given conditions, oldest first."""
        return await self._get(list[Attestation], "attestations", **wanted)

    # ---- jobs and nodes ------------------------------------------------------------------------------------

    async def submit_job(self, request: JobRequest) -> Job:
        """Submits a job. It is sent again under its idempotency key, made here if missing, when the answer is lost."""
        keyed = request if request.idempotency_key else request.model_copy(update={"idempotency_key": new_key()})
        return await self._write(Job, "jobs", keyed, repeatable=True)

    async def jobs(self, query: JobQuery | None = None) -> list[Job]:
        """Jobs that match a query, newest first; the newest ones without a query."""
        params = query.model_dump(mode="json", exclude_none=True) if query is not None else {}
        return await self._get(list[Job], "jobs", **params)

    async def job(self, job: str) -> Job:
        """Fetches one job as it is now."""
        return await self._get(Job, f"jobs/{segment(job)}")

    async def job_events(self, job: str, *, attempt: int = 0, seq: int = -1) -> list[ExecutorEvent]:
        """Events of a job's executor after the event (attempt, seq)."""
        return await self._get(list[ExecutorEvent], f"jobs/{segment(job)}/events", attempt=attempt, seq=seq)

    async def job_log(self, job: str, *, attempt: int = 0, number: int = 0) -> list[JobLogLine]:
        """Lines that a job's executor printed after the line (attempt, number)."""
        return await self._get(list[JobLogLine], f"jobs/{segment(job)}/log", attempt=attempt, number=number)

    async def order_job(self, job: str, order: Literal["cancel", "resume"]) -> Job:
        """Cancels a job that has not ended, or queues one that failed or was cancelled again, as its next attempt."""
        return await self._write(Job, f"jobs/{segment(job)}/{order}", repeatable=True)

    async def nodes(self) -> list[NodeRow]:
        """Lists all nodes."""
        return await self._get(list[NodeRow], "nodes")

    async def forget_node(self, node: str, request: moves.ForgetRequest) -> moves.MoveResult:
        """Forgets a node that is not linked: its replicas leave all counts, for the caller vouches for it."""
        return await self._move(f"nodes/{segment(node)}/forget", request)

    async def relabel_node(self, node: str, request: RelabelRequest) -> NodeRow:
        """Has a node placed by the labels that it says. It links again for it, and serves on meanwhile."""
        return await self._write(NodeRow, f"nodes/{segment(node)}/relabel", request)

    async def order_node(self, node: str, order: Literal["drain", "cordon", "uncordon"]) -> NodeRow:
        """Cordons a node (it gets no new jobs and no new routes of pools), drains it, or ends both.

        A drained node frees its GPU driver too, and routes of pools go elsewhere; its jobs and engines run on until it
        is stopped. Once it is silent, no move waits for it.
        """
        return await self._write(NodeRow, f"nodes/{segment(node)}/{order}", repeatable=True)

    async def pools(self) -> list[PoolRow]:
        """Lists the pools with their nodes."""
        return await self._get(list[PoolRow], "pools")

    async def pool(self, pool: str) -> PoolRow:
        """Fetches one pool with its nodes."""
        return await self._get(PoolRow, f"pools/{segment(pool)}")

    async def set_pool(self, pool: str, config: PoolConfig, reason: str = "") -> PoolRow:
        """Sets what makes a node one of a pool, or makes the pool."""
        return await self._put(PoolRow, f"pools/{segment(pool)}", config, reason)

    async def remove_pool(self, pool: str, reason: str = "") -> None:
        """Removes a pool that no route is placed in."""
        await self._delete(f"pools/{segment(pool)}", {"reason": reason or None})

    async def placement(self, tenant: str, route: str) -> PlacementExplained:
        """Asks why a route of a pool is on its nodes."""
        return await self._get(PlacementExplained, f"{_route(tenant, route)}/placement")

    async def placement_preview(
        self, *, without: Sequence[str] = (), slots: int | None = None, pool: str | None = None
    ) -> PlacementPreview:
        """Asks what would move if nodes were gone, or one more with so many slots were in a pool."""
        gone = ",".join(without) or None
        return await self._get(PlacementPreview, "placement", without=gone, slots=slots, pool=pool)

    async def capacity(self) -> list[CapacityRow]:
        """Reads what pools and nodes hold at each level."""
        return await self._get(list[CapacityRow], "capacity")

    async def capacity_for_routes(self, pool: str, routes: int, *, always: bool) -> CapacityPlan:
        """Asks whether so many new routes fit into a pool."""
        path, kind = f"pools/{segment(pool)}/capacity", "true" if always else None
        return await self._get(CapacityPlan, path, routes=routes, always=kind)

    async def capacity_for_promote(self, tenant: str, route: str, release: str) -> CapacityPlan:
        """Asks whether a promote fits."""
        return await self._get(CapacityPlan, f"{_route(tenant, route)}/capacity", promote=release)

    # ---- tokens and backup (own socket only) ---------------------------------------------------------------

    async def create_token(self, request: TokenCreate) -> responses.TokenCreated:
        """Creates a token. Only over the hub's own socket."""
        return await self._write(responses.TokenCreated, "tokens", request)

    async def invite(self, invitation: Invitation) -> JoinToken:
        """Makes a join token for a node. Only over the hub's own socket."""
        return await self._write(JoinToken, "join-tokens", invitation)

    async def revoke_node(self, node: str) -> Revoked:
        """Revokes every token and key of a node. Only over the hub's own socket."""
        return await self._write(Revoked, f"nodes/{segment(node)}/revoke")

    async def rotate_authority(self, *, force: bool) -> AuthorityState:
        """Takes the next step of replacing the hub's authority. Only over the hub's own socket."""
        return await self._write(AuthorityState, f"authority/rotate?force={str(force).lower()}")

    async def tokens(self) -> list[TokenRecord]:
        """Lists all token records ever made, without the tokens. Only over the hub's own socket."""
        return await self._get(list[TokenRecord], "tokens")

    async def revoke_token(self, token_id: str) -> None:
        """Revokes a token. Only over the hub's own socket."""
        person = token_id.startswith("oidc:")  # and a provider's word for somebody
        await self._delete(f"tokens/{quote(token_id, safe='') if person else segment(token_id)}")

    # ---- notices -------------------------------------------------------------------------------------------

    async def notices(self, *, limit: int = 50) -> NoticeList:
        """The newest notices, newest first, the channels and the silences."""
        return await self._get(NoticeList, "notices", limit=limit)

    async def test_notice(self, channel: str) -> Notice:
        """Has one channel be told that this is a test."""
        return await self._write(Notice, "notices/test", ChannelRef(channel=channel))

    async def retry_notices(self, channel: str) -> int:
        """Has a channel be given at once what waits for it or was given up; returns how many that are."""
        return await self._write(int, "notices/retry", ChannelRef(channel=channel))

    async def silence(self, request: SilenceRequest) -> Silence:
        """Tells nobody of what matches for some time."""
        return await self._write(Silence, "silences", request)

    async def unsilence(self, silence_id: str) -> None:
        """Ends a silence."""
        await self._delete(f"silences/{segment(silence_id)}")

    async def backup(self, path: str) -> responses.BackupMade:
        """Copies the hub's database consistently to an absolute path on its host. Only over the hub's own socket."""
        return await self._write(responses.BackupMade, "backup", {"path": path}, extra_s=600)

    async def collect(self, request: CollectRequest) -> CollectPlan:
        """Plans or executes a garbage collection of the hub's artifact files. Only over the hub's own socket."""
        return await self._write(CollectPlan, "collect", request, repeatable=request.dry_run, extra_s=600)


def _route(tenant: str, route: str) -> str:
    return f"tenants/{segment(tenant)}/routes/{segment(route)}"
