"""The pool: where the hub has placed its tenants, and what becomes of one while the node that serves it is drained.

Their callers ask a gateway. Which node admitted a request is read from the nodes' own traces, and whether it was
answered by the same release from its tokens: at temperature 0 the same weights answer a prompt alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from incident.evidence import Traces
from incident.fleet import Fleet, NotReady
from incident.groundwork import POOL, POOLED
from incident.incident import ROUTE
from incident.progress import Progress
from incident.report import PROVEN, REFUTED, Report
from incident.stage import waited
from incident.traffic import Answer, Callers, Prompt
from loradeck.client.api import HubApi
from loradeck.schemas.pool import PlacementExplained
from loradeck.schemas.state import TenantRow

SAMPLES = 4
"""Prompts that each tenant of the pool is asked before the drain, and the one that moves after it again."""

EXPLAIN = ("placement", "explain")
TRIES = 3
"""How often is looked where a route stands until it has not moved meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Where a route of a pool stands, and how it answered there.

    Attributes:
        replicas: how many nodes the route asks for.
        pool, assigned: the nodes of the pool, and those that the hub has assigned to the route.
        levels: node to how far it is with the route's release: 'proven' once its canaries were answered there.
        release: the id of the release that the pointer names.
        answers: to the samples, in their order.
        admitted: id of an answer to the node that admitted the request and the release that it admitted it to.
    """

    tenant: str
    replicas: int
    pool: Sequence[str]
    assigned: Sequence[str]
    levels: Mapping[str, str]
    release: str
    answers: Sequence[Answer]
    admitted: Mapping[str, tuple[str, str]]

    def against(self) -> list[str]:
        """The counterexamples, by which the claim is broken."""
        found = [f"{self.tenant} is assigned to {node}, no node of the pool" for node in self._outside]
        if len(self.assigned) > self.replicas:
            found.append(f"{self.tenant} is assigned to {' and '.join(self.assigned)}, not to {self.replicas}")
        found += [f"{self.tenant} is {level} on {node}" for node, level in self.levels.items() if level in REFUTED]
        found += [f"{self.tenant}: {answer.status} {answer.text}" for answer in self.answers if not answer.ok]
        for node, release in self.admitted.values():
            if node not in self.assigned:
                found.append(f"{self.tenant} was answered by {node}, which it is not assigned to")
            if release != self.release:
                found.append(f"{self.tenant} was answered by another release on {node}")
        return found

    def missing(self) -> list[str]:
        """The evidence that it lacks."""
        found = [f"{self.tenant} is on {len(self.assigned)} nodes"] if len(self.assigned) < self.replicas else []
        found += [
            f"{self.tenant} is {self.levels.get(node, 'not heard of')} on {node}"
            for node in self.assigned
            if self.levels.get(node) not in (PROVEN, *REFUTED)
        ]
        unseen = sum(answer.ok and answer.id not in self.admitted for answer in self.answers)
        found += [f"{unseen} answers of {self.tenant} are in no node's trace"] if unseen else []
        return found + ([] if self.answers else [f"{self.tenant} was asked nothing"])

    @property
    def _outside(self) -> list[str]:
        return [node for node in self.assigned if node not in self.pool]


@dataclass(frozen=True, kw_only=True)
class Drained:
    """A route of a pool before and after a node that served it was drained.

    Attributes:
        node: the drained one.
        before, after: how it stood.
        meanwhile: what its callers were answered from the order to drain until it stood elsewhere.
        seconds: from the order until the others served it and the drained node had left it.
    """

    node: str
    before: Stand
    after: Stand
    meanwhile: Sequence[Answer]
    seconds: float

    def against(self) -> list[str]:
        """The counterexamples, by which the claim is broken."""
        found = [f"{answer.status} {answer.text}" for answer in self.meanwhile if not answer.ok]
        found += self.after.against()
        for one, other in zip(self.before.answers, self.after.answers, strict=True):
            if one.ok and other.ok and one.text != other.text:
                found.append(f"{one.prompt.id}: {one.text!r}, and after the drain {other.text!r}")
        return found

    def missing(self) -> list[str]:
        """The evidence that it lacks."""
        still = [f"{self.node} has not left it"] if self.node in self.after.assigned else []
        return still + self.after.missing() + ([] if self.meanwhile else ["nothing was asked meanwhile"])


def judge(report: Report, stands: Sequence[Stand], drained: Drained) -> None:
    """Adds the two claims."""
    report.claim(
        "each tenant of the pool is on as many of its nodes as it asks for, and answered there by its release",
        "; ".join(f"{one.tenant} on {' and '.join(one.assigned)} of {len(one.pool)} nodes" for one in stands),
        against=[text for one in stands for text in one.against()],
        missing=[text for one in stands for text in one.missing()],
    )
    before, after = drained.before, drained.after
    report.claim(
        f"{before.tenant}'s node is drained: it is loaded, proven and answered on another one, and no request fails",
        f"{' and '.join(before.assigned)} > {' and '.join(after.assigned)} in {drained.seconds:.1f} s; "
        f"{sum(not answer.ok for answer in drained.meanwhile)} of {len(drained.meanwhile)} requests failed meanwhile",
        against=drained.against(),
        missing=drained.missing(),
    )


async def play(
    fleet: Fleet,
    api: HubApi,
    callers: Callers,
    prompts: Mapping[str, Sequence[Prompt]],
    report: Report,
    progress: Progress,
    *,
    pool: str = POOL,
    tenants: Sequence[str] = POOLED,
) -> None:
    """Looks where the pool's tenants are, drains the node of the first of them, and claims what became of it.

    The node takes routes again afterwards. `prompts`: of each tenant.

    Raises:
        NotReady: the first of them is on no node.
    """
    traces, moving = Traces(fleet), tenants[0]

    async def stand(tenant: str, step: Progress) -> Stand:
        for _ in range(TRIES):
            first = await api.placement(tenant, ROUTE)
            row = await waited(api, tenant, _unsettled(first.replicas), step.update)
            samples = prompts[tenant][:SAMPLES]
            answers = await asyncio.gather(*(callers.ask(fleet.gateway, tenant, prompt) for prompt in samples))
            explained = await api.placement(tenant, ROUTE)
            if _assigned(explained) == _assigned(first):  # else it moved, for a reason of its own
                break
        admitted = await traces.admitted({answer.id for answer in answers if answer.ok})
        return Stand(
            tenant=tenant,
            replicas=explained.replicas,
            pool=[node.node for node in (await api.pool(pool)).nodes],
            assigned=_assigned(explained),
            levels={one.node: one.state.value if one.state else "not heard of" for one in row.replicas},
            release=row.pointer.release or "",
            answers=answers,
            admitted={request: (node, found.release) for request, (node, found) in admitted.items()},
        )

    with progress.step(f"pool {pool}: who is where, and why") as step:
        stands = [await stand(tenant, step) for tenant in tenants]
        why = await asyncio.gather(*(asyncio.to_thread(fleet.said, *EXPLAIN, tenant) for tenant in tenants))
    before = stands[0]
    if not before.assigned:
        raise NotReady(f"{moving} is on no node of pool {pool}")
    leaving = before.assigned[0]
    with progress.step(f"{leaving} is drained, where {moving} is answered") as step:
        asked, over = list[Answer](), asyncio.Event()
        asking = asyncio.create_task(_ask_on(callers, fleet.gateway, moving, prompts[moving], asked, over))
        began = time.monotonic()
        try:
            await api.order_node(leaving, "drain")
            await waited(api, moving, _left(leaving), step.update)
            seconds = time.monotonic() - began
            after = await stand(moving, step)
            why.append(await asyncio.to_thread(fleet.said, *EXPLAIN, moving))
        finally:
            over.set()
            await asking
            await api.order_node(leaving, "uncordon")
    judge(report, stands, Drained(node=leaving, before=before, after=after, meanwhile=asked, seconds=seconds))
    report.notes += ["", "POOL  (by loradeck placement explain; the last one once a node was drained)", *why]


async def assigned(api: HubApi, tenant: str) -> list[str]:
    """The nodes of its pool that serve a tenant."""
    return _assigned(await api.placement(tenant, ROUTE))


async def _ask_on(
    callers: Callers, gateway: str, tenant: str, prompts: Sequence[Prompt], answers: list[Answer], over: asyncio.Event
) -> None:
    """Asks one prompt after the other until it is over."""
    while not over.is_set():
        prompt = prompts[len(answers) % len(prompts)]
        answers.append(await callers.ask(gateway, tenant, prompt, stream=len(answers) % 3 == 2))


def _assigned(explained: PlacementExplained) -> list[str]:
    return [choice.node for choice in explained.choices if choice.assigned]


def _unsettled(replicas: int) -> Callable[[TenantRow], str | None]:
    """What is missing until a route is proven on as many nodes as it asks for, and on no other one."""

    def missing(row: TenantRow) -> str | None:
        if row.placed == replicas == len(row.replicas) == row.proven:
            return None
        return f"on {_nodes(row)}, proven {row.proven}/{row.placed}"

    return missing


def _left(node: str) -> Callable[[TenantRow], str | None]:
    """What is missing until a node has left a route."""
    return lambda row: f"on {_nodes(row)}" if node in _nodes(row).split() else None


def _nodes(row: TenantRow) -> str:
    return " ".join(replica.node for replica in row.replicas)
