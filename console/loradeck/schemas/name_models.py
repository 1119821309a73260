"""The models that look for names in rows, as a TOML file of the operator says them."""

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from loradeck.schemas.content_checks import LANGUAGES
from loradeck.schemas.ids import Digest, Strict


class NameModel(Strict):
    """A model of spaCy that finds names of people in one language."""

    language: str = Field(description="code of ISO 639-1, of those that are recognised")
    model: str = Field(min_length=1, max_length=500, description="an installed package, or the path of a folder")
    sha256: Digest | None = Field(None, description="of its files; a folder needs it, and another one is refused")

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.language not in LANGUAGES:
            raise ValueError(f"the language {self.language!r} is not recognised; {' '.join(sorted(LANGUAGES))} are")
        if "/" in self.model and self.sha256 is None:
            raise ValueError(f"{self.model}: a folder is named with the sha256 of its files")
        return self


class NameModels(Strict):
    """The models, and the interpreter whose environment has Presidio. Rows in other languages are not searched."""

    python: Annotated[str, StringConstraints(max_length=500)] = Field("", description="empty: this one")
    models: tuple[NameModel, ...] = Field(min_length=1, max_length=len(LANGUAGES))

    @model_validator(mode="after")
    def _are_one_each(self) -> Self:
        if len({one.language for one in self.models}) < len(self.models):
            raise ValueError("a language has one model")
        return self
