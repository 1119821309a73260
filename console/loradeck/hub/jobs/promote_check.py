"""What a promote and each step of a candidate must pass, at its beginning and again at its commit."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loradeck.hub.data.datasets import Datasets
from loradeck.hub.data.lineage import Lineage
from loradeck.hub.jobs.gates import Gates
from loradeck.hub.links.capacity import Capacity
from loradeck.hub.log import reasons
from loradeck.hub.log.attestations import Facts
from loradeck.hub.log.catalogue import Catalogue
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.incidents import Relatives
from loradeck.hub.log.two_people import Proposals
from loradeck.hub.progress.arm_outcomes import Cohorts
from loradeck.rules.data import policy
from loradeck.rules.errors import Refused
from loradeck.rules.moves import candidate, forward, tenants, tickets
from loradeck.rules.moves.draft import Actor, expect_generation
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.quality import arm_comparison, break_glass, duties, stakeholders
from loradeck.rules.quality.loosening import needs_two
from loradeck.rules.quality.signatures import check_signed
from loradeck.rules.serving.capacity import GOES_ON_DEMAND
from loradeck.rules.serving.residency import PriorRoom
from loradeck.schemas.candidate import Candidate
from loradeck.schemas.dataset_ledger import Use
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.log import Draft
from loradeck.schemas.manifest import Form
from loradeck.schemas.moves import (
    CandidateCompareRequest,
    CandidateFinishRequest,
    CandidateStartRequest,
    CandidateStepRequest,
    PromoteRequest,
)
from loradeck.schemas.protocol import Feature
from loradeck.schemas.table import RouteResidency


@dataclass(eq=False, kw_only=True)
class PromoteCheck:
    """Collects what the rules need to decide on a promote, and on a candidate's start, share and finish."""

    state: FoldedLog
    catalogue: Catalogue
    facts: Facts
    capacity: Capacity
    datasets: Datasets
    lineage: Lineage
    gates: Gates
    cohorts: Cohorts
    proposals: Proposals
    relatives: Relatives
    clock: Clock
    on_unread: Callable[[PointerKey, str], None] = field(default_factory=lambda: lambda key, release: None, init=False)
    """Called when stakeholders who have not read a release's card keep it back; a hub without channels tells nobody."""

    async def check(self, key: PointerKey, request: PromoteRequest, actor: Actor) -> tuple[str, ...]:
        """The codes that the request's override passes; none where nothing forbids the promote. Raises: Refused."""
        tenant, config, _ = self.state.route(*key)
        called, now_ms, capacity = self.catalogue.called, self.clock.now_ms(), self.capacity
        release = self.catalogue.release(request.release, key[0])
        base = release.served_base if release is not None else None
        self.datasets.check_descent(release=request.release, base=base)
        if release is not None:
            for one in dict.fromkeys((release.base, release.served_base)):
                self.lineage.check_use(key[0], one)
            signed_by = self.facts.signed.get(release.signed_part, ())
            old = self.facts.deprecation(release)
            if old is not None and now_ms >= old.from_ms:
                raise Refused(
                    "deprecated",
                    f"{called(release.id)} is deprecated, and is not promoted any more",
                    detail=old.reason,
                    fix="promote another one, or deprecate it from a later day on",
                    context={"from_ms": old.from_ms},
                )
            check_signed(release, config.signers, signed_by, called(release.id))
            version = self.catalogue.version_of(release)
            if release.form is Form.ADAPTER and version is not None and version.manifest.dora:
                fix = f"loradeck job merge {key[0]} {release.label}, and promote {release.label}m"
                raise Refused("unsupported_adapter", f"no engine serves DoRA, which {called(release.id)} is", fix=fix)
        result = await self.gates.judge(key, request.release) if config.gate and release else None
        if (
            result is not None
            and isinstance(request, CandidateStartRequest)
            and not candidate.needs_ab(config, request.permille, shadow=request.shadow)
        ):
            result = arm_comparison.for_a_start(result)
        return forward.check_promote(
            self.state.pointer(key),
            request,
            self.facts.of(key),
            config,
            actor=actor,
            release=release,
            gate_results=[result] if result else [],
            tenant=tenant,
            now_ms=now_ms,
            slots_ok=release is None or capacity.prior_room(key, release, now_ms) is not PriorRoom.FULL,
            base_placed=bool(capacity.placed(key, release)) if release else False,
            memory_short=capacity.memory_short(key, release) if release else "",
            left_behind=capacity.left_behind(key, release) if release else (),
            held_up=self.relatives.check_promote(key, request.release, actor.name, now_ms),
            name=called,
        )

    async def drafted(self, key: PointerKey, request: PromoteRequest, actor: Actor) -> Draft:
        """The event that the request would commit now. Raises: Refused."""
        overridden = await self.check(key, request, actor)
        agreed = await self._agreed(key, request.release, request, actor, overridden)
        drafted = _with(self._draft(key, request, actor, overridden), agreed)
        return reasons.kept([drafted], self.state.tenants)[0]  # before it is prepared

    def residency(self, key: PointerKey, request: PromoteRequest, actor: Actor) -> list[Draft]:
        """The event that sets a route on demand with its first release, where the request says so."""
        tenant, config, pointer = self.state.route(*key)
        if not request.on_demand or pointer.generation or config.residency is RouteResidency.ON_DEMAND:
            return []
        config = config.model_copy(update={"residency": RouteResidency.ON_DEMAND})
        return [tenants.set_route(tenant, key[1], config, actor, pointer=pointer, reason=GOES_ON_DEMAND)]

    async def stepped(
        self,
        key: PointerKey,
        request: CandidateStepRequest,
        actor: Actor,
        *,
        placed: frozenset[str] | None = None,
        evidence: dict[str, Any] | None = None,
    ) -> Draft:
        """The event of a change of a candidate's share. Raises: Refused.

        Args:
            placed: as for `Cohorts.keys`.
            evidence: why the hub makes the step by itself.
        """
        overridden, agreed = await self._wider(key, request, actor)
        pointer, facts, keys = self.state.pointer(key), self.facts.of(key), self._keys(key, placed)
        drafted = candidate.step(pointer, facts, request, actor, keys=keys, evidence=evidence, overridden=overridden)
        return _with(drafted, agreed)

    async def compared(self, key: PointerKey, request: CandidateCompareRequest, actor: Actor) -> Draft:
        """The event that begins an A/B. Raises: Refused."""
        overridden, agreed = await self._wider(key, request, actor)
        pointer, facts, now_ms = self.state.pointer(key), self.facts.of(key), self.clock.now_ms()
        drafted = candidate.compare(
            pointer, facts, request, actor, keys=self._keys(key), now_ms=now_ms, overridden=overridden
        )
        return _with(drafted, agreed)

    def _keys(self, key: PointerKey, placed: frozenset[str] | None = None) -> int:
        """Counts the different keys that a pointer's candidate could have had lately; 0 without a candidate."""
        out = self.state.pointer(key).candidate
        return self.cohorts.keys(key, out, placed) if out is not None else 0

    async def _wider(
        self, key: PointerKey, request: CandidateStepRequest | CandidateCompareRequest, actor: Actor
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """The codes that a wider share passes by its override, and who else has agreed to that. Raises: Refused."""
        tenant, config, pointer = self.state.route(*key)
        expect_generation(pointer, request.expected_generation)
        out, share = pointer.candidate, request.permille
        if out is None or share is None or share <= out.permille:
            return (), {}
        wider, now_ms = out.model_copy(update={"permille": share}), self.clock.now_ms()
        needs_ab = candidate.needs_ab(config, share, shadow=out.shadow)
        result = await self.gates.judge(key, out.release) if needs_ab else None
        overridden = candidate.check_wider(
            pointer,
            wider,
            config,
            actor,
            tenant=tenant,
            gate_results=[result] if result else [],
            held_up=self.relatives.check_promote(key, out.release, actor.name, now_ms),
            now_ms=now_ms,
            override=request.override,
            reason=request.reason,
            name=self.catalogue.called,
        )
        return overridden, await self._agreed(key, out.release, request, actor, overridden)

    async def unread(self, key: PointerKey, release: str) -> Refused | None:
        """The refusal of a release that not all stakeholders of a route have read the card of; None: all have."""
        named, live = self.state.config(key).controls.stakeholders, self.state.pointer(key).release
        if not named:
            return None
        now = await self.gates.card(key[0], release, live)
        read = self.facts.acknowledged.get((key, release), ())
        return stakeholders.refusal(self.catalogue.called(release), named, read, live, now)

    async def _agreed(
        self,
        key: PointerKey,
        release: str,
        request: PromoteRequest | CandidateStepRequest | CandidateCompareRequest,
        actor: Actor,
        overridden: tuple[str, ...],
    ) -> dict[str, Any]:
        """Returns who else has asked to open the route's gate for this release, where two people are asked for, or that
        the glass was broken. `overridden`: what the request passes, which may be no gate.

        Raises: Refused `ticket_required`, `not_acknowledged`, `duties_not_separate`, `second_person`,
            `person_required`, `local_only`, `reason_required`.
        """
        config = self.state.config(key)
        if actor.automation:
            steps = not isinstance(request, PromoteRequest) or isinstance(request, CandidateFinishRequest)
            if not steps and duties.asks_people(config):  # steps are of whoever started the candidate
                raise Refused("person_required", duties.ASKS_PEOPLE, fix=f"loradeck promote {key[0]}/{key[1]} RELEASE")
            return {}
        two, ticket = forward.opens_gate(overridden) and needs_two(config), tickets.refusal(config, actor.ticket)
        unread = await self.unread(key, release)
        apart, lacking = config.controls.duties, ticket or unread
        if not two and not apart and lacking is None:
            return {}
        if request.break_glass:
            break_glass.check_alone(actor, request.reason)
            return {break_glass.BROKE: True}
        if lacking is not None:
            if lacking is unread:
                self.on_unread(key, release)
            raise lacking
        if apart:
            person, involved = self.proposals.person(actor.name, actor.token), await self.gates.involved(key, release)
            if mixed := duties.refusal(self.catalogue.called(release), involved, actor.name, person):
                raise mixed
        if not two:
            return {}
        what = {"opens the gate for": release, "at": request.expected_generation}
        other = self.proposals.agreed(key, what, actor.name, actor.token)
        if other is None:
            raise Refused(
                "second_person",
                f"{key[0]}/{key[1]} asks for two people, and the gate is not passed",
                detail=self.catalogue.called(release),
                fix="somebody else asks for the same with an override within 24 hours; or, on the hub's host, "
                "--break-glass REASON",
            )
        return {"agreed": other}

    def _draft(self, key: PointerKey, request: PromoteRequest, actor: Actor, overridden: tuple[str, ...]) -> Draft:
        pointer, facts = self.state.pointer(key), self.facts.of(key)
        if isinstance(request, CandidateFinishRequest):
            name = self.catalogue.called
            return candidate.finish(pointer, facts, request, actor, overridden=overridden, name=name)
        if isinstance(request, CandidateStartRequest):
            begun = self._candidate(key, request)
            lacking = self.capacity.lacking(key, self.catalogue.releases[request.release], Feature.CANDIDATE)
            candidate.check_start(pointer, facts, begun, self.state.tenant(key[0]), lacking=lacking)
            if begun.shadow:
                policy.check_use(self.state.tenant(key[0]), Use.SHADOW, self.state.labels(self.state.config(key)))
            keys = self.cohorts.keys(key, begun)
            return candidate.start(pointer, begun, request, actor, keys=keys, overridden=overridden)
        return forward.promote(pointer, request, actor, attested=facts.attested, overridden=overridden)

    def _candidate(self, key: PointerKey, request: CandidateStartRequest) -> Candidate:
        return Candidate(
            release=request.release,
            generation=request.expected_generation + 1,
            permille=request.permille,
            salt=secrets.token_hex(8),
            lease_s=request.lease_s,
            unit=request.unit,
            named=self.cohorts.named(key[0], request.unit, request.named),
            shadow=request.shadow,
            plan=request.plan,
        )


def _with(draft: Draft, agreed: dict[str, Any]) -> Draft:
    """The draft, with who has agreed to it."""
    return draft.model_copy(update={"payload": {**draft.payload, **agreed}}) if agreed else draft
