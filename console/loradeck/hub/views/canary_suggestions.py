"""Suggestions of canaries: an engine that serves is asked for a release and for those it could be taken for.

The prompts are rows of a dataset. They are sent to one node and back to the caller, and are kept nowhere.
"""

import asyncio
from dataclasses import dataclass, field

from loradeck.hub.data.datasets import Datasets
from loradeck.hub.fleet.node import Node
from loradeck.hub.fleet.nodes import Fleet
from loradeck.hub.links.questions import Questions
from loradeck.hub.log.catalogue import Catalogue
from loradeck.rules.errors import Refused
from loradeck.rules.moves.fold import FoldedLog
from loradeck.rules.serving import canary_choice
from loradeck.rules.serving.placement import Site
from loradeck.schemas.attestation import CanaryItem
from loradeck.schemas.canaries import RowPrompt, Suggestion, Suggestions, SuggestRequest
from loradeck.schemas.ids import Digest, PointerKey, short
from loradeck.schemas.link import CanaryAnswers, CanaryAsk, Replica
from loradeck.schemas.log import PointerState
from loradeck.schemas.release import Form, Release
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.table import ReleaseRef

ANSWER_S = 120.0
"""How long a node may take for one prompt, seconds: the first may have to load the release."""

AT_ONCE = 2
"""Prompts that are asked at once, so that callers are hardly kept waiting."""


@dataclass(eq=False)
class CanarySuggestions:
    """Measures how surely rows of a dataset tell a release from its base and from the other releases of a pointer."""

    _state: FoldedLog
    _catalogue: Catalogue
    _datasets: Datasets
    _fleet: Fleet
    questions: Questions[CanaryAnswers] = field(default_factory=Questions, init=False)

    async def suggest(self, key: PointerKey, request: SuggestRequest) -> Suggestions:
        """Tries prompts of a dataset on an engine that is up with the release's base.

        Raises: Refused: `unknown_release`, `unknown_dataset`, `erased_row`, `nothing_to_compare`, `no_prompts`,
        `no_replica`, `unanswered`.
        """
        tenant, _, pointer = self._state.route(*key)
        release = self._catalogue.known(tenant.name, request.release)
        others = self._others(pointer, release)
        if not others:
            raise Refused(
                "nothing_to_compare",
                "only an adapter's release needs canaries that tell it from others",
                detail=f"{self._catalogue.called(release.id)} is all that its engine can answer with",
            )
        prompts = await self._datasets.prompts(tenant.name, request.dataset, request.prompts)
        node, replica = self._replica(release, self._state.site(key))
        refs = tuple(ReleaseRef(id=one.id, release=one, label=one.label) for one in (release, *others))
        turn = asyncio.Semaphore(AT_ONCE)

        async def tried(prompt: RowPrompt) -> CanaryAnswers:
            def question(token: str) -> CanaryAsk:
                return CanaryAsk(ask=token, replica=replica.replica, releases=refs, messages=prompt.messages)

            async with turn:
                answer = await self.questions.put(node, question, ANSWER_S)
            if answer is None:
                raise Refused(
                    "unanswered",
                    f"{node.name} does not answer",
                    detail=f"none within {ANSWER_S:g} s; an agent of an earlier version does not know the question",
                    fix=f"loradeck node show {node.name}",
                )
            if release.id not in answer.items:
                why = answer.trouble.get(release.id, "it gave no answer")
                raise Refused("unanswered", f"{replica.replica} cannot be asked for the release", detail=why)
            return answer

        first = await tried(prompts[0])  # alone: it may load the release, or say at once that it cannot
        answers = [first, *await asyncio.gather(*(tried(prompt) for prompt in prompts[1:]))]
        return self._suggestions(release, others, replica, prompts, answers)

    def _others(self, pointer: PointerState, release: Release) -> list[Release]:
        """The releases that an engine could answer with instead: the base alone, the live one, and where R goes."""
        if release.form is not Form.ADAPTER:
            return []
        found = {base.id: base for base in [Release.of_base(release.tenant, release.base)]}
        for digest in (pointer.release, *pointer.beneath[:1]):
            other = self._catalogue.release(digest, release.tenant) if digest is not None else None
            if other is not None and other.id != release.id and other.served_base == release.served_base:
                found[other.id] = other
        return list(found.values())

    def _replica(self, release: Release, site: Site) -> tuple[Node, Replica]:
        placed = [
            (node, replica)
            for node in sorted(self._fleet.linked(), key=lambda node: node.name)
            for replica in node.replicas
            if replica.state is EngineState.UP
            and replica.base == release.served_base
            and site.holds(node.name, node.labels)
            and not node.drained
        ]
        if not placed:
            raise Refused(
                "no_replica",
                "no engine that is up has the release's base",
                detail=f"base {short(release.served_base)}",
                fix="loradeck node ls",
            )
        return min(placed, key=lambda found: release.id not in found[1].loaded)

    def _suggestions(
        self,
        release: Release,
        others: list[Release],
        replica: Replica,
        prompts: list[RowPrompt],
        answers: list[CanaryAnswers],
    ) -> Suggestions:
        trouble: dict[Digest, str] = {}
        for answer in answers:
            trouble.update(answer.trouble)
        asked = [other.id for other in others if other.id not in trouble]
        rivals: list[dict[Digest, CanaryItem]] = [{one: answer.items[one] for one in asked} for answer in answers]
        found = [
            canary_choice.margins(answer.items[release.id], rival)
            for answer, rival in zip(answers, rivals, strict=True)
        ]
        proposed = set(canary_choice.proposed(found))
        return Suggestions(
            release=release.id,
            replica=replica.replica,
            build=replica.build.key if replica.build else "",
            others={
                other.id: "the base alone" if other.form is Form.BASE else self._catalogue.called(other.id)
                for other in others
            },
            not_asked=trouble,
            prompts=tuple(
                Suggestion(
                    where=prompts[place].where,
                    messages=prompts[place].messages,
                    margin=canary_choice.smallest(found[place]),
                    margins=found[place],
                    proposed=place in proposed,
                )
                for place in canary_choice.ranked(found)
            ),
        )
