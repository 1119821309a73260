"""Rules of the backlog: which answers may be labelled and trained on, which ask the same, and which are labelled first.

Three metrics choose, in turns, and each is between 0 and 1:

- uncertain: the entropy, in bits, of the votes on an answer, of callers and of the route's checks, with one vote added
  on either side (vote entropy, Dagan and Engelson 1995; Laplace's rule);
- diverse: the Jaccard distance of a question's words to the nearest row that is chosen already (the greedy of Gonzalez
  1985, which is at most twice as far from every row as the best choice of that many);
- edge: how rare a question's words are, as the mean of log(rows / rows with the word) / log(rows).

Equal rows go by how diverse they are, and then by their request ids.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from loradeck.rules.clocks import DAY_MS, HOUR_MS
from loradeck.rules.data.feedback import corrects
from loradeck.schemas.backlog import SOURCE, BacklogRow, Chosen, LabelledTask, LeftOut
from loradeck.schemas.dataset_ledger import DataPolicy
from loradeck.schemas.feedback import Feedback, FeedbackKind
from loradeck.schemas.freshness import LoopStep
from loradeck.schemas.jobs import JobState
from loradeck.schemas.manifest import AdapterVersion
from loradeck.schemas.trace import Sample

_NAMED = 5

NO_CONSENT = "no consent to training: its callers gave none that counts"

WITHDRAWN = "withdrawn: what its caller said of it was removed"
"""Why a row may not be used: feedback on its answer was erased."""

OVER = "retention over: the tenant lets it be kept no longer"
"""Why a row may not be used: its time is over, or less of it is left than the day that datasets keep rows at least."""


class Come(NamedTuple):
    """How far a dataset has come, by which version or job, and the version where there is one."""

    step: LoopStep
    by: str = ""
    version: AdapterVersion | None = None


class Standing(NamedTuple):
    """Whether a request may be used, as decided: why not, or by which consent and until when (ms since 1970)."""

    why_not: str = ""
    consent: str = ""
    until_ms: int = 0
    counting: tuple[Feedback, ...] = ()


def standing(
    said: Sequence[Feedback],
    sampled_ms: int | None,
    policy: DataPolicy,
    *,
    consents: Collection[str],
    sample_basis: str,
    now_ms: int,
) -> Standing:
    """Decides whether what is known of one request may be labelled and trained on.

    The time ends when that of the first feedback does that counts; what has ended already counts no more. The consent
    is that of the feedback that proposes an answer, else of the newest.

    Args:
        said: the feedback on it. What came without a consent that counts is passed over.
        sampled_ms: when it was asked, where a sample says what, or nobody said anything; None: neither.
        consents: classes of callers' consent that allow training.
        sample_basis: on which basis samples are used that nobody said anything of; empty: they are not.
    """
    counting = tuple(sorted((one for one in said if one.consent in consents), key=lambda one: one.at_ms))
    if said and not counting:
        return Standing(NO_CONSENT)
    if not said and not sample_basis:
        return Standing("no consent to training: nobody said anything of it, and --sample-consent names no basis")
    kept_ms = policy.feedback_days * DAY_MS
    kept = tuple(one for one in counting if one.at_ms + kept_ms > now_ms)
    ends = [one.at_ms + kept_ms for one in kept or counting]
    if sampled_ms is not None:
        ends.append(sampled_ms + policy.sample_hours * HOUR_MS)
    if (said and not policy.feedback_days) or (sampled_ms is not None and not policy.sample_hours) or not ends:
        return Standing("opted out: the tenant has no such data kept any more")
    if min(ends) <= now_ms:
        return Standing(OVER)
    by = _proposer(kept) or (kept[-1] if kept else None)
    return Standing("", by.consent if by is not None else sample_basis, min(ends), kept)


def votes(said: Iterable[Feedback], fault: str) -> tuple[int, int]:
    """Counts who says that an answer was wrong, and who that it was right; the route's checks have one vote.

    `fault`: the check that a sample of it failed; empty: there is none.
    """
    told = [verdict for one in said if (verdict := corrects(one.kind, one.value)) is not None]
    checks = {one.bad for one in said if one.bad is not None} | ({True} if fault else set())
    told += [True] if True in checks else [False] if checks else []
    return sum(told), len(told) - sum(told)


def proposed(said: Sequence[Feedback]) -> str:
    """The newest correction, or the newest class that an answer should have been given; empty: there is none."""
    newest = _proposer(said)
    return (newest.text or newest.value) if newest is not None else ""


def _proposer(said: Sequence[Feedback]) -> Feedback | None:
    for kind in (FeedbackKind.CORRECTION, FeedbackKind.LABEL):
        if found := [one for one in said if one.kind is kind]:
            return max(found, key=lambda one: one.at_ms)
    return None


def asks(said: Sequence[Feedback], fault: str) -> bool:
    """Tells whether an answer belongs to the backlog: somebody or a check calls it wrong, or says what it should be."""
    return votes(said, fault)[0] > 0 or bool(proposed(said))


def conversation(sample: Sample) -> tuple[str, str] | str:
    """Returns (system message, question) of a sample's text, or why it is none that can be trained on.

    A sample has a line "role: text" for each message, and "[...]" where its beginning was cut off.
    """
    if sample.question.startswith("[...]"):
        return "cut: the sample has only the end of its question"
    parts: list[tuple[str, str]] = []
    for line in sample.question.split("\n"):
        role, colon, rest = line.partition(": ")
        if colon and role in ("system", "developer", "user", "assistant", "tool", "function"):
            parts.append((role, rest))
        elif parts:
            parts[-1] = (parts[-1][0], f"{parts[-1][1]}\n{line}")
        else:
            parts.append(("user", line))
    match [role for role, _ in parts]:
        case ["user"]:
            return "", parts[0][1]
        case ["system" | "developer", "user"]:
            return parts[0][1], parts[1][1]
        case _:
            return "several turns: a sample does not say for certain where each begins"


def once(rows: Sequence[BacklogRow], words: Callable[[str], Sequence[str]]) -> list[BacklogRow]:
    """Joins rows that ask the same: one row of each question, with the votes of all.

    The newest that proposes an answer stands for them, else the newest. `words`: the folded words of a text.
    """
    same: dict[tuple[str, ...], list[BacklogRow]] = defaultdict(list)
    for row in rows:
        same[(*words(row.system), "\n", *(words(row.question) or (row.question,)))].append(row)
    return [
        max(group, key=lambda row: (bool(row.proposed), row.at_ms, row.request)).model_copy(
            update={
                "times": sum(row.times for row in group),
                "wrong": sum(row.wrong for row in group),
                "right": sum(row.right for row in group),
            }
        )
        for group in same.values()
    ]


def uncertainty(wrong: int, right: int) -> float:
    """The entropy of the votes on an answer, in bits, with one vote added on either side."""
    share = (wrong + 1) / (wrong + right + 2)
    return -share * math.log2(share) - (1 - share) * math.log2(1 - share)


def rarity(words: Sequence[frozenset[str]]) -> list[float]:
    """Tells how rare each question's words are, from 0 (they are in every question) to 1 (in this one alone)."""
    having = Counter(word for one in words for word in one)
    most = math.log(max(2, len(words)))
    return [sum(math.log(len(words) / having[word]) / most for word in one) / max(1, len(one)) for one in words]


def choose(rows: Sequence[BacklogRow], words: Sequence[frozenset[str]], most: int) -> list[BacklogRow]:
    """Chooses the rows that are labelled first, `most` at most: an uncertain, a diverse, and an edge one, in turns.

    `words`: the distinct words of each row's question.
    """
    edge, apart = rarity(words), [1.0] * len(rows)
    left, chosen = set(range(len(rows))), list[BacklogRow]()
    turns = tuple(Chosen)
    metrics = {
        Chosen.UNCERTAIN: [uncertainty(row.wrong, row.right) for row in rows],
        Chosen.DIVERSE: apart,
        Chosen.EDGE: edge,
    }
    while left and len(chosen) < most:
        turn = turns[len(chosen) % len(turns)]

        def rank(at: int, metric: Sequence[float] = metrics[turn]) -> tuple[float, float, str]:
            return -metric[at], -apart[at], rows[at].request

        best = min(left, key=rank)
        left.remove(best)
        chosen.append(rows[best].model_copy(update={"chosen": turn}))
        for at in left:
            apart[at] = min(apart[at], _distance(words[at], words[best]))
    return chosen


def same_release(sample: Sample | None, said: Iterable[Feedback]) -> Sample | None:
    """Returns the sample of what feedback speaks of; None: there is none, or another request had the same id."""
    return sample if sample and all(one.release in (None, sample.release) for one in said) else None


def asked_ms(said: Sequence[Feedback], sample: Sample | None, *, recorded: bool) -> int | None:
    """Returns when a labelled question was asked, where a sample has it; None: the customer's own records do.

    Of a sample that is gone it is when somebody first spoke of the answer: it was asked no later.

    Args:
        said: the feedback on it, oldest first; not empty where there is no sample.
        recorded: whether the customer's own records have it.
    """
    if said and recorded:
        return None
    return sample.at_ms if sample is not None else min(one.at_ms for one in said)


def labelled(
    task: LabelledTask,
    tenant: str,
    said: Sequence[Feedback],
    sample: Sample | None,
    policy: DataPolicy,
    *,
    consents: Collection[str],
    sample_basis: str,
    recorded: bool,
    now_ms: int,
) -> dict[str, Any] | str:
    """Returns the row of a dataset, with its provenance, that a labelled task makes, or why it makes none.

    What the task says of consent, samples and time may end it, and gives it nothing: the hub is believed alone.

    Args:
        said, sample: the feedback on its request and the sample of it that the hub has now.
        consents, sample_basis: as of `standing`.
        recorded: as of `asked_ms`.
    """
    row, sample = task.data, same_release(sample, said)
    if row.tenant != tenant:
        return f"wrong tenant: the task is {row.tenant}'s"
    texts = {text for one in task.annotations for text in one.texts}
    if not texts:
        return "unlabelled: nobody has given the right answer, or the task was skipped"
    if len(texts) > 1:
        return "raters differ: the task has several right answers; leave one in Label Studio"
    (answer,) = texts
    if answer in (row.answered.strip(), sample.answer.strip() if sample is not None else ""):
        return "unchanged: it was answered like that"
    if row.kept_until_ms <= now_ms:
        return OVER
    if not said and (sample is None or not row.alone):
        return f"{WITHDRAWN}, or the sample of it"
    at = standing(
        said,
        asked_ms(said, sample, recorded=recorded),
        policy,
        consents=consents,
        sample_basis=sample_basis,
        now_ms=now_ms,
    )
    if at.why_not:
        return at.why_not
    mine, all_ = ({proposed([one]).strip() for one in some} for some in (at.counting, said))
    if (row.proposed and row.proposed.strip() not in mine) or answer in all_ - mine:
        return "withdrawn: its caller's correction was removed, or has no consent that counts any more"
    days = (min(at.until_ms, row.kept_until_ms) - now_ms) // DAY_MS
    if days < 1:
        return OVER
    asked = [{"role": "user", "content": row.question}, {"role": "assistant", "content": answer}]
    system = {"messages": [{"role": "system", "content": row.system}, *asked]}
    raters = sorted({rater for one in task.annotations if one.texts and (rater := one.rater)})
    provenance = {"origin": "human", "source": f"{SOURCE} {tenant}/{row.route}", "consent": at.consent}
    return {
        "id": row.request,
        **(system if row.system else {"prompt": row.question, "answer": answer}),
        "provenance": provenance | {"retention_days": days, "rater_ids": raters},
    }


def summary(aside: Mapping[str, Sequence[str]]) -> tuple[LeftOut, ...]:
    """Returns why rows are left out, the most frequent reason first."""
    found = sorted(aside.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(LeftOut(why=why, rows=len(ids), requests=tuple(ids[:_NAMED])) for why, ids in found)


def step_of(
    dataset: str,
    versions: Iterable[AdapterVersion],
    jobs: Iterable[tuple[str, JobState]],
    *,
    live: str | None,
    candidate: str | None,
) -> Come:
    """Tells how far a dataset has come on a route, and by which version or job.

    Args:
        versions: the tenant's adapter versions, each after the one that it was trained on from.
        jobs: id and state of the jobs that train on it, newest first.
        live, candidate: digests of the adapters that the route serves; None: none.
    """
    trained = dict[str, AdapterVersion]()
    for one in versions:
        if dataset in one.manifest.datasets or one.manifest.parent in trained:
            trained[one.digest] = one
    for digest, step in ((live, LoopStep.LIVE), (candidate, LoopStep.CANDIDATE)):
        if digest in trained:
            return _come(step, trained[digest])
    if trained:
        return _come(LoopStep.TRAINED, list(trained.values())[-1])
    for job, state in jobs:
        match state:
            case JobState.DONE:
                return Come(LoopStep.TRAINED, job)
            case JobState.FAILED | JobState.CANCELLED:
                return Come(LoopStep.FAILED, job)
            case _:
                return Come(LoopStep.TRAINING, job)
    return Come(LoopStep.LABELLED)


def _come(step: LoopStep, version: AdapterVersion) -> Come:
    return Come(step, f"{version.manifest.name} v{version.version}", version)


def _distance(one: frozenset[str], other: frozenset[str]) -> float:
    return 1 - len(one & other) / max(1, len(one | other))
