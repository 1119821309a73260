"""Candidates that the hub steps by itself: their share grows when the evidence says so, and each step is an event."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from loradeck.hub.automation.comparisons import Comparisons
from loradeck.hub.jobs.promote_check import PromoteCheck
from loradeck.hub.log.background import Background
from loradeck.hub.log.changes import Changes
from loradeck.hub.log.clock import Clock
from loradeck.hub.log.incidents import Relatives
from loradeck.hub.log.log import Log, Published
from loradeck.hub.progress.acknowledgements import PlacedReplicas
from loradeck.hub.progress.arm_outcomes import ArmsSaid, Cohorts
from loradeck.hub.recovery.moves_allowed import MovesAllowed
from loradeck.rules.errors import Refused
from loradeck.rules.moves.draft import Actor
from loradeck.rules.moves.forward import freeze_refusal
from loradeck.rules.quality import steps
from loradeck.schemas.attestation import Attestation
from loradeck.schemas.candidate import Candidate
from loradeck.schemas.ids import PointerKey, Role
from loradeck.schemas.log import Draft, PointerState
from loradeck.schemas.moves import CandidateFinishRequest, CandidateStepRequest
from loradeck.store.interface import StoreError

log = logging.getLogger("loradeck.hub.automation.steps")

ACTOR = Actor(name="steps", role=Role.RELEASER, automation=True)

_NODES_A_SECOND = 200
"""What so many nodes say is summed in a second; of a pointer on more nodes it is looked at less often."""

_AGAIN_S = 30.0
"""Seconds after which a step is tried again that the store could not take."""


@dataclass(eq=False, kw_only=True)
class SteppedCandidates:
    """The pointers whose candidate has a plan or an A/B. `said`: what the next step of each waits for, in words.

    A step that the rules refuse is tried again when something has changed that they look at: an event or an attestation
    of its tenant, or a node.
    """

    log: Log
    arms: ArmsSaid
    cohorts: Cohorts
    replicas: PlacedReplicas
    check: PromoteCheck
    relatives: Relatives
    comparisons: Comparisons
    guard_said: Mapping[PointerKey, str]
    allowed: MovesAllowed
    changes: Changes
    background: Background
    clock: Clock
    said: dict[PointerKey, tuple[str, ...]] = field(default_factory=dict, init=False)
    _since: dict[PointerKey, tuple[tuple[int, int], float]] = field(default_factory=dict, init=False)
    """Pointer -> (generation, step) of its share, and since when this hub knows of it, on its monotonic clock."""
    _not_before: dict[PointerKey, float] = field(default_factory=dict, init=False)
    _acting: set[PointerKey] = field(default_factory=set, init=False)
    _refused: dict[PointerKey, tuple[int, str]] = field(default_factory=dict, init=False)
    """Pointer -> at which change its next step was refused last, and why."""
    _changed: dict[str, int] = field(default_factory=dict, init=False)
    """Tenant -> the number of the last change; '': of the nodes."""
    _number: int = field(default=0, init=False)

    def load(self) -> None:
        """Begins with the pointers as the log has them. Their minimum of time begins anew."""
        for pointer in self.log.state.pointers.values():
            self._watch(pointer)

    def committed(self, published: Published) -> None:
        """Begins anew for shares that have changed; a follower of the log."""
        for event in published.events:
            self._note(event.tenant)
            if event.pointer is not None:
                self._watch(event.pointer)

    def attested(self, written: Attestation, _: object) -> None:
        """Has refused steps of the tenant tried again; a follower of the attestations."""
        self._note(written.tenant)

    def nodes_changed(self, _: object) -> None:
        """Has all refused steps tried again; a follower of the nodes."""
        self._note("")

    def _note(self, tenant: str) -> None:
        if self._since:
            self._number += 1
            self._changed[tenant] = self._number

    def _newest(self, key: PointerKey) -> int:
        return max(self._changed.get(key[0], 0), self._changed.get("", 0))

    def _watch(self, pointer: PointerState) -> None:
        key, out = pointer.key, pointer.candidate
        if out is None or (out.plan is None and out.comparison is None):
            for known in (self.said, self._since, self._not_before, self._refused):
                known.pop(key, None)
        elif self._since.get(key, ((), 0.0))[0] != (out.generation, out.step):
            self._since[key] = (out.generation, out.step), self.clock.monotonic()

    def tick(self) -> None:
        """Looks at the candidates that have a plan; called once a second."""
        now = self.clock.monotonic()
        for key in self._since:
            if key in self._acting or self._not_before.get(key, now) > now:
                continue
            pointer = self.log.state.pointers[key]
            if pointer.candidate is None:
                continue
            decision = self._decided(pointer, pointer.candidate)
            placed = self._placed(key)
            self._not_before[key] = now + len(placed) // _NODES_A_SECOND
            compared = self.comparisons.look(pointer, pointer.candidate, placed, self._stands(key))
            waits = ((compared,) if compared else ()) + (decision.waits if decision is not None else ())
            if decision is not None and (decision.permille is not None or decision.finish):
                at, why = self._refused.get(key, (-1, ""))
                if at == self._newest(key):
                    waits += (why,)
                else:
                    self._acting.add(key)
                    self.background.spawn(self._act(key))
            self._say(key, waits)

    def _say(self, key: PointerKey, waits: tuple[str, ...]) -> None:
        if self.said.get(key, ()) != waits:
            self.said[key] = waits
            self.changes.soon((key,))

    def _decided(self, pointer: PointerState, out: Candidate | None) -> steps.Decision | None:
        """Decides on a pointer's next step now; None: it has no plan."""
        if out is None or out.plan is None:
            return None
        key = pointer.key
        now_ms = self.clock.now_ms()
        forbidden = freeze_refusal(self.log.state.config(key), now_ms)
        forbidden = forbidden or self.relatives.check_promote(key, out.release, ACTOR.name, now_ms)
        placed = self._placed(key)
        around = steps.Around(
            keys=self.cohorts.keys(key, out, placed),
            since_s=self.clock.monotonic() - self._since[key][1],
            heard=self._heard(key),
            placed=placed,
            settling=not self.allowed.forward,
            held=pointer.held,
            forbidden=forbidden.title if forbidden is not None else "",
            guard=self.guard_said.get(key, ""),
        )
        return steps.decide(out, *self.arms.both(pointer, out), around)

    def _placed(self, key: PointerKey) -> frozenset[str]:
        return frozenset(node.name for node, _ in self.replicas.placed(key))

    def _heard(self, key: PointerKey) -> float:
        progress = self.replicas.progress(key)
        return progress.reachable / progress.placed if progress.placed else 0.0

    def _stands(self, key: PointerKey) -> str:
        """Says why no A/B is recorded now; '': nothing is against it."""
        if self.allowed.refusing is not None:
            return "the hub settles"
        return "more than half of its replicas to be heard" if self._heard(key) <= 0.5 else ""

    async def _act(self, key: PointerKey) -> None:
        """Steps or finishes a candidate, by what is true once no other move is under way."""
        newest = self._newest(key)
        try:
            async with self.log.moving:
                pointer = self.log.state.pointers[key]
                out = pointer.candidate
                decision = self._decided(pointer, out)
                if out is None or decision is None:
                    return
                name = f"steps {'/'.join(key)} {pointer.generation} {out.step}"
                drafts = await self._drafts(pointer, out, decision, name)
                if drafts:
                    self.allowed.check_pointer(key)
                    self.allowed.check_all(drafts)
                    await self.log.commit(drafts, name)
        except (Refused, StoreError) as error:
            why = f"what refuses it: {error}"
            if self._refused.get(key, (0, ""))[1] != why:
                log.warning("a step is refused tenant=%s route=%s code=%s %s", *key, error.code, error)
            self._refused[key] = newest, why
            self._say(key, (why,))
            if isinstance(error, StoreError):
                self._refused[key] = -1, why
                self._not_before[key] = self.clock.monotonic() + _AGAIN_S
        finally:
            self._acting.discard(key)

    async def _drafts(
        self, pointer: PointerState, out: Candidate, decision: steps.Decision, name: str
    ) -> Sequence[Draft]:
        found = self.arms.compared(pointer, out)
        evidence = {"arms": [one.model_dump(mode="json") for one in found], "step": out.step}
        if decision.finish:
            request = CandidateFinishRequest(
                release=out.release,
                expected_generation=pointer.generation,
                idempotency_key=name,
                reason="steps: the last one is over",
            )
            draft = await self.check.drafted(pointer.key, request, ACTOR)
            return [draft.model_copy(update={"payload": {**draft.payload, "evidence": evidence}})]
        if decision.permille is None:
            return ()
        wider = CandidateStepRequest(
            expected_generation=pointer.generation,
            expected_step=out.step,
            permille=decision.permille,
            idempotency_key=name,
            reason="steps: " + ("; ".join(steps.said(one) for one in found) or "there are enough keys"),
        )
        placed = self._placed(pointer.key)
        return [await self.check.stepped(pointer.key, wider, ACTOR, placed=placed, evidence=evidence)]
