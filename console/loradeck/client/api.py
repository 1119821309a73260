"""The hub's calls, one method each, returning the types of `loradeck.schemas`.

Every method raises `ApiError` when the hub refuses (nothing was changed) and `HubUnreachable` when it could
not be asked (nothing was sent). A move whose answer was lost is asked for by its idempotency key, and sent
again under the same key if it never arrived; where that fails too it raises `OutcomeUnknown`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, TypeAdapter

from loradeck.client.backoff import Backoff
from loradeck.client.config import Context
from loradeck.client.connect import endpoint
from loradeck.client.errors import LEAVES_OPEN, ApiError, HubUnreachable, NotUnderstood, OutcomeUnknown
from loradeck.client.idempotency import new_key
from loradeck.client.responses import (
    AuditVerdict,
    BackupMade,
    BaseEntry,
    DatasetEntry,
    KeyCreated,
    Registered,
    ReleaseDetail,
    SuiteEntry,
    TokenCreated,
)
from loradeck.client.state_list import Listed, listed
from loradeck.client.transport import AnswerLost, Transport, segment
from loradeck.schemas.attestation import Attestation, AttestationKind, GateResult
from loradeck.schemas.dataset_ledger import CollectPlan, CollectRequest, DataPolicy, ErasurePlan, ErasureRequest
from loradeck.schemas.jobs import ExecutorEvent, Job, JobLogLine, JobQuery, JobRequest
from loradeck.schemas.log import Event
from loradeck.schemas.manifest import AdapterManifest, AdapterVersion, BaseManifest, DatasetManifest, SuiteManifest
from loradeck.schemas.moves import (
    AnnotateRequest,
    FallbackRequest,
    HoldRequest,
    LiftRequest,
    MergedRelease,
    MoveResult,
    PromoteRequest,
    RewindPlan,
    RewindRequest,
    RollbackRequest,
    UndoRequest,
    UnpinRequest,
)
from loradeck.schemas.related import RelatedReleases
from loradeck.schemas.review import Review, ReviewSheet
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.state import HubState, NodeRow, ReleaseView, TenantRow
from loradeck.schemas.tenant import TenantCreate, TenantState, TokenCreate, TokenRecord
from loradeck.schemas.trace import Traced

T = TypeVar("T")
Wait = Literal["committed", "flipped", "proven"]

SETTLE_S = 10.0
"""How long a lost answer is asked for before the outcome is called unknown."""


_gate_result: TypeAdapter[GateResult | None] = TypeAdapter(GateResult | None)


class HubApi:
    """A hub. Use as an async context manager, or call `aclose`."""

    def __init__(self, transport: Transport, *, settle_s: float | None = None) -> None:
        self.transport = transport
        self._settle_s = SETTLE_S if settle_s is None else settle_s

    @classmethod
    def to(cls, context: Context) -> HubApi:
        """Raises: ConfigError (unsafe token file, unusable certificate authority)."""
        return cls(Transport(endpoint(context)))

    @property
    def where(self) -> str:
        """The hub's address, for people."""
        return self.transport.where

    async def __aenter__(self) -> HubApi:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self.transport.aclose()

    # ---- what is -------------------------------------------------------------------------------------------

    async def state(self) -> HubState:
        """Everything a console lists, at one rev."""
        return await self.transport.ask(HubState, "GET", "state")

    async def listed(self) -> Listed:
        """The same to be read row by row: of a large fleet, in a tenth of the memory."""
        body = await self.transport.request("GET", "state")
        return await asyncio.to_thread(listed, body, self.transport.where)

    async def row(self, tenant: str, route: str) -> TenantRow:
        """One pointer with its preview."""
        return await self.transport.ask(TenantRow, "GET", _route(tenant, route))

    async def company(self, tenant: str, route: str) -> RelatedReleases:
        """Other live releases that share something with this pointer's."""
        return await self.transport.ask(RelatedReleases, "GET", f"{_route(tenant, route)}/company")

    async def traces(self, tenant: str, route: str, *, release: str | None = None, last: int = 200) -> Traced:
        """The newest requests of each router; `release`: only those that it served."""
        params = {"release": release, "last": last}
        return await self.transport.ask(Traced, "GET", f"{_route(tenant, route)}/traces", params=params, extra_s=60)

    async def events(
        self, *, tenant: str | None = None, route: str | None = None, before: int | None = None, limit: int = 100
    ) -> list[Event]:
        """Newest first; `before` is a rev."""
        params = {"tenant": tenant, "route": route, "before": before, "limit": limit}
        return await self.transport.ask(list[Event], "GET", "events", params=params)

    async def verify_audit(self) -> AuditVerdict:
        """Has the hub recompute the log's chain of hashes."""
        return await self.transport.ask(AuditVerdict, "GET", "audit/verify", extra_s=120)

    # ---- moves ---------------------------------------------------------------------------------------------

    async def promote(
        self, tenant: str, route: str, request: PromoteRequest, *, wait: Wait = "committed", timeout: float = 60
    ) -> MoveResult:
        return await self._move(f"{_route(tenant, route)}/promote", request, wait, timeout)

    async def rollback(
        self, tenant: str, route: str, request: RollbackRequest, *, wait: Wait = "committed", timeout: float = 60
    ) -> MoveResult:
        return await self._move(f"{_route(tenant, route)}/rollback", request, wait, timeout)

    async def undo(
        self, tenant: str, route: str, request: UndoRequest, *, wait: Wait = "committed", timeout: float = 60
    ) -> MoveResult:
        """Undo of one event of this route."""
        return await self._move(f"{_route(tenant, route)}/undo", request, wait, timeout)

    async def undo_txn(self, request: UndoRequest, *, wait: Wait = "committed", timeout: float = 60) -> MoveResult:
        """Undo of every event of a txn."""
        return await self._move("undo", request, wait, timeout)

    async def fallback(
        self, tenant: str, route: str, request: FallbackRequest, *, wait: Wait = "committed", timeout: float = 60
    ) -> MoveResult:
        return await self._move(f"{_route(tenant, route)}/fallback", request, wait, timeout)

    async def hold(self, tenant: str, route: str, request: HoldRequest) -> MoveResult:
        """Sets or clears the hold."""
        return await self._move(f"{_route(tenant, route)}/hold", request)

    async def lift(self, tenant: str, route: str, request: LiftRequest) -> MoveResult:
        return await self._move(f"{_route(tenant, route)}/lift", request)

    async def unpin(self, tenant: str, route: str, request: UnpinRequest) -> MoveResult:
        return await self._move(f"{_route(tenant, route)}/unpin", request)

    async def annotate(self, tenant: str, route: str, request: AnnotateRequest) -> MoveResult:
        return await self._move(f"{_route(tenant, route)}/annotate", request)

    async def plan_rewind(self, request: RewindRequest) -> RewindPlan:
        """What a rewind would do. Changes nothing."""
        plan = request.model_copy(update={"dry_run": True})
        return await self.transport.ask(RewindPlan, "POST", "rewind", body=plan, repeatable=True)

    async def rewind(self, request: RewindRequest, *, wait: Wait = "committed", timeout: float = 60) -> MoveResult:
        """Executes a plan, whose `generations` it carries."""
        return await self._move("rewind", request.model_copy(update={"dry_run": False}), wait, timeout)

    async def recover(self, reason: str, key: str) -> MoveResult:
        """After a restore: append what the nodes know, raise the epoch. Own socket only."""
        body = {"idempotency_key": key, "reason": reason}
        return await self._move("recover", body)

    async def move(self, key: str) -> MoveResult | None:
        """The result of the move that was sent under a key; None: it never moved anything."""
        try:
            return await self.transport.ask(MoveResult, "GET", f"moves/{segment(key)}")
        except ApiError as error:
            if error.code == "unknown_key":
                return None
            raise

    # ---- tenants -------------------------------------------------------------------------------------------

    async def tenants(self) -> list[TenantState]:
        return await self.transport.ask(list[TenantState], "GET", "tenants")

    async def tenant(self, tenant: str) -> TenantState:
        return await self.transport.ask(TenantState, "GET", f"tenants/{segment(tenant)}")

    async def create_tenant(self, request: TenantCreate) -> TenantState:
        return await self._write(TenantState, "tenants", request)

    async def suspend_tenant(self, tenant: str, reason: str = "") -> TenantState:
        return await self._write(TenantState, f"tenants/{segment(tenant)}/suspend", {"reason": reason})

    async def resume_tenant(self, tenant: str, reason: str = "") -> TenantState:
        return await self._write(TenantState, f"tenants/{segment(tenant)}/resume", {"reason": reason})

    async def offboard_tenant(self, tenant: str, reason: str = "") -> TenantState:
        return await self._write(TenantState, f"tenants/{segment(tenant)}/offboard", {"reason": reason})

    async def set_data_policy(self, tenant: str, policy: DataPolicy, reason: str = "") -> DataPolicy:
        """Which rows the tenant's adapters may be trained on, whole."""
        path = f"tenants/{segment(tenant)}/data-policy"
        params = {"reason": reason or None}
        return await self.transport.ask(DataPolicy, "PUT", path, body=policy, params=params, repeatable=True)

    async def create_key(self, tenant: str) -> KeyCreated:
        """A key for the tenant's own callers."""
        return await self._write(KeyCreated, f"tenants/{segment(tenant)}/keys")

    async def withdraw_key(self, tenant: str, key_id: str) -> None:
        await self._delete(f"tenants/{segment(tenant)}/keys/{segment(key_id)}")

    async def set_route(self, tenant: str, route: str, config: RouteConfig) -> RouteConfig:
        """The whole of a route's settings; creates the route where there was none."""
        return await self.transport.ask(RouteConfig, "PUT", _route(tenant, route), body=config, repeatable=True)

    async def review_sheet(self, tenant: str, route: str, release: str) -> ReviewSheet:
        """The sampled answers of a candidate that the route's gate wants looked at."""
        return await self.transport.ask(ReviewSheet, "GET", f"{_route(tenant, route)}/reviews/{segment(release)}")

    async def sign_review(self, tenant: str, route: str, review: Review) -> GateResult | None:
        """Signed by the caller's name. The same review again changes nothing."""
        path = f"{_route(tenant, route)}/reviews"
        return await self.transport.ask(_gate_result, "POST", path, body=review, repeatable=True)

    # ---- registry ------------------------------------------------------------------------------------------

    async def register_base(self, manifest: BaseManifest) -> Registered:
        return await self.transport.ask(Registered, "POST", "bases", body=manifest, repeatable=True)

    async def bases(self) -> list[BaseEntry]:
        return await self.transport.ask(list[BaseEntry], "GET", "bases")

    async def register_dataset(self, manifest: DatasetManifest, *, accept: str = "") -> Registered:
        """`accept`: why its rows are taken in although something was found in them. All rows are read meanwhile."""
        params = {"accept": accept or None}
        return await self.transport.ask(
            Registered, "POST", "datasets", body=manifest, params=params, repeatable=True, extra_s=600
        )

    async def datasets(self) -> list[DatasetEntry]:
        return await self.transport.ask(list[DatasetEntry], "GET", "datasets")

    async def plan_erasure(self, request: ErasureRequest) -> ErasurePlan:
        """What descends from rows. Changes nothing."""
        plan = request.model_copy(update={"dry_run": True})
        return await self.transport.ask(ErasurePlan, "POST", "erasures", body=plan, repeatable=True, extra_s=600)

    async def erase(self, request: ErasureRequest) -> ErasurePlan:
        """Carries out a plan, whose rows and digest it carries. The same plan again changes nothing."""
        sent = request.model_copy(update={"dry_run": False})
        return await self.transport.ask(ErasurePlan, "POST", "erasures", body=sent, repeatable=True, extra_s=600)

    async def register_suite(self, manifest: SuiteManifest, *, accept: str = "") -> Registered:
        """`accept`: why its items are taken in although something was found in them. All are read meanwhile."""
        params = {"accept": accept or None}
        return await self.transport.ask(
            Registered, "POST", "suites", body=manifest, params=params, repeatable=True, extra_s=600
        )

    async def suites(self) -> list[SuiteEntry]:
        return await self.transport.ask(list[SuiteEntry], "GET", "suites")

    async def register_adapter(self, manifest: AdapterManifest) -> AdapterVersion:
        """The blobs it names must be at the hub already."""
        path = f"adapters/{segment(manifest.tenant)}/{segment(manifest.name)}/versions"
        return await self.transport.ask(AdapterVersion, "POST", path, body=manifest, repeatable=True)

    async def adapters(self, tenant: str | None = None) -> list[AdapterVersion]:
        """Every adapter version, or all of one tenant."""
        return await self.transport.ask(list[AdapterVersion], "GET", "adapters", params={"tenant": tenant})

    async def adapter_versions(self, tenant: str, name: str) -> list[AdapterVersion]:
        path = f"adapters/{segment(tenant)}/{segment(name)}/versions"
        return await self.transport.ask(list[AdapterVersion], "GET", path)

    async def register_merged(self, release: MergedRelease) -> ReleaseView:
        """The adapter's release and the merged weights must be registered already."""
        return await self.transport.ask(ReleaseView, "POST", "releases", body=release, repeatable=True)

    async def release(self, release: str) -> ReleaseDetail:
        return await self.transport.ask(ReleaseDetail, "GET", f"releases/{segment(release)}")

    async def releases(self, tenant: str | None = None) -> list[ReleaseView]:
        return await self.transport.ask(list[ReleaseView], "GET", "releases", params={"tenant": tenant})

    async def attest(self, attestation: Attestation) -> Attestation:
        return await self._write(Attestation, "attestations", attestation)

    async def attestations(
        self,
        *,
        kind: AttestationKind | None = None,
        subject: str | None = None,
        tenant: str | None = None,
        route: str | None = None,
    ) -> list[Attestation]:
        """Oldest first."""
        params = {"kind": kind.value if kind else None, "subject": subject, "tenant": tenant, "route": route}
        return await self.transport.ask(list[Attestation], "GET", "attestations", params=params)

    # ---- jobs and nodes ------------------------------------------------------------------------------------

    async def submit_job(self, request: JobRequest) -> Job:
        """Sent again under its idempotency key when the answer is lost; a key is made where it has none."""
        keyed = request if request.idempotency_key else request.model_copy(update={"idempotency_key": new_key()})
        return await self._write(Job, "jobs", keyed, repeatable=True)

    async def jobs(self, query: JobQuery | None = None) -> list[Job]:
        """Newest first; the newest ones where nothing is asked for."""
        params = query.model_dump(mode="json", exclude_none=True) if query is not None else {}
        return await self.transport.ask(list[Job], "GET", "jobs", params=params)

    async def job(self, job: str) -> Job:
        return await self.transport.ask(Job, "GET", f"jobs/{segment(job)}")

    async def job_events(self, job: str, *, attempt: int = 0, seq: int = -1) -> list[ExecutorEvent]:
        """What its executor said after the event (attempt, seq)."""
        params = {"attempt": attempt, "seq": seq}
        return await self.transport.ask(list[ExecutorEvent], "GET", f"jobs/{segment(job)}/events", params=params)

    async def job_log(self, job: str, *, attempt: int = 0, number: int = 0) -> list[JobLogLine]:
        """What its executor printed after the line (attempt, number)."""
        params = {"attempt": attempt, "number": number}
        return await self.transport.ask(list[JobLogLine], "GET", f"jobs/{segment(job)}/log", params=params)

    async def cancel_job(self, job: str) -> Job:
        return await self._write(Job, f"jobs/{segment(job)}/cancel", repeatable=True)

    async def resume_job(self, job: str) -> Job:
        """Queues a failed or cancelled job again, as its next attempt."""
        return await self._write(Job, f"jobs/{segment(job)}/resume", repeatable=True)

    async def nodes(self) -> list[NodeRow]:
        return await self.transport.ask(list[NodeRow], "GET", "nodes")

    async def drain_node(self, node: str) -> NodeRow:
        return await self._write(NodeRow, f"nodes/{segment(node)}/drain", repeatable=True)

    async def cordon_node(self, node: str) -> NodeRow:
        return await self._write(NodeRow, f"nodes/{segment(node)}/cordon", repeatable=True)

    async def uncordon_node(self, node: str) -> NodeRow:
        """Ends a cordon and a drain."""
        return await self._write(NodeRow, f"nodes/{segment(node)}/uncordon", repeatable=True)

    # ---- tokens and backup (own socket only) ---------------------------------------------------------------

    async def create_token(self, request: TokenCreate) -> TokenCreated:
        return await self._write(TokenCreated, "tokens", request)

    async def tokens(self) -> list[TokenRecord]:
        return await self.transport.ask(list[TokenRecord], "GET", "tokens")

    async def revoke_token(self, token_id: str) -> None:
        await self._delete(f"tokens/{segment(token_id)}")

    async def backup(self, path: str) -> BackupMade:
        """A consistent copy of the hub's database at an absolute path of its host."""
        return await self._write(BackupMade, "backup", {"path": path}, extra_s=600)

    async def collect(self, request: CollectRequest) -> CollectPlan:
        """Files of the hub that nothing can go back to: the plan, or its execution."""
        return await self._write(CollectPlan, "collect", request, repeatable=request.dry_run, extra_s=600)

    # ---- how moves and other writes are sent -----------------------------------------------------------------

    async def _move(
        self, path: str, request: BaseModel | Mapping[str, Any], wait: Wait | None = None, timeout: float = 60
    ) -> MoveResult:
        key = request["idempotency_key"] if isinstance(request, Mapping) else getattr(request, "idempotency_key", "")
        began = time.monotonic()

        async def send(spent: float = 0.0) -> MoveResult:
            left = max(0.0, timeout - spent)
            params = {"wait": wait, "timeout": left if wait is not None else None}
            return await self.transport.ask(
                MoveResult, "POST", path, body=request, params=params, extra_s=left, repeatable=False
            )

        try:
            return await send()
        except (AnswerLost, NotUnderstood):
            pass
        except ApiError as error:
            if error.code not in LEAVES_OPEN:
                raise
        deadline = time.monotonic() + self._settle_s
        for pause in Backoff(0.1, 2.0).pauses():
            await asyncio.sleep(pause)
            # Asked for first. Sent again where it never arrived, or joined again where it is still being prepared:
            # the key keeps it from moving twice.
            asked = False
            try:
                found = await self.move(key)
                if found is not None and found.pending is None:
                    return found
                asked = True
                return await send(time.monotonic() - began)
            except (AnswerLost, HubUnreachable):
                pass
            except ApiError as error:
                if asked and error.code not in LEAVES_OPEN:
                    raise
            if time.monotonic() > deadline:
                break
        raise OutcomeUnknown(key, detail=self.where)

    async def _write(
        self,
        kind: type[T],
        path: str,
        body: BaseModel | Mapping[str, Any] | None = None,
        *,
        repeatable: bool = False,
        extra_s: float = 0.0,
    ) -> T:
        """A POST that is no move. Raises `OutcomeUnknown` without a key when its answer was lost."""
        try:
            return await self.transport.ask(kind, "POST", path, body=body, repeatable=repeatable, extra_s=extra_s)
        except (AnswerLost, NotUnderstood) as error:
            raise OutcomeUnknown(None, detail=error.detail) from None

    async def _delete(self, path: str) -> None:
        """Withdraws something; sent once more when its answer was lost."""
        try:
            await self.transport.request("DELETE", path, repeatable=True)
        except (AnswerLost, NotUnderstood) as error:
            raise OutcomeUnknown(None, detail=error.detail) from None


def _route(tenant: str, route: str) -> str:
    return f"tenants/{segment(tenant)}/routes/{segment(route)}"
