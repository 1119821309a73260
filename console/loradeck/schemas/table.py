"""The routing table: the releases that the hub wants a node to serve, entry by entry.

First come the settings of a route that routers go by: gaps, residency, checks of answers, limits, a candidate's share.

(epoch, generation) is compared per entry; a removed entry is a tombstone (`current` None); the table as a whole has
only a `rev`. The router's file, its control socket and the link all carry this one type.

The hub writes each entry as text once and signs that text. The text travels as it was signed, so that every reader can
verify it, one of another version too, and an entry that was read from it remembers it (`TableEntry.signed`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PrivateAttr, WrapSerializer, model_validator

from loradeck.schemas.content_checks import ContentChecks
from loradeck.schemas.ids import YEAR_10000_MS, Digest, Line, Name, OfPointer, Strict, Whole, Wire, added, digest_of
from loradeck.schemas.judge import JUDGE, Judge
from loradeck.schemas.manifest import Release
from loradeck.schemas.protocol import Feature, unknown_features
from loradeck.schemas.trace import LONGEST_SAMPLE_HOURS

BODY_CAP = 4 * 2**20
"""Bytes of the body of one request to a router."""


LEASE_S = 300.0
"""Seconds without a hub after which a router gives a candidate to nobody."""


class Gap(StrEnum):
    """How a router answers between an entry's arrival and its release being ready on the engine."""

    LEFT = "left"  # keep answering with the release it is leaving
    BASE = "base"  # answer with the base alone
    REFUSE = "refuse"  # 503 with Retry-After


class RouteResidency(StrEnum):
    """When the releases of a route are loaded."""

    ALWAYS = "always"  # the current one and its prior stay loaded, and a flip waits for its load
    ON_DEMAND = "on-demand"  # a flip does not wait for its load, and is never answered by the left release


class Streams(StrEnum):
    """How a router treats answers of the left release that are under way at a flip."""

    FINISH = "finish"
    CUT = "cut"


class ResponseChecks(Strict):
    """Checks of live answers by the router, off the latency path. An answer is bad if any check fails."""

    sample: float = Field(1.0, ge=0, le=1, description="share of answers that are checked")
    answer_schema: str | None = Field(None, description="JSON Schema, as text")
    min_chars: int = Field(1, ge=0)
    max_chars: int | None = Field(None, ge=1)
    refusals: tuple[str, ...] = Field((), description="case-insensitive phrases that mark a refusal")
    finish_reasons: tuple[str, ...] = Field(
        ("stop", "length", "tool_calls"),
        description="finish reasons that are fine. Without 'length' an answer that was cut off is bad, also where "
        "the caller's own max_tokens cut it",
    )
    content: ContentChecks = added(ContentChecks(), "checks of what it says")
    judge: Judge | None = added(None, "a model that some answers are shown to; alerts only")

    @property
    def watched(self) -> tuple[str, ...]:
        """The checks that make no answer bad and that this route has."""
        return (*self.content.watched, *((JUDGE,) if self.judge is not None else ()))

    @property
    def without_plugins(self) -> Self:
        """These checks without those of plug-ins."""
        return self.model_copy(update={"content": self.content.model_copy(update={"plugins": ()})})

    @model_validator(mode="after")
    def _judge_has_a_name_of_its_own(self) -> Self:
        if self.judge is not None and JUDGE in self.content.plugins:
            raise ValueError(f"the plug-in {JUDGE!r} has the name of the judge's check; name it otherwise")
        return self

    def with_content(self, content: ContentChecks, judge: Judge | None = None) -> Self:
        """Returns the same checks of form, with these of what an answer says, and this judge."""
        if (content, judge) == (self.content, self.judge):
            return self
        return self.model_copy(update={"content": content, "judge": judge})


class KeyLimits(Strict):
    """What one caller's key may ask of one node; each node holds its callers to the whole of it. None: no limit.

    Tokens of a request are those that its answer may have (256 where it does not say) for each answer, and a token for
    every four bytes of its body.
    """

    concurrent: int | None = Field(None, ge=1, description="requests at once")
    body_bytes: int | None = Field(None, ge=BODY_CAP, description="bodies of requests in the router's memory")
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)


class NodeLimits(KeyLimits):
    """The limits of a node for routes that set none, so that no key fills its memory."""

    concurrent: int | None = Field(1024, ge=1, description="requests at once")
    body_bytes: int | None = Field(64 * 2**20, ge=BODY_CAP, description="bodies of requests in the router's memory")


class ColdQueueLimits(Strict):
    """The limits of a node for requests that wait for their release to be loaded."""

    waiting: int = Field(256, ge=0, le=10_000, description="requests that wait at once; 0: none does")
    tenant: int = Field(32, ge=1, le=10_000, description="of them, those of one tenant")
    seconds: float = Field(20.0, gt=0, le=600, description="how long one waits; then the route's gap policy answers it")
    loads: int = Field(
        4, ge=1, le=64, description="releases that are to be loaded at once; each engine loads one at a time"
    )


class Callers(KeyLimits):
    """What callers may ask of a route. Where it sets no limit, a node's counts (`[router.limits]` in agent.toml)."""

    parameters: tuple[str, ...] = Field(
        (), description="parameters of the engine that pass beside OpenAI's, such as chat_template or priority"
    )


class CohortUnit(StrEnum):
    """The key of a request that decides between the live release and the candidate; all requests of one key agree."""

    CONVERSATION = "conversation"
    USER = "user"
    CALLER = "caller"


class Split(Wire):
    """The division of a pointer's callers between its live release and its candidate.

    `generation` and `step` order splits: a later start has a higher generation, and a later share of the same start a
    higher step.
    """

    generation: int = Field(ge=1, description="the pointer's, which the start of the candidate gave it")
    step: int = Field(0, ge=0, description="how often the share has been changed since the start")
    permille: int = Field(
        0, ge=0, le=1000, description="thousandths of the keys that get it; of a shadow, of the requests"
    )
    salt: str = Field(min_length=8, max_length=64, description="random for each start: other keys go first each time")
    lease_s: float = Field(LEASE_S, gt=0, description="seconds without a hub after which nobody gets the candidate")
    unit: CohortUnit = CohortUnit.CALLER
    named: tuple[str, ...] = Field((), description="keys that get the candidate whatever the share is")
    shadow: bool = Field(False, description="it is asked copies of requests, and its answers reach nobody")


class ReleaseRef(Wire):
    """Everything a node needs to serve a release, so that no look-up delays a flip."""

    id: Digest
    release: Release
    label: Line = ""

    @classmethod
    def of_base(cls, tenant: str, base: str) -> ReleaseRef:
        """The release that serves a base alone to a tenant."""
        release = Release.of_base(tenant, base)
        return cls(id=release.id, release=release, label=release.label)

    @property
    def engine_name(self) -> str | None:
        """The name under which an engine lists it; see `Release.engine_name`."""
        return self.release.engine_name


class CandidateRef(Split):
    """The candidate of a pointer, with everything that a node needs to serve it."""

    release: ReleaseRef


ELSEWHERE = 8
"""Most nodes that a tombstone names."""

ENTRY_CHARS = 2**20
"""Most characters of one entry's text that a node takes."""


class DeprecatedRelease(Wire):
    """A release whose callers are told that it goes. Times are milliseconds since 1970 UTC."""

    release: Digest
    from_ms: int = Field(ge=0, lt=2**53, description="from then on it is not promoted")
    until_ms: int | None = Field(
        None, lt=YEAR_10000_MS, description="until then they can count on answers; None: it is not said"
    )


class SignedText(Wire):
    """The text of a table entry, and the signature of the hub that wrote it."""

    body: str = Field(max_length=ENTRY_CHARS, description="JSON of a `TableEntry`")
    signature: str = Field(max_length=128, description="Ed25519 over `signed_bytes`, in hexadecimal")

    def signed_bytes(self) -> bytes:
        """The bytes that the signature covers: the text, under a name for its kind."""
        return b"loradeck/entry/1\n" + self.body.encode()


class TableEntry(OfPointer):
    """One pointer in a node's table: its release, those to keep loaded beside it, and the route's settings for
    routers.
    """

    epoch: int = Field(ge=0, lt=2**53)
    generation: int = Field(ge=0, lt=2**53)
    current: ReleaseRef | None = Field(description="None: a tombstone, requests are refused")
    beneath: tuple[ReleaseRef, ...] = Field(
        (), description="where R would go, newest first; kept resident in this order"
    )
    preparing: ReleaseRef | None = Field(None, description="a promote's candidate, to be made resident as well")
    gap: Gap = Gap.LEFT
    streams: Streams = Streams.FINISH
    checks: ResponseChecks = Field(ResponseChecks(), description="without `content`, which earlier nodes do not know")
    content: ContentChecks = added(ContentChecks())
    judge: Judge | None = added(None)
    judge_release: ReleaseRef | None = added(None, "what judges; None: the base that answered")
    canaries: tuple[tuple[dict[str, str], ...], ...] = ()
    signers: tuple[str, ...] = Field((), description="public keys (PEM); if any, only releases they signed are served")
    refuse_after_s: float | None = None
    callers: Callers = added(Callers())
    suspended: bool = False
    keys: tuple[Digest, ...] = Field((), description="SHA-256 of the callers' keys that may use this tenant")
    left: ReleaseRef | None = Field(None, description="release that the last move left; its engine stops later")
    moved_ms: int | None = Field(None, description="hub time of the last move, from which that delay is counted")
    candidate: CandidateRef | None = added(None, "needs the feature `candidate`")
    residency: RouteResidency = added(RouteResidency.ALWAYS, "on-demand needs the feature `on_demand`")
    assignment: tuple[Name, ...] = added((), "replicas of a pool that serve the pointer; (): all of them")
    asked_again_until_ms: int | None = added(
        None, "until then (hub time) a sample of its requests is asked again of the release beneath; None: none"
    )
    elsewhere: tuple[Name, ...] = added(
        (), "of a tombstone: nodes that serve the pointer, for gateways that have not heard of it", max_length=ELSEWHERE
    )
    needs: tuple[str, ...] = added((), "features a router must have, or it refuses the entry")
    sample_hours: int = added(
        0, "for how long samples of bad answers are kept on the node; 0: none are", ge=0, le=LONGEST_SAMPLE_HOURS
    )
    samples_from_ms: int = added(0, "those of before are removed: rows were erased then", ge=0, lt=2**53)
    count_inputs: bool = added(False, "whether what is asked is counted on the node, without text")
    deprecated: tuple[DeprecatedRelease, ...] = added((), "those of its releases that are", max_length=16)
    log: str = added("", "the log of the hub that wrote it")
    incarnation: str = added("", "of the hold of the lease under which its pointer last moved")
    rev: int = added(0, "of the log's newest event about the pointer", ge=0, lt=2**53)
    _signed: SignedText | None = PrivateAttr(None)

    @classmethod
    def opened(cls, text: SignedText) -> Self:
        """The entry that a signed text holds. The signature is not verified here.

        Raises: ValueError: the text is no entry.
        """
        entry = cls.model_validate_json(text.body)
        entry._signed = text
        return entry

    @property
    def signed(self) -> SignedText | None:
        """The signed text that this entry was read from; None for one that was made or changed here."""
        return self._signed

    def unsigned(self) -> Self:
        """A copy without the signed text: the form that version 1 of the wire reads."""
        copy = super().model_copy()
        copy._signed = None
        return copy

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; one that is changed is not what its hub signed any more."""
        copy = super().model_copy(update=update, deep=deep)
        if update:
            copy._signed = None
        return copy

    @property
    def fence(self) -> tuple[int, int]:
        """(epoch, generation), by which a newer entry is recognised."""
        return (self.epoch, self.generation)

    @property
    def refs(self) -> tuple[ReleaseRef, ...]:
        """The releases that a node holds ready for this pointer: live, candidate, under preparation, beneath."""
        candidate = self.candidate.release if self.candidate is not None else None
        return tuple(ref for ref in (self.current, candidate, self.preparing, *self.beneath) if ref is not None)

    def tombstone(self, elsewhere: tuple[Name, ...] = ()) -> TableEntry:
        """The entry under its fence without any release: the pointer is no longer placed there, but `elsewhere`."""
        gone = {
            "current": None,
            "beneath": (),
            "preparing": None,
            "left": None,
            "candidate": None,
            "needs": (),
            "deprecated": (),
        }
        plain: dict[str, Any] = {"residency": RouteResidency.ALWAYS, "asked_again_until_ms": None, "sample_hours": 0}
        plain |= {"samples_from_ms": 0, "count_inputs": False, "deprecated": ()}
        return self.model_copy(update={**gone, **plain, "elsewhere": elsewhere})

    def for_router(self, features: Collection[str]) -> TableEntry:
        """The entry as a router with these features is given it: one that lacks `candidate` gives everybody the live
        release, one that lacks `on_demand` loads a release before it flips.
        """
        lacking = unknown_features(self.needs, features)
        if not lacking:
            return self
        given: dict[str, Any] = {"needs": tuple(need for need in self.needs if need not in lacking)}
        if Feature.CANDIDATE in lacking:
            given["candidate"] = None
        if Feature.ON_DEMAND in lacking:
            given["residency"] = RouteResidency.ALWAYS
        return self.model_copy(update=given)


def _read(value: Any) -> Any:
    return TableEntry.opened(SignedText.model_validate(value)) if isinstance(value, dict) and "body" in value else value


def _write(entry: TableEntry, plain: Callable[[TableEntry], Any]) -> Any:
    return plain(entry) if entry.signed is None else entry.signed.model_dump()


EntryOnWire = Annotated[TableEntry, BeforeValidator(_read), WrapSerializer(_write)]
"""An entry in a message or a file: as signed text where it is one, else as a JSON object (version 1 of the wire)."""


def table_digest(entries: Iterable[TableEntry]) -> str:
    """Digest of a table's fences and releases, by which hub and node notice that their tables differ."""
    rows = sorted(
        [e.tenant, e.route, str(e.epoch), str(e.generation), e.current.id if e.current else ""] for e in entries
    )
    return digest_of({"entries": rows})


class Pin(OfPointer):
    """A release chosen on the node, without the hub. It ends only by an `unpin` event of the hub."""

    release: ReleaseRef
    over: tuple[Whole, Whole] = Field(description="(epoch, generation) that it overrides")
    actor: Line = Field(description="who says to have made it")
    reason: Line
    uid: Whole | None = added(None, "user that made it, as the node's kernel tells its router")
    at_ms: Whole = Field(description="node's wall clock")
    left: Digest | None = Field(None, description="release in force there before it; None: unknown or none")
