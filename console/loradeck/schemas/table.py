"""The routing table: the releases that the hub wants a node to serve, entry by entry.

(epoch, generation) is compared per entry; a removed entry is a tombstone (`current` None); the table as a whole has
only a `rev`. The router's file, its control socket and the link all carry this one type.

The hub writes each entry as text once and signs that text. The text travels as it was signed, so that every reader can
verify it, one of another version too, and an entry that was read from it remembers it (`TableEntry.signed`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PrivateAttr, WrapSerializer

from loradeck.schemas.content_checks import ContentChecks
from loradeck.schemas.ids import YEAR_10000_MS, Digest, Line, Name, OfPointer, Whole, Wire, added, digest_of
from loradeck.schemas.judge import Judge
from loradeck.schemas.protocol import Feature, unknown_features
from loradeck.schemas.release import Release
from loradeck.schemas.routing import Callers, Gap, ResponseChecks, RouteResidency, Split, Streams
from loradeck.schemas.sample import LONGEST_HOURS


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
        0, "for how long samples of bad answers are kept on the node; 0: none are", ge=0, le=LONGEST_HOURS
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
