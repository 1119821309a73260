"""Checks of what a live answer says, which a route may ask for beside those of its form."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from loradeck.schemas.ids import Strict

FaultName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")]
"""The name of a check that an answer can fail."""

CanaryText = Annotated[str, StringConstraints(min_length=8, max_length=500)]

LANGUAGES = frozenset(
    {"ar", "de", "el", "en", "es", "fr", "he", "hi", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "th", "tr", "zh"}
)
"""Languages that are recognised, by their codes of ISO 639-1."""

BUILT_IN = frozenset(
    {"finish_reason", "empty", "short", "long", "refusal", "not_json", "schema", "unreadable", "no_choice"}
    | {"tool_call", "repetition", "personal_data", "canary", "language"}
)
"""The names of the checks that are no plug-in's."""


class ContentChecks(Strict):
    """Checks of what an answer says. One that fails makes it bad, unless it is among `alert_only`.

    Each costs a node some processor time an answer; none sees more than the answer.
    """

    tool_calls: bool = Field(False, description="calls of tools need a name, and arguments that are a JSON object")
    repetition: bool = Field(False, description="no answer runs in a circle")
    personal_data: bool = Field(
        False, description="no e-mail address, phone, card or account number: what has a recognisable form"
    )
    canaries: tuple[CanaryText, ...] = Field(
        (), max_length=1000, description="strings of the training rows that no answer may repeat"
    )
    languages: tuple[str, ...] = Field(
        (), max_length=len(LANGUAGES), description="answers are in one of these: a guess by script and common words"
    )
    plugins: tuple[FaultName, ...] = Field(
        (), max_length=8, description="checks of the entry point `loradeck.checks`, which are installed on the nodes"
    )
    alert_only: tuple[FaultName, ...] = Field(
        ("language",), max_length=64, description="checks that are counted and make no answer bad"
    )

    @property
    def watched(self) -> tuple[str, ...]:
        """The checks that make no answer bad and that this route has."""
        return tuple(name for name in dict.fromkeys(self.alert_only) if name != "language" or self.languages)

    @field_validator("languages")
    @classmethod
    def _are_known(cls, languages: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(languages) - LANGUAGES):
            raise ValueError(
                f"languages that are not recognised: {' '.join(unknown)}; {' '.join(sorted(LANGUAGES))} are"
            )
        return languages

    @field_validator("plugins")
    @classmethod
    def _have_names_of_their_own(cls, plugins: tuple[str, ...]) -> tuple[str, ...]:
        if taken := sorted(BUILT_IN.intersection(plugins)):
            raise ValueError(f"these are names of checks that are built in: {' '.join(taken)}")
        return plugins
