"""The manifest of a bundle, which carries an adapter version from one hub to another without a network."""

from typing import Literal, Self

from pydantic import Field, model_validator

from loradeck.schemas.attestation import Signature
from loradeck.schemas.ids import Digest, Strict, digest_of
from loradeck.schemas.manifest import AdapterManifest, BaseManifest, DatasetManifest, FileEntry


class BundleManifest(Strict):
    """One adapter version with everything its registration needs, except for the base's files.

    `adapters`: its ancestors, the oldest first, and itself last. `signatures`: of any of them. Other attestations
    (evaluations, gates, proofs) are not carried.
    """

    v: Literal[1] = 1
    base: BaseManifest
    adapters: tuple[AdapterManifest, ...] = Field(min_length=1)
    datasets: tuple[DatasetManifest, ...] = ()
    signatures: tuple[Signature, ...] = ()

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        known: set[Digest] = set()
        for adapter in self.adapters:
            if adapter.base != self.base.digest:
                raise ValueError(f"adapter {adapter.digest[:12]} is of base {adapter.base[:12]}, not of the bundle's")
            if adapter.parent is not None and adapter.parent not in known:
                raise ValueError(f"adapter {adapter.digest[:12]} comes before its parent")
            known.add(adapter.digest)
        if strangers := {signature.subject for signature in self.signatures} - known:
            raise ValueError(f"a signature is of {min(strangers)[:12]}, which the bundle does not carry")
        return self

    @property
    def adapter(self) -> AdapterManifest:
        """The adapter version that the bundle was made for."""
        return self.adapters[-1]

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file in the bundle, each content once, in the order of the tar."""
        held = [artifact.files for artifact in self.datasets] + [artifact.files for artifact in self.adapters]
        entries = [entry for files in held for entry in files]
        return tuple({entry.sha256: entry for entry in entries}.values())

    @property
    def digest(self) -> Digest:
        """SHA-256 (hex) of the manifest, which identifies the bundle."""
        return digest_of(self)
