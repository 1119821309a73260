"""Suggestions of canaries: prompts from a dataset's rows, and how surely each tells a release from others."""

from pydantic import Field

from loradeck.schemas.ids import Digest, Name, Strict, Wire

Conversation = tuple[dict[str, str], ...]
"""Messages, each {role, content}."""


class RowPrompt(Wire):
    """The prompt of one row of a dataset, and the row's place: 'rows.jsonl, line 3'."""

    where: str
    messages: Conversation


class SuggestRequest(Strict):
    """Asks which rows of a dataset would be good canaries of a release on a route."""

    release: Digest
    dataset: Digest
    prompts: int = Field(24, ge=1, le=64, description="rows that are tried, spread over the dataset")


class Suggestion(Wire):
    """One row's prompt as a canary. Margins are in nats, over the tokens up to the first one that differs."""

    where: str
    messages: Conversation
    margin: float | None = Field(description="the smallest of `margins`; None: it does not tell the release from all")
    margins: dict[Digest, float | None] = Field(description="other release -> margin; None: not told apart")
    proposed: bool = Field(description="one of those that together tell the release from the most others")


class Suggestions(Wire):
    """The answer to a `SuggestRequest`: the prompts that were tried, best first."""

    release: Digest
    replica: Name = Field(description="the engine that was asked")
    build: str = Field(description="its build: another one may give other tokens")
    others: dict[Digest, str] = Field(description="the releases it is told from, by id, as people call them")
    not_asked: dict[Digest, str] = Field(
        default_factory=dict, description="of these: the ones the engine could not be asked for, and why"
    )
    prompts: tuple[Suggestion, ...]
