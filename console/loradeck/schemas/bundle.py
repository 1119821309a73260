"""The manifest of a bundle, which carries an adapter version from one hub to another without a network."""

from typing import Literal, Self

from pydantic import Field, model_validator

from loradeck.schemas.attestation import Signature
from loradeck.schemas.ids import Digest, Strict, added
from loradeck.schemas.manifest import (
    AdapterManifest,
    BaseManifest,
    DatasetManifest,
    DigestedManifest,
    FileEntry,
    Form,
    Release,
)


class BundledGguf(Strict):
    """An adapter's merged weights as one GGUF file, and where they come from."""

    file: FileEntry
    type: Literal["f32", "f16", "bf16", "q8_0", "q4_0"] = Field(description="of its matrices")
    release: Release = Field(description="the merged release; it names base, adapter and merged weights")
    job: str = Field("", max_length=100, description="merged them; empty: a person registered them")


class BundleManifest(DigestedManifest):
    """One adapter version with everything its registration needs, except for the base's files.

    `adapters`: its ancestors, the oldest first, and itself last. `signatures`: of any of them. Other attestations
    (evaluations, gates, proofs) are not carried. `gguf`: what it was merged to, for llama.cpp.
    """

    v: Literal[1] = 1
    base: BaseManifest
    adapters: tuple[AdapterManifest, ...] = Field(min_length=1)
    datasets: tuple[DatasetManifest, ...] = ()
    signatures: tuple[Signature, ...] = ()
    gguf: tuple[BundledGguf, ...] = added(())

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
        merged = (adapter.tenant, Form.MERGED, adapter.base, adapter.digest)
        for path, of in ((one.file.path, one.release) for one in self.gguf):
            if (of.tenant, of.form, of.base, of.adapter) != merged or "/" in path or not path.endswith(".gguf"):
                raise ValueError(f"{path} is no GGUF file of what the bundle's adapter was merged to")
        named, held = {one.file.path for one in self.gguf}, {one.file.sha256 for one in self.gguf}
        if not len(named) == len(held) == len(self.gguf):
            raise ValueError("a GGUF file is there twice, by its name or its content")
        return self

    @property
    def adapter(self) -> AdapterManifest:
        """The adapter version that the bundle was made for."""
        return self.adapters[-1]

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file in the bundle, each content once, in the order of the tar."""
        held = [artifact.files for artifact in self.datasets] + [artifact.files for artifact in self.adapters]
        entries = [entry for files in held for entry in files] + [one.file for one in self.gguf]
        return tuple({entry.sha256: entry for entry in entries}.values())
