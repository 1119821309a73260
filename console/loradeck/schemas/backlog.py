"""The backlog: answers to be labelled, as tasks of Label Studio's JSON format, and what was left out of them."""

from enum import StrEnum
from typing import Any

from pydantic import Field

from loradeck.schemas.feedback import RequestId
from loradeck.schemas.ids import Digest, Name, Strict, Whole, Wire

SOURCE = "backlog"
"""The source that the provenance of a dataset names which was built of the backlog."""

LABEL = "label"
"""The field of a task that has the right answer."""

LONGEST = 1 << 18
"""Most characters of a question or an answer."""


class Recorded(Strict):
    """One request from a customer's own records, for `--questions`: what was asked under a request id, and answered."""

    request: RequestId
    question: str = Field(min_length=1, max_length=LONGEST)
    system: str = Field("", max_length=LONGEST, description="the system message before the question")
    answered: str = Field("", max_length=LONGEST)


class Chosen(StrEnum):
    """Why a row was chosen to be labelled."""

    UNCERTAIN = "uncertain"
    DIVERSE = "diverse"
    EDGE = "edge"


class BacklogRow(Recorded):
    """An answer that somebody should label: the `data` of a task.

    `proposed`: the caller's correction or class; empty: none was given.
    """

    tenant: Name
    route: Name
    at_ms: Whole
    proposed: str = Field("", max_length=LONGEST)
    release: Digest | None = Field(None, description="what answered, where that is known")
    fault: str = Field("", max_length=40, description="the check that called the answer bad, where a sample says so")
    consent: str = Field(max_length=64, description="class of the caller's consent, or basis of the sample's use")
    alone: bool = Field(description="nobody said anything of it: it is a sample of a bad answer alone")
    sample_ms: Whole | None = Field(description="when it was asked, where a sample says what; None: your records do")
    kept_until_ms: Whole = Field(description="until when the tenant's policy lets it be kept")
    wrong: int = Field(0, ge=0, description="callers and checks that say it was wrong")
    right: int = Field(0, ge=0, description="callers and checks that say it was right")
    times: int = Field(1, ge=1, description="requests that asked the same")
    chosen: Chosen | None = None


class LeftOut(Wire):
    """The rows that were left out for one reason. `requests`: the first few ids."""

    why: str
    rows: int
    requests: tuple[str, ...]

    @property
    def words(self) -> str:
        """The rows, the reason and the first ids, for people."""
        more = f" and {self.rows - len(self.requests)} more" if self.rows > len(self.requests) else ""
        return f"{self.rows} rows, {self.why} ({', '.join(self.requests)}{more})"


class Backlog(Wire):
    """A tenant's backlog: rows in the order in which they were chosen, and what was left out."""

    tenant: Name
    rows: tuple[BacklogRow, ...]
    left_out: tuple[LeftOut, ...] = ()

    def tasks(self) -> list[dict[str, Any]]:
        """The rows as Label Studio imports them. A proposed answer stands in the answer's field, to be accepted."""
        return [
            {"data": row.model_dump(mode="json"), "predictions": [_prediction(row.proposed)] if row.proposed else []}
            for row in self.rows
        ]


class LabelResult(Wire):
    """What one field of a task was filled in with."""

    from_name: str = Field("", max_length=64)
    value: dict[str, Any] = Field(default_factory=dict)


class Annotation(Wire):
    """What one person said of a task. `completed_by`: the person's number, or an object with it as `id`."""

    completed_by: int | dict[str, Any] | None = None
    was_cancelled: bool = False
    result: tuple[LabelResult, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The answers in the field `label`, without white space around them; none where the task was skipped."""
        given = [one.value.get("text") for one in self.result if one.from_name == LABEL and not self.was_cancelled]
        parts = [part for text in given for part in (text if isinstance(text, list) else [text])]
        return tuple(part.strip() for part in parts if isinstance(part, str) and part.strip())

    @property
    def rater(self) -> str | None:
        """The pseudonymous id of who said it; never a name or an address."""
        by = self.completed_by.get("id") if isinstance(self.completed_by, dict) else self.completed_by
        return f"label-studio:{by}" if isinstance(by, int) else None


class LabelledTask(Wire):
    """A task as Label Studio exports it (JSON)."""

    data: BacklogRow
    annotations: tuple[Annotation, ...] = ()


class LabelledTasks(Wire):
    """A file of tasks."""

    tasks: tuple[LabelledTask, ...] = Field(min_length=1, max_length=100_000)


def _prediction(text: str) -> dict[str, Any]:
    value = {"from_name": LABEL, "to_name": "question", "type": "textarea", "value": {"text": [text]}}
    return {"model_version": "caller", "result": [value]}


LABELLING = f"""<View>
  <Text name="system" value="$system"/>
  <Header value="Asked"/>
  <Text name="question" value="$question"/>
  <Header value="Answered"/>
  <Text name="answered" value="$answered"/>
  <Header value="The right answer"/>
  <TextArea name="{LABEL}" toName="question" maxSubmissions="1" editable="true" required="true" rows="6"/>
</View>
"""
"""The labelling configuration of a Label Studio project for these tasks."""
