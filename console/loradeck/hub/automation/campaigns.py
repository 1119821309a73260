"""Campaigns at the hub: looked at once a second, and carried out by the calls that people have for it."""

import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from pydantic import Field

from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.node_tables import NodeTables
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.fleet.pools import Pools
from loradeck.hub.jobs.gates import Gates
from loradeck.hub.jobs.job_records import JobRecords
from loradeck.hub.jobs.promotion import Promotion, Promotions
from loradeck.hub.jobs.queue import Queue, job_id
from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.background import Background
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.log import AtRev, Kept, Log, Published
from loradeck.hub.log.store_thread import StoreThread
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.errors import Refused
from loradeck.rules.moves import campaigns as rules
from loradeck.rules.moves import candidate
from loradeck.rules.moves.campaigns import Act, Seen
from loradeck.rules.moves.draft import Actor
from loradeck.rules.quality.duties import ASKS_PEOPLE, asks_people
from loradeck.rules.quality.gates import FROM_ANCHOR
from loradeck.schemas.campaign import Campaign, CampaignRequest, CampaignState, CampaignUnit, Stage
from loradeck.schemas.ids import Digest, PointerKey, Role
from loradeck.schemas.jobs import FLEET as NODES
from loradeck.schemas.jobs import OVER, EvaluateSpec, JobRequest, JobState, LeakSpec, TrainSpec
from loradeck.schemas.log import CANDIDATE_ENDED, Event, EventKind, PointerState
from loradeck.schemas.manifest import AdapterVersion
from loradeck.schemas.moves import CandidateAbortRequest, CandidateStartRequest, PromoteRequest
from loradeck.schemas.replica_state import AckState, EngineState
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.automation.campaigns")

CAMPAIGNS = "campaigns"
"""The store's setting that holds them."""

OVER_KEPT = 50
"""Campaigns that are over and kept in memory, the newest. The log has all of them."""

AGAIN_S = 30.0
"""Seconds after which the same is tried for a route again."""


class _Known(AtRev):
    """Campaigns by their names, in the order of their beginning."""

    campaigns: dict[str, Campaign] = Field(default_factory=dict)


@dataclass(eq=False, kw_only=True)
class Campaigns:
    """The campaigns of this hub. It follows the log, which alone says how far each route has come."""

    log: Log
    store: StoreThread
    catalogue: Catalogue
    facts: Facts
    gates: Gates
    jobs: JobRecords
    queue: Queue
    promotions: Promotions
    fleet: Fleet
    tables: NodeTables
    replicas: PlacedReplicas
    pools: Pools
    ordered: Callable[[Node], None]
    allowed: MovesAllowed
    background: Background
    clock: Clock
    _acting: bool = field(default=False, init=False)
    _refused: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict, init=False)
    """(campaign, route) -> code and words of the refusal of what was tried last."""
    _tried: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict, init=False)
    """(campaign, route) -> what was tried last, and when, on the monotonic clock."""
    _starting: dict[tuple[str, str], Promotion] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._kept = Kept(self.log, self.store, CAMPAIGNS, _Known)
        self.save = self._kept.save
        for event in self._kept.unread():
            self._take(event)

    def committed(self, published: Published) -> None:
        """Takes note of new events; a follower of the log."""
        for event in published.events:
            self._take(event)
        for at, begun in list(self._starting.items()):
            if not begun.over.is_set() and not self._is_open(self.get(at[0])):
                self.promotions.cancel(begun.id, f"campaign {at[0]}")

    def _take(self, event: Event) -> None:
        every = self._kept.state.campaigns
        self._kept.state.rev = event.rev
        name = str(event.payload.get("campaign", "")) if event.kind is EventKind.CAMPAIGN else ""
        now = rules.after(every.get(name), event) if name else None
        if now is None:
            return
        every[name] = now
        over = [
            one.campaign for one in every.values() if one.state not in (CampaignState.RUNNING, CampaignState.PAUSED)
        ]
        for old in over[: len(over) - OVER_KEPT] if len(over) > OVER_KEPT else ():
            del every[old]

    # ---- reading -------------------------------------------------------------------------------------------

    def all(self, since: int = -1) -> list[Campaign]:
        """Every campaign that is not over and the newest that are, the newest first; those changed after a rev."""
        return [one for one in reversed(self._kept.state.campaigns.values()) if one.rev > since]

    def get(self, name: str) -> Campaign:
        """A campaign by its name. Raises: Refused: unknown_campaign."""
        found = self._kept.state.campaigns.get(name)
        if found is None:
            raise unknown_campaign(name)
        return found

    def check_free(self, name: str, units: Iterable[str] = ()) -> None:
        """Checks that no campaign has this name, or is over a route of these. Raises: Refused: campaign_exists."""
        busy = self._busy()
        taken = [f"{unit} is in the campaign {busy[unit]}" for unit in units if unit in busy]
        if name in self._kept.state.campaigns or taken:
            title = f"there is a campaign {name} already" if not taken else "another campaign has begun meanwhile"
            raise Refused("campaign_exists", title, detail="; ".join(taken[:3]), fix="give it another name")

    def _busy(self) -> dict[str, str]:
        """The campaign of each route or node that is in one which is not over."""
        return {unit: one.campaign for one in self.all() if self._is_open(one) for unit in one.units}

    async def planned(self, request: CampaignRequest, by: str) -> tuple[Campaign, dict[str, str]]:
        """The campaign that a request asks for, and the routes that it leaves out with the reason for each.

        Raises: Refused: campaign_exists, unknown_base, unknown_route, unknown_release.
        """
        name, base, state = request.campaign, request.plan.base, self.log.state
        self.check_free(name)
        if base is not None:
            self.catalogue.check_base(base)
        if request.plan.engine:
            return self._of_nodes(request, by)
        named = {(one.tenant, one.route): one.release for one in request.targets}
        for (tenant, route), release in named.items():
            state.route(tenant, route)
            if release is not None:
                self.catalogue.known(tenant, release)
        jobs = {str((job.result or {}).get("adapter")): job for job in await self.jobs.every() if job.kind == "train"}
        busy = self._busy()
        units, left_out = dict[str, CampaignUnit](), dict[str, str]()
        for key in named or sorted(key for key in state.pointers if not state.tenant(key[0]).offboarded):
            live, to, job = state.pointer(key).release, named.get(key), None
            of = self.catalogue.release(live, key[0]) if live is not None else None
            version = self.catalogue.version_of(of) if of is not None else None
            if to is None and base is not None and version is not None:
                to, job = self._later(version, base), jobs.get(version.digest)
            why = {
                "it has no adapter live": to is None and version is None,
                "it is on that base already": named.get(key) is None and of is not None and of.served_base == base,
                "that release is live already": to is not None and to == live,
                "no job here has trained it: train it on the base, and name its release": to is None and job is None,
                ASKS_PEOPLE: asks_people(state.config(key)),
                "its route has no gate": state.config(key).gate is None and not request.plan.ungated,
            }
            unit = CampaignUnit(tenant=key[0], route=key[1], release=to, was=live or "")
            if to is None and job is not None:
                unit = unit.model_copy(update={"recipe": job.id, "gpu_hours": job.gpu_hours or 0.0})
            said = [words for words, so in why.items() if so]
            said += [f"it is in the campaign {busy[unit.name]}"] if unit.name in busy else []
            if said:
                left_out[unit.name] = said[0]
            else:
                units[unit.name] = unit
        now_ms = self.clock.now_ms()
        return Campaign(campaign=name, plan=request.plan, by=by, started_ms=now_ms, units=units), left_out

    def _of_nodes(self, request: CampaignRequest, by: str) -> tuple[Campaign, dict[str, str]]:
        """The campaign of an engine upgrade. Raises: Refused: unknown_node."""
        nodes, text = self.fleet.nodes, request.plan.engine
        for name in request.nodes:
            self.fleet.known(name)
        asked = request.nodes or sorted(name for name, node in nodes.items() if node.replicas)
        cordoned = "it is cordoned, and would be let in again: uncordon it first"
        left_out = {name: cordoned for name in asked if nodes[name].cordoned}
        left_out |= {name: "its engines have that build already" for name in asked if _has(nodes[name], text)}
        units = [CampaignUnit(tenant=NODES, route=name) for name in asked if name not in left_out]
        of = {unit.name: unit for unit in units}
        now_ms = self.clock.now_ms()
        return Campaign(campaign=request.campaign, plan=request.plan, by=by, started_ms=now_ms, units=of), left_out

    def _later(self, live: AdapterVersion, base: Digest) -> Digest | None:
        """The release of an adapter's newest version on a base that came after the live one; None: there is none."""
        same, adapters = (live.manifest.tenant, live.manifest.name, base), self.catalogue.adapters.values()
        found = (one for one in adapters if (one.manifest.tenant, one.manifest.name, one.manifest.base) == same)
        newest = max(
            (one for one in found if one.release not in self.facts.revoked), key=attrgetter("version"), default=live
        )
        return newest.release if newest.version > live.version else None

    @staticmethod
    def _is_open(one: Campaign) -> bool:
        return one.state in (CampaignState.RUNNING, CampaignState.PAUSED)

    async def before(self, campaign: Campaign) -> dict[PointerKey, PointerState]:
        """The pointers that still are as this campaign has moved them, as they were before it."""
        found = dict[PointerKey, PointerState]()
        for unit in campaign.units.values():
            pointer = self.log.state.pointer((unit.tenant, unit.route))
            last = self.log.last_move(pointer) if _is_out(pointer, unit) else None
            was = await self.log.pointer_before(last) if last is not None else None
            if last is None or was is None:
                continue
            start = was.last_move if last.kind is EventKind.CANDIDATE_FINISH and last.id != unit.start else last.id
            if start == (unit.start or self._started(campaign, pointer)):  # which may not be noted yet
                found[pointer.key] = was
        return found

    def _started(self, campaign: Campaign, pointer: PointerState) -> str:
        """The id of a pointer's last move, if this campaign has made it; '': somebody else has, and it stays."""
        last = self.log.last_move(pointer)
        return last.id if last is not None and last.actor == _actor(campaign).name else ""

    # ---- carrying out --------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Looks at the campaigns that have something to do; called once a second."""
        if self._acting or not self.allowed.forward:
            return
        due = [one for one in self.all() if self._is_open(one) or one.under_way]
        if due:
            self._acting = True
            self.background.spawn(self._look(due))

    async def _look(self, due: Iterable[Campaign]) -> None:
        try:
            for campaign in due:
                await self._act(campaign)
        except (Refused, StoreError) as error:
            log.error("a campaign could not go on code=%s %s", error.code, error)
        finally:
            self._acting = False

    async def _act(self, campaign: Campaign) -> None:
        seen = {unit.name: await self._seen(campaign, unit) for unit in campaign.under_way}
        decision = rules.decide(campaign, seen, self.clock.now_ms())
        undone = {act.unit.name for act in decision.acts if not await self._try(campaign, act)}
        decision = rules.without(decision, campaign, undone)
        if not decision.units and decision.state is None:
            return
        name, actor = campaign.campaign, _actor(campaign)
        async with self.log.moving:
            if self._kept.state.campaigns.get(name) is not campaign:
                return  # a person was faster: what to do is decided anew
            drafts = [rules.unit_event(name, unit, actor) for unit in decision.units]
            if decision.state is not None:
                drafts.append(rules.state_event(campaign, decision.state, actor, decision.why))
            self.allowed.check_all(drafts)
            await self.log.commit(drafts, f"campaign {name} {self.log.state.rev}")

    async def _seen(self, campaign: Campaign, unit: CampaignUnit) -> Seen:
        at, key = (campaign.campaign, unit.name), (unit.tenant, unit.route)
        refused, pointer = self._refused.get(at), self.log.state.pointer(key)
        if unit.tenant == NODES:
            return self._seen_of(unit.route, campaign.plan.engine)._replace(refused=refused)
        last = self.log.last_move(pointer)
        moved = f"{last.kind.value} by {last.actor} {last.reason}".strip() if last is not None else ""
        if unit.at is Stage.TRAINING:
            now = Seen(live=pointer.release, last=moved, refused=refused)
            job = await self.jobs.find_one(job_id(_key(campaign, unit, "train")))
            if job is None:
                return now
            made, says = (job.result or {}).get("release"), f"{job.code or job.state.value}: {job.message}"
            return now._replace(job=job.state, made=made, gpu_hours=job.gpu_hours, says=says, refused=None)
        started = self._starting.get(at)
        if started is not None and started.over.is_set():
            del self._starting[at]
            if isinstance(started.error, Refused | StoreError):
                refused = self._refused[at] = started.error.code, str(started.error)
        gate, awaits, says = self._gate(key, unit) if unit.at is Stage.GATING else (None, "", "")
        return Seen(
            gate=gate,
            awaits=awaits,
            live=pointer.release,
            out=pointer.candidate.release if pointer.candidate is not None else None,
            start=self._started(campaign, pointer),
            soaked=unit.release is not None and self.facts.is_soaked(key, unit.release),
            back=last is not None
            and last.at_ms >= unit.since_ms
            and unit.release in (last.from_release, last.payload.get(CANDIDATE_ENDED)),
            forward=last is not None and last.kind in (EventKind.PROMOTE, EventKind.CANDIDATE_FINISH),
            says=says or moved,
            last=moved,
            refused=refused,
        )

    def _seen_of(self, name: str, engine: str) -> Seen:
        node = self.fleet.nodes.get(name)
        if node is None or not node.linked:
            return Seen(drained=node is not None and node.drained, awaits="it is not linked")
        keys = self.tables.placed(self.tables.table(node.labels, node.name, own=False))
        own = {replica.replica for replica in node.replicas}
        acks = [(key, ack) for key in keys for replica, ack in self.replicas.acks(key).items() if replica in own]
        failed = ["/".join(key) for key, ack in acks if ack.state is AckState.FAILED]
        ready = {key: self.replicas.ready(key) for key in keys}
        return Seen(
            drained=node.drained,
            built=_has(node, engine),
            proven=False if failed else True if all(name in there for there in ready.values()) else None,
            answers=() if node.drained else tuple(self._answers(name, ready)),
            awaits="it is cordoned, and would be let in again" if node.cordoned and not node.drained else "",
            says=f"not what is recorded: {', '.join(failed[:8])}" if failed else "",
        )

    def _answers(self, name: str, ready: Mapping[PointerKey, Collection[str]]) -> Iterator[tuple[str, frozenset[str]]]:
        """The routes that a node answers for, with the others that do and are not drained, or its pool may choose."""
        nodes, free = self.fleet.nodes, dict[tuple[str, str], set[str]]()
        for key, others in ready.items():
            if name not in others:
                continue
            placed, placing = self.log.state.config(key).pool, self.tables.placing(key)
            pool = self.log.state.pools.get(placed.pool) if placed is not None else None
            if pool is not None and placed is not None and placing is not None:
                at = placed.pool, placing.base
                if at not in free:
                    free[at] = {one for one in self.pools.slots(pool, placing.base) if not self.pools.trouble(one)}
                others = {*others, *free[at]}
            yield "/".join(key), frozenset(one for one in others if one != name and not nodes[one].drained)

    def _gate(self, key: PointerKey, unit: CampaignUnit) -> tuple[bool | None, str, str]:
        """Tells whether a route's gate is passed, what only people or time bring, and what failed."""
        if self.log.state.config(key).gate is None:
            return True, "", ""
        result = self.facts.gate(key, unit.release or "")
        if result is None or result.against != self.log.state.pointer(key).release:
            return None, "", ""
        failed = [check for check in result.checks if not check.passed]
        if any(check.name == FROM_ANCHOR and not check.n for check in failed):
            return None, "", ""
        names = ", ".join(check.name for check in failed)
        late = failed and all(check.unit in ("people", "stage") for check in failed)
        return result.passed, f"its gate asks for {names}" if late else "", names

    async def _try(self, campaign: Campaign, act: Act) -> bool:
        """Does what a campaign does next for a route, unless the same was tried a moment ago; whether it was done."""
        unit, at, now = act.unit, (campaign.campaign, act.unit.name), self.clock.monotonic()
        what, tried = self._tried.get(at, ("", 0.0))
        if at in self._starting or (what == act.what and now < tried + AGAIN_S):
            return False
        self._tried[at] = act.what, now
        do = {"train": self._train, "evaluate": self._evaluate, "start": self._start, "take back": self._take_back}
        try:
            if unit.tenant == NODES:
                self._order(unit, drain=act.what == "drain")
            else:
                await do[act.what](campaign, unit)
        except (Refused, StoreError) as error:
            self._refused[at] = error.code, str(error)
            log.warning("campaign=%s route=%s %s: code=%s %s", *at, act.what, error.code, error)
            return False
        self._refused.pop(at, None)
        return True

    def _order(self, unit: CampaignUnit, *, drain: bool) -> None:
        """Drains a node, or has it serve again; so too where its campaign was stopped."""
        if (node := self.fleet.nodes.get(unit.route)) is not None:
            self.fleet.order(node, cordoned=drain, drained=drain)
            self.ordered(node)

    async def _train(self, campaign: Campaign, unit: CampaignUnit) -> None:
        of = await self.jobs.known(unit.recipe)
        assert isinstance(of.spec, TrainSpec)
        spec = of.spec.model_copy(update={"base": campaign.plan.base, "parent": None})
        asked = {"labels": of.labels, "priority": of.priority, "memory_gb": of.memory_gb}
        await self._submit(campaign, JobRequest(spec=spec, idempotency_key=_key(campaign, unit, "train"), **asked))

    async def _evaluate(self, campaign: Campaign, unit: CampaignUnit) -> None:
        """Has evaluated what a route's gate asks for; once all of it is there, the gate is judged again."""
        key, jobs = (unit.tenant, unit.route), list[str]()
        lacking = await self.gates.lacking(key, unit.release or "")
        for release, suite in lacking:
            name = _key(campaign, unit, f"evaluate {release} {suite}")
            spec: EvaluateSpec | LeakSpec
            if suite is not None:
                spec = EvaluateSpec(tenant=unit.tenant, release=release, suite=suite, route=unit.route)
            else:
                version = self.catalogue.version_of(self.catalogue.known(unit.tenant, release))
                spec = LeakSpec(
                    tenant=unit.tenant, release=release, datasets=version.manifest.datasets if version else ()
                )
            jobs.append(await self._submit(campaign, JobRequest(spec=spec, idempotency_key=name)))
        over = [job for job in map(self.jobs.get, jobs) if job is not None and job.state in OVER]
        if failed := next((job for job in over if job.state is not JobState.DONE), None):
            raise Refused("gate_failed", f"job {failed.id}: {failed.code} {failed.message}".strip())
        if not lacking:
            await self.gates.judge(key, unit.release or "")

    async def _submit(self, campaign: Campaign, request: JobRequest) -> str:
        async def never(job: str, frozen: tuple[Refused, ...]) -> None:
            raise AssertionError("a campaign passes no freeze")

        return (await self.queue.submit(request, campaign.by, never)).id

    async def _start(self, campaign: Campaign, unit: CampaignUnit) -> None:
        """Gives callers the release: all of them, or a share that grows by the campaign's steps."""
        key, steps = (unit.tenant, unit.route), campaign.plan.steps
        pointer = self.log.state.pointer(key)
        if rules.is_moved(unit, pointer.release) or pointer.candidate is not None:
            return  # since it was looked at
        asked = {
            "release": unit.release,
            "expected_generation": pointer.generation,
            "idempotency_key": f"campaign {secrets.token_hex(16)}",
            "reason": f"campaign {campaign.campaign}",
        }
        request = PromoteRequest(**asked) if steps is None else CandidateStartRequest(**asked, plan=steps)
        begun = await self.promotions.begin(key, request, _actor(campaign))
        self._starting[campaign.campaign, unit.name] = begun
        if not self._is_open(self.get(campaign.campaign)):  # it was stopped meanwhile
            self.promotions.cancel(begun.id, f"campaign {campaign.campaign}")

    async def _take_back(self, campaign: Campaign, unit: CampaignUnit) -> None:
        """Ends what is under way for a route of a campaign that was stopped. What is live stays live."""
        job = await self.jobs.find_one(job_id(_key(campaign, unit, "train")))
        if job is not None and job.state not in OVER:
            await self.queue.cancel(job.id, campaign.by)
        async with self.log.moving:
            pointer = self.log.state.pointer((unit.tenant, unit.route))
            if pointer.candidate is not None and pointer.candidate.release == unit.release:
                name = f"campaign {secrets.token_hex(16)}"
                why = f"the campaign {campaign.campaign} was {campaign.state.value}"
                asked = CandidateAbortRequest(expected_generation=pointer.generation, idempotency_key=name, reason=why)
                await self.log.commit([candidate.abort(pointer, asked, _actor(campaign))], name)


def unknown_campaign(name: str) -> Refused:
    """The refusal of a campaign that there is not, or that its caller may not know of."""
    return Refused("unknown_campaign", f"there is no campaign {name!r}", fix="loradeck campaign ls")


def _has(node: Node, engine: str) -> bool:
    """Tells whether every engine of a node runs, and is of a build with this in it."""
    builds = [one.build for one in node.replicas if one.state is EngineState.UP and one.build is not None]
    return 0 < len(builds) == len(node.replicas) and all(engine in build.key for build in builds)


def _is_out(pointer: PointerState, unit: CampaignUnit) -> bool:
    out = pointer.candidate.release if pointer.candidate is not None else None
    return unit.release is not None and unit.release in (pointer.release, out)


def _key(campaign: Campaign, unit: CampaignUnit, what: str) -> str:
    """The key under which something is done for a route: once, however often the hub is started anew."""
    return f"campaign {campaign.campaign} {campaign.started_ms} {unit.name} {what}"


def _actor(campaign: Campaign) -> Actor:
    return Actor(name=f"campaign {campaign.campaign}", role=Role.RELEASER, automation=True)
