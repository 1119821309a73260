"""The rows that judgements make, compared with those of a dataset: a child process reads both from their files."""

import hashlib
import sys
from pathlib import Path
from typing import Any

from loradeck.artifacts import BadArtifact, child_process
from loradeck.artifacts.rows.contamination import folded_words
from loradeck.artifacts.rows.judgements import campaign_in, text_of
from loradeck.rules.data.preferences import built
from loradeck.schemas.attestation import Attestation
from loradeck.schemas.ids import Strict
from loradeck.schemas.preference import PreferenceBuild, PreferenceReport


class JudgedTask(Strict):
    """A dataset's files, those of the judgements that it says it is made of, and the tenant's adjudications."""

    made: dict[str, Path]
    judgements: dict[str, Path]
    build: PreferenceBuild
    stated: tuple[Attestation, ...]


def checked(task: JudgedTask) -> PreferenceReport:
    """Compares a dataset with what its judgements make, and returns the agreement between raters behind it.

    Raises: BadArtifact: `not_as_built`, and as `campaign_in`. Refused: as `built`.
    """
    rows, report, _ = built(campaign_in(task.judgements), task.build, task.stated, folded_words)
    own = [hashlib.sha256(path.read_bytes()).digest() for path in task.made.values()]
    if own != [hashlib.sha256(text_of(rows).encode()).digest()]:
        title, where = "the rows are not those that the judgements make", f"{report.rows} of {task.build.judgements}"
        raise BadArtifact("not_as_built", title, where, "build it again: an item may have been decided since")
    return report


def _work(request: bytes) -> Any:
    return checked(JudgedTask.model_validate_json(request)).model_dump(mode="json")


if __name__ == "__main__":
    sys.exit(child_process.answer(_work))
