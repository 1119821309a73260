"""What the console needs of a hub, and the one that goes through `loradeck.client`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from loradeck.client.config import Context
from loradeck.client.connect import endpoint
from loradeck.client.feed import Feed, FeedItem
from loradeck.client.responses import DatasetEntry, ReleaseDetail, SuiteEntry
from loradeck.schemas.attestation import Attestation, AttestationKind, GateResult
from loradeck.schemas.feed import FeedShow
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.jobs import ExecutorEvent, Job, JobLogLine
from loradeck.schemas.manifest import AdapterVersion
from loradeck.schemas.moves import (
    AnnotateRequest,
    FallbackRequest,
    HoldRequest,
    MoveResult,
    PromoteRequest,
    RewindPlan,
    RewindRequest,
    RollbackRequest,
    UndoRequest,
)
from loradeck.schemas.related import RelatedReleases
from loradeck.schemas.review import Review, ReviewSheet
from loradeck.schemas.state import NodeRow, ReleaseView
from loradeck.schemas.trace import Traced
from loradeck.tui.model.own_moves import Move, Order

if TYPE_CHECKING:
    from loradeck.client.api import HubApi

ANSWER_S = 2.0
"""How long a lost answer is asked for before the console says OUTCOME UNKNOWN; it goes on asking after that."""


class Port(Protocol):
    """A hub, as the console uses it. Calls raise `loradeck.client.errors.ClientError`."""

    def follow(self) -> AsyncGenerator[FeedItem]:
        """The feed, for ever."""
        ...

    async def show(self, rows: frozenset[PointerKey], nodes: frozenset[str]) -> None:
        """Say whose figures are wanted. What moves, comes, goes or changes a flag comes for every row and node."""
        ...

    async def send(self, move: Move) -> MoveResult:
        """Raises: ApiError (refused), HubUnreachable (never sent), OutcomeUnknown (sent, answer lost)."""
        ...

    async def order(self, order: Order) -> NodeRow | Job:
        """What an order has made of its node or job. Raises like `send`."""
        ...

    async def job_events(self, job: str, attempt: int, seq: int) -> list[ExecutorEvent]:
        """What a job's executor reported after an event, the newest thousand."""
        ...

    async def job_log(self, job: str, attempt: int, number: int) -> list[JobLogLine]:
        """What a job's executor printed after a line, the newest thousand lines."""
        ...

    async def outcome(self, key: str) -> MoveResult | None:
        """The result of the move sent under a key; None: it never moved anything."""
        ...

    async def plan_rewind(self, request: RewindRequest) -> RewindPlan:
        """What a rewind would do. Changes nothing."""
        ...

    async def releases(self, tenant: str) -> list[ReleaseView]: ...

    async def gate(self, tenant: str, route: str, release: str, live: str | None) -> GateResult | None:
        """The newest gate result of a release on a route against the live one."""
        ...

    async def gates(self) -> list[Attestation]:
        """Every gate result on record."""
        ...

    async def review_sheet(self, tenant: str, route: str, release: str) -> ReviewSheet:
        """A candidate's answers to look at, and who has signed."""
        ...

    async def sign_review(self, tenant: str, route: str, review: Review) -> GateResult | None:
        """The gate as judged with it; None: a report is missing. Raises like `send`; sent twice it is one."""
        ...

    async def adapters(self) -> list[AdapterVersion]:
        """Every adapter version."""
        ...

    async def scores(self, release: str) -> list[Attestation]:
        """The evaluations of a release, oldest first."""
        ...

    async def data(self) -> tuple[list[DatasetEntry], list[SuiteEntry]]: ...

    async def company(self, tenant: str, route: str) -> RelatedReleases:
        """Other live releases that share something with a pointer's."""
        ...

    async def release(self, release: str) -> ReleaseDetail:
        """A release and its adapter's manifest."""
        ...

    async def traces(self, tenant: str, route: str, release: str | None, last: int) -> Traced:
        """The newest requests of each router, at most `last` of each."""
        ...

    async def aclose(self) -> None: ...


class HubPort:
    """The hub of a context."""

    def __init__(self, context: Context) -> None:
        """Raises: ConfigError (unsafe token file, unusable certificate authority)."""
        # Nothing is on the screen yet. Who says nothing gets the figures of the whole fleet.
        self._feed = Feed(context, show=FeedShow(rows=(), nodes=()))
        self._endpoint = endpoint(context)

    @cached_property
    def _api(self) -> HubApi:
        # HTTP and all of the hub's calls: nothing that the first frame waits for.
        from loradeck.client.api import HubApi
        from loradeck.client.transport import Transport

        return HubApi(Transport(self._endpoint), lookup_s=ANSWER_S)

    def follow(self) -> AsyncGenerator[FeedItem]:
        return self._feed.follow()

    async def show(self, rows: frozenset[PointerKey], nodes: frozenset[str]) -> None:
        await self._feed.show(tuple(f"{tenant}/{route}" for tenant, route in sorted(rows)), tuple(sorted(nodes)))

    async def send(self, move: Move) -> MoveResult:
        tenant, route = move.row
        match move.request:
            case RollbackRequest() as request:
                return await self._api.rollback(tenant, route, request)
            case UndoRequest(txn=str()) as request:
                return await self._api.undo_txn(request)
            case UndoRequest() as request:
                return await self._api.undo(tenant, route, request)
            case FallbackRequest() as request:
                return await self._api.fallback(tenant, route, request)
            case HoldRequest() as request:
                return await self._api.hold(tenant, route, request)
            case PromoteRequest() as request:
                return await self._api.promote(tenant, route, request)
            case AnnotateRequest() as request:
                return await self._api.annotate(tenant, route, request)
            case RewindRequest() as request:
                return await self._api.rewind(request)

    async def order(self, order: Order) -> NodeRow | Job:
        calls: dict[str, Callable[[str], Awaitable[NodeRow | Job]]] = {
            "D": self._api.drain_node,
            "C": self._api.cordon_node,
            "U": self._api.uncordon_node,
            "X": self._api.cancel_job,
            "S": self._api.resume_job,
        }
        return await calls[order.action](order.subject)

    async def job_events(self, job: str, attempt: int, seq: int) -> list[ExecutorEvent]:
        return await self._api.job_events(job, attempt=attempt, seq=seq)

    async def job_log(self, job: str, attempt: int, number: int) -> list[JobLogLine]:
        return await self._api.job_log(job, attempt=attempt, number=number)

    async def outcome(self, key: str) -> MoveResult | None:
        return await self._api.move(key)

    async def plan_rewind(self, request: RewindRequest) -> RewindPlan:
        return await self._api.plan_rewind(request)

    async def releases(self, tenant: str) -> list[ReleaseView]:
        return await self._api.releases(tenant)

    async def gate(self, tenant: str, route: str, release: str, live: str | None) -> GateResult | None:
        found = await self._api.attestations(kind=AttestationKind.GATE, subject=release, tenant=tenant, route=route)
        for attestation in reversed(found):
            try:
                result = GateResult.model_validate(attestation.body)
            except ValidationError:
                continue  # of another version of the hub
            if result.against == live:
                return result
        return None

    async def gates(self) -> list[Attestation]:
        return await self._api.attestations(kind=AttestationKind.GATE)

    async def review_sheet(self, tenant: str, route: str, release: str) -> ReviewSheet:
        return await self._api.review_sheet(tenant, route, release)

    async def sign_review(self, tenant: str, route: str, review: Review) -> GateResult | None:
        return await self._api.sign_review(tenant, route, review)

    async def adapters(self) -> list[AdapterVersion]:
        return await self._api.adapters()

    async def scores(self, release: str) -> list[Attestation]:
        return await self._api.attestations(kind=AttestationKind.EVALUATION, subject=release)

    async def data(self) -> tuple[list[DatasetEntry], list[SuiteEntry]]:
        return await self._api.datasets(), await self._api.suites()

    async def company(self, tenant: str, route: str) -> RelatedReleases:
        return await self._api.company(tenant, route)

    async def release(self, release: str) -> ReleaseDetail:
        return await self._api.release(release)

    async def traces(self, tenant: str, route: str, release: str | None, last: int) -> Traced:
        return await self._api.traces(tenant, route, release=release, last=last)

    async def aclose(self) -> None:
        if "_api" in self.__dict__:
            await self._api.aclose()
