"""Releases: the units that pointers name and engines serve."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from loradeck.schemas.ids import Digest, Line, Name, Strict, digest_of


class Form(StrEnum):
    """What a release consists of."""

    ADAPTER = "adapter"
    MERGED = "merged"
    BASE = "base"


class Release(Strict):
    """Base + adapter version, base + merged weights, or the base alone. `label` is for people and not part of
    the id.
    """

    tenant: Name
    form: Form
    base: Digest
    adapter: Digest | None = Field(None, description="digest of the adapter version; None for base alone")
    merged: Digest | None = Field(None, description="base digest of the merged weights")
    label: Line = Field("", description="'v7', 'v7m' when merged, or 'base'")

    @classmethod
    def of_base(cls, tenant: str, base: str) -> Release:
        """The release that serves a base alone to a tenant."""
        return cls(tenant=tenant, form=Form.BASE, base=base, label="base")

    @model_validator(mode="after")
    def _parts_fit_the_form(self) -> Release:
        need: dict[Form, tuple[bool, bool]] = {
            Form.ADAPTER: (True, False),
            Form.MERGED: (True, True),
            Form.BASE: (False, False),
        }
        if (self.adapter is not None, self.merged is not None) != need[self.form]:
            raise ValueError(f"a release of form {self.form.value} must have exactly the parts of that form")
        return self

    @property
    def id(self) -> str:
        """SHA-256 (hex) of tenant, form and parts."""
        parts: dict[str, Any] = {"base": self.base, "adapter": self.adapter, "merged": self.merged}
        return digest_of({"tenant": self.tenant, "form": self.form.value, "parts": parts})

    @property
    def served_base(self) -> str:
        """Digest of the weights that an engine must be running: the merged ones, or the base."""
        return self.merged or self.base

    @property
    def signed_part(self) -> str:
        """Digest of what a signature of the release is about: its adapter, or the weights of one without."""
        return self.adapter if self.adapter is not None and self.merged is None else self.served_base

    @property
    def engine_name(self) -> str | None:
        """The name under which an engine lists it; None for releases that are the engine's own base.

        The name carries the id and is never reused.
        """
        return f"{self.tenant}-{self.id}" if self.form is Form.ADAPTER else None
