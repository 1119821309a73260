"""How a route's place between a signal and new weights is said, in console and commands, and what the next step is."""

from loradeck.client.candidate_words import percent_of
from loradeck.schemas.freshness import LoopRow, LoopStep, Remedy


def signals(row: LoopRow) -> str:
    """Says which meters have a signal: 'corrected, bad', or '-'; first that days of theirs were replayed."""
    return f"{'replayed: ' if row.replayed else ''}{', '.join(row.signals) or '-'}"


def labelled(row: LoopRow) -> str:
    """Says how many rows the newest dataset of the backlog has, or '-' where none was built."""
    return f"{row.loop.rows:,}" if row.loop is not None else "-"


def step(row: LoopRow) -> str:
    """Says how far that dataset has come, and by which job or version: 'trained support v2'; '-' without one."""
    return f"{row.loop.step.value} {row.loop.by}".rstrip() if row.loop is not None else "-"


def gate(row: LoopRow) -> str:
    """Says what the route's gate said of the version that was trained on it: 'passed', 'failed', or '-'."""
    judged = row.loop.gate if row.loop is not None else None
    return "-" if judged is None else "passed" if judged else "failed"


def candidate(row: LoopRow) -> str:
    """Says which candidate is out and what share it has: 'v2 5 %', or '-'."""
    return f"{row.candidate} {percent_of(row.permille)}" if row.candidate else "-"


def next_step(row: LoopRow) -> str:
    """Says what a person does next on a route; '-' where nothing calls for it. Nothing happens by itself."""
    at, loop = f"{row.tenant} {row.route}", row.loop
    match loop.step if loop is not None else None:
        case LoopStep.LABELLED:
            return "loradeck job train SPEC.toml" if not row.frozen else "wait: training is frozen"
        case LoopStep.TRAINING | LoopStep.FAILED:
            return f"loradeck job show {loop.by if loop is not None else 'JOB'}"
        case LoopStep.TRAINED if gate(row) == "passed":
            return f"loradeck candidate start {at} RELEASE"
        case LoopStep.TRAINED if gate(row) == "failed":
            return f"loradeck gate show {at}"
        case LoopStep.TRAINED:
            return f"loradeck job evaluate {row.tenant} RELEASE --route {row.route} --suite SUITE"
        case LoopStep.CANDIDATE:
            return f"loradeck candidate show {at}"
    if row.wrong and row.remedy is Remedy.TRAIN:
        return f"loradeck backlog ls {row.tenant} --route {row.route} --consent CLASS"
    return f"loradeck freshness {row.tenant}" if row.signals else "-"
