"""Rules of preferences: which judgements count, what a dataset is made of, what is left out of it, and the floors.

Of pairs, jailbreaks that won and length without content are left out (`unfit`), equal answers, and items that ask the
same as one before them; where such items were decided differently, all of them. Words are compared folded, as rows are
with suites. docs/preferences.md says how much of a made set is found, and left out falsely.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from loradeck.rules.clocks import DAY_MS
from loradeck.rules.data.backlog import summary
from loradeck.rules.errors import Refused
from loradeck.rules.quality import figures
from loradeck.rules.quality.agreement import GOLD_FLOOR, Vote, alpha, by_item, counted, majority, raters
from loradeck.schemas.attestation import Attestation
from loradeck.schemas.dataset_ledger import DataPolicy
from loradeck.schemas.manifest import Provenance
from loradeck.schemas.preference import (
    TIE,
    Adjudication,
    Campaign,
    Disputed,
    Item,
    PreferenceBuild,
    PreferenceReport,
    RubricsCompared,
)
from loradeck.schemas.suite import REFUSALS as SUITE_REFUSALS
from loradeck.schemas.training import REFUSALS

FLOORS = {"pair": 0.2, "answer": 0.67, "label": 0.67}
"""Least lower bound of alpha. Published sets of preferences lie between .26 and .54, so that .67 would take none."""

OVERLAPS = 60
"""Fewest items that two raters or more have judged: with 100, alpha is still ±.15."""

QUALIFICATIONS = 100
"""Most qualifications by which a report counts the rows that two persons judged: those of most rows."""

LONGER, NEW = 1.5, 0.1

LURE = re.compile(
    r" (ignore|disregard|forget|override|bypass)( \w+){0,4} (instructions?|guidelines?|restrictions|programming) "
    r"| (ignore|disregard|forget) (all|any|your|the|previous)( \w+){0,3} rules | (not|never|cannot) refuse "
    r"| do anything now | (you are|act as|be)( now)?( an?)? (dan|unrestricted|unfiltered|jailbroken|in developer mode) "
    r"| developer mode( is)?( now)? enabled | (have|bound by) no( \w+)? (restrictions|rules|guidelines) | not bound by "
    r"| (ai|assistant|model|answers?|reply|respond|act|speak) (without( any)?|with no) (restrictions|limits|filters) "
)
"""Finds prompts that try to talk a model out of its rules: in English, of folded words with spaces around them."""

REFUSING = (
    *REFUSALS,
    *SUITE_REFUSALS,
    "i decline",
    "i am not going to",
    "i'm not going to",
    "i'm unable",
    "sorry but",
    "kann ich nicht",
    "kann ich leider nicht",
    "kann leider nicht",
    "je ne peux",
    "non posso",
)
COURTESIES = (
    "thank you for",
    "thank you so much",
    "thanks for",
    "glad that you asked",
    "glad you asked",
    "happy to help",
    "here to help",
    "hope this helps",
    "hope that",
    "let me know",
    "further questions",
    "feel free to",
    "hesitate",
    "anything else",
    "have a great",
    "have a wonderful",
    "as an ai",
    "great question",
    "good question",
    "excellent question",
    "let me explain",
    "absolutely right",
)
"""Phrases of sentences that say nothing of what was asked; English."""

Words = Callable[[str], Sequence[str]]
"""The folded words of a text."""


class Decided(NamedTuple):
    """What somebody decided of an item; `by_rater`: one who had judged it."""

    choice: str
    by_rater: bool


class Built(NamedTuple):
    """The rows of a dataset, what they stand on, and the items that wait for an adjudication, by their ids."""

    rows: list[dict[str, Any]]
    report: PreferenceReport
    disputed: list[Disputed]


def decisions(campaign: Campaign, build: PreferenceBuild, stated: Iterable[Attestation]) -> dict[str, Decided]:
    """Returns the newest adjudication of each item by the rubric of a build. `stated`: a tenant's, oldest first."""
    named, found = {digest: item for item, digest in campaign.digests.items()}, dict[str, Decided]()
    judged = judges(campaign)
    for one in stated:
        said = Adjudication.model_validate(one.body)
        if one.subject in named and said.rubric == build.rubric:
            item = named[one.subject]
            if not said.choice:
                found.pop(item, None)
            elif campaign.items[item].takes(said.choice, campaign.rubrics[build.rubric].scale):
                found[item] = Decided(said.choice, (item, one.by) in judged)
    return found


def undone_with(campaign: Campaign, rater: str, stated: Iterable[Attestation]) -> list[tuple[str, str]]:
    """Lists rubric and item of the newest decisions by a rater who judged the item.

    They do not count, and would once nothing says that the rater judged it. `stated`: as for `decisions`.
    """
    named, newest = {digest: item for item, digest in campaign.digests.items()}, dict[tuple[str, str], str]()
    for one in stated:
        if (item := named.get(one.subject)) is not None:
            said = Adjudication.model_validate(one.body)
            newest[said.rubric, item] = one.by if said.choice else ""
    own = {(item, who) for item, who in judges(campaign) if who and who in (rater, campaign.raters[rater].person)}
    return sorted((rubric, item) for (rubric, item), by in newest.items() if (item, by) in own)


def check_build(campaign: Campaign, build: PreferenceBuild) -> None:
    """Checks that a build's rubric and raters are there. Raises: Refused: `unknown_rubric`, `unknown_rater`."""
    if build.rubric not in campaign.rubrics:
        have = ", ".join(sorted(campaign.rubrics))
        fix = "name one of them (--rubric)"
        raise Refused("unknown_rubric", f"nothing was judged by {build.rubric}", detail=f"the rubrics: {have}", fix=fix)
    if unknown := sorted(set(build.without) - campaign.raters.keys()):
        raise Refused("unknown_rater", "there is no such rater to leave out", detail=", ".join(unknown))


def counting(campaign: Campaign, build: PreferenceBuild) -> tuple[list[Vote], list[str]]:
    """Returns the votes that count, and the items of those that do not as their raters lack a qualification."""
    rubric, votes, unqualified = campaign.rubrics[build.rubric], list[Vote](), list[str]()
    for one in campaign.judgements:
        if one.rubric != build.rubric or one.rater in build.without:
            continue
        if not set(rubric.needs) <= set(campaign.raters[one.rater].qualifications):
            unqualified.append(one.item)
            continue
        first = one.choice == one.first if one.first is not None and one.choice in ("a", "b") else None
        votes.append(Vote(one.item, one.rater, one.choice, first, int(one.at.timestamp() * 1000)))
    return votes, unqualified


def judges(campaign: Campaign) -> set[tuple[str, str]]:
    """Lists who has judged which item, by any rubric: (item, id), and (item, name that they sign in with)."""
    return {(one.item, who) for one in campaign.judgements for who in (one.rater, campaign.raters[one.rater].person)}


def choice_of(build: PreferenceBuild, votes: Sequence[Vote], decided: Decided | None) -> tuple[str | None, str]:
    """Returns what an item's votes come to, or None with why they come to nothing.

    `decided`: counts above the votes, unless it is by one of its raters.
    """
    if not votes:
        return None, "not judged by this rubric"
    if len(votes) < build.each:
        return None, f"judged by fewer than {build.each}"
    if decided is not None:
        return (None, "adjudicated by one of its own raters") if decided.by_rater else (decided.choice, "")
    if (choice := majority([vote.choice for vote in votes])) is None:
        return None, "raters differ: it waits for an adjudication"
    return choice, ""


def differing(campaign: Campaign, one: PreferenceBuild, other: PreferenceBuild) -> RubricsCompared:
    """Compares what two rubrics come to, on the items that more than half of the raters decide by either."""
    sides = [(build, by_item(counting(campaign, build)[0])) for build in (one, other)]
    both, differ = 0, list[Disputed]()
    for name, item in sorted(campaign.items.items()):
        made = {build.rubric: choice_of(build, votes.get(name, ()), None)[0] for build, votes in sides}
        if None in made.values():
            continue
        both += 1
        if len(set(made.values())) > 1:
            differ.append(Disputed(item=item, votes={by: choice or "" for by, choice in made.items()}))
    return RubricsCompared(agree=counted(both - len(differ), both), differ=tuple(differ))


def built(campaign: Campaign, build: PreferenceBuild, stated: Iterable[Attestation], words: Words) -> Built:
    """Makes the rows of a dataset, and says what they stand on. The same judgements and decisions give the same rows.

    `stated`: the tenant's adjudications, oldest first. Raises: Refused: as `check_build`.
    """
    check_build(campaign, build)
    votes, unqualified = counting(campaign, build)
    decided, disputed = decisions(campaign, build, stated), list[Disputed]()
    on_item, aside = by_item(votes), defaultdict[str, list[str]](list)
    if unqualified:
        aside["judgements of raters without a qualification that the rubric needs"] = unqualified
    chosen, adjudicated, asked = dict[str, str](), 0, _asked(campaign, words)
    for name, item in sorted(campaign.items.items()):
        cast = on_item.get(name, [])
        choice, why = choice_of(build, cast, decided.get(name))
        if item.gold is not None:
            why = "gold: it measures raters"
        elif choice is None and len(cast) >= build.each:
            disputed.append(Disputed(item=item, votes={vote.rater: vote.choice for vote in cast}, why=why))
        elif choice == TIE and item.kind == "pair":
            why = "tie: neither answer is better"
        elif choice is not None and item.kind == "pair":
            why = unfit(item, choice, words)
        if why:
            aside[why].append(name)
        else:
            assert choice is not None
            chosen[name] = choice
            adjudicated += name in decided
    rows = []
    for name in _once(asked, chosen, aside):
        by = sorted({vote.rater for vote in on_item[name]})
        rows.append({"id": name, **_row(campaign.items[name], chosen[name]), "provenance": {"rater_ids": by}})
    twice = Counter[str]()
    for row in rows:
        had = [q for rater in row["provenance"]["rater_ids"] for q in {"", *campaign.raters[rater].qualifications}]
        twice.update(q for q, persons in Counter(had).items() if persons > 1)
    # What is asked twice is one item: who answered it twice has one vote on it, or copies would pass the floors.
    gold = {one.of: one.turned(item.gold) for name, one in asked.items() if (item := campaign.items[name]).gold}
    votes = _one_vote(votes, asked)
    on_item, kind = by_item(votes), next(iter(campaign.items.values())).kind
    scale = campaign.rubrics[build.rubric].scale if kind == "label" else ()
    measured = [vote.choice == gold[vote.item] for vote in votes if vote.item in gold]
    shown = [[vote.first == (vote.choice == "a") for vote in one if vote.first is not None] for one in on_item.values()]
    orders = [len(set(one)) == 2 for one in shown if len(one) > 1]
    ratings = [[vote.choice for vote in one] for name, one in on_item.items() if name not in gold]
    longer = [len(words(row["chosen"])) > len(words(row["rejected"])) for row in rows] if kind == "pair" else []
    report = PreferenceReport(
        build=build,
        kind=kind,
        rows=len(rows),
        agreement=alpha(ratings, scale),
        gold=counted(sum(measured), len(measured)),
        both_orders=counted(sum(orders), len(orders)),
        longer=counted(sum(longer), len(longer)),
        adjudicated=adjudicated,
        raters=tuple(raters(votes, gold, scale)),
        left_out=summary(aside),
        twice=dict(sorted(twice.items(), key=lambda one: (-one[1], one[0]))[:QUALIFICATIONS]),
    )
    return Built(rows, report, disputed)


def unfit(item: Item, choice: str, words: Words) -> str:
    """Tells why a pair is not trained on although its raters agree; empty: it may be.

    A jailbreak won where the winner does not refuse, and the item says `refuse` or its prompt fits `LURE` and the loser
    does. Length won where it is more than `LONGER` times as long, at most `NEW` of it new, `COURTESIES` left aside.
    """
    won, lost = (item.a, item.b) if choice == "a" else (item.b, item.a)
    of_won, of_lost = words(won), words(lost)
    if of_won == of_lost:
        return "both answers are the same"
    luring = LURE.search(_spaced(item.prompt, words)) is not None
    if not _refuses(won, words) and (item.refuse or (luring and _refuses(lost, words))):
        return "a jailbreak won"
    if len(of_won) > LONGER * len(of_lost):
        courtesy, said = _finds(COURTESIES, words), re.split(r"(?<=[.!?\n])\s*", won)
        kept = {word for one in said if not courtesy.search(_spaced(one, words)) for word in words(one)}
        if kept and len(kept - set(of_lost)) <= NEW * len(kept):
            return "length without content won"
    return ""


def check_floors(report: PreferenceReport) -> None:
    """Checks that the agreement behind a dataset is high enough to train on it.

    Raises: Refused: `agreement_low`, with every figure that is too low.
    """
    found, floor = report.agreement, FLOORS[report.kind]
    low = []
    if found.n < OVERLAPS:
        low.append(f"{found.n} items were judged twice or more, {OVERLAPS} are needed")
    if found.alpha is None:
        low.append("alpha is not defined: everybody chose the same, or nothing was judged twice")
    elif found.low < floor:
        low.append(f"alpha {figures.alpha(found)}, from {floor} on")
    if (gold := report.gold).low < GOLD_FLOOR:
        low.append(f"gold {figures.share(gold.k, gold.n)} right, from {GOLD_FLOOR:.0%} on")
    low += [f"rater {r.rater}: {r.gold.k} of {r.gold.n} gold items right" for r in report.raters if "gold" in r.flags]
    if low:
        title = "raters agree too little to train on what they chose"
        fix = "leave out raters who stand out (--without), judge more items twice, add gold, or write the rubric anew"
        raise Refused("agreement_low", title, detail="; ".join(low)[:2000], fix=fix)
    if not report.rows:
        left = "; ".join(f"{one.rows}: {one.why}" for one in report.left_out)
        raise Refused(
            "agreement_low", "no row is left to train on", detail=left[:2000], fix="loradeck preference queue"
        )


def check_rated_twice(report: PreferenceReport, policy: DataPolicy, called: str) -> None:
    """Checks that two persons have judged as many rows of a dataset as the tenant's policy asks for.

    `called`: the dataset's name in messages. Raises: Refused: `rated_once`, with both counts.
    """
    found, needed = report.twice.get(policy.rated_by, 0), math.ceil(policy.rated_twice * report.rows - 1e-9)
    if found < needed:
        by = f" who have the qualification {policy.rated_by!r}" * bool(policy.rated_by)
        title = f"too few rows were judged by two persons{by}, by the tenant's data policy"
        detail = f"{called}: {found:,} of {report.rows:,} rows, and {needed:,} are needed"
        fix = "have more items judged twice, import that and build the dataset anew: loradeck preference"
        raise Refused("rated_once", title, detail=detail, fix=fix)


def check_rated(datasets: Iterable[tuple[str, str | None]]) -> None:
    """Checks that pairs are trained on only where raters agreed enough. `datasets`: name and judgements, None: none.

    Raises: Refused: `no_agreement`.
    """
    if unrated := [name for name, judgements in datasets if judgements is None]:
        title, fix = "nothing says that people agreed on these pairs", "build them of judgements: loradeck preference"
        fix += " build; or say why others may be trained on: loradeck tenant data TENANT --unrated-pairs WHY"
        raise Refused("no_agreement", title, detail=", ".join(unrated)[:2000], fix=fix)


def inherited(source: Provenance, kept_ms: int) -> Provenance:
    """The provenance of what is made of judgements: theirs, with the days that are left of their retention.

    `kept_ms`: for how long the judgements have been here. Raises: Refused: `retention_over`.
    """
    if source.retention_days is None:
        return source
    left = source.retention_days - -(-kept_ms // DAY_MS)
    if left < 1:
        title = "the retention period of the judgements is over, or ends within a day"
        raise Refused("retention_over", title, detail=f"{source.retention_days} days; {kept_ms / DAY_MS:.1f} are over")
    return source.model_copy(update={"retention_days": left})


class _Asked(NamedTuple):
    """The first item that asks what an item does, by their ids, and whether that has the two answers swapped."""

    of: str
    swapped: bool

    def turned(self, choice: str) -> str:
        """A choice of the item as one of the first."""
        return {"a": "b", "b": "a"}.get(choice, choice) if self.swapped else choice


def _asked(campaign: Campaign, words: Words) -> dict[str, _Asked]:
    """Finds for each item the one that it is told by. Gold items are told apart from others, which they measure."""
    first, found = dict[tuple[Any, ...], tuple[str, Any]](), dict[str, _Asked]()
    for name, item in sorted(campaign.items.items()):
        asked, a, b = (tuple(words(text)) for text in (f"{item.system}\n{item.prompt}\n{item.answer}", item.a, item.b))
        # The same pair with its answers swapped is the same pair.
        of, its_a = first.setdefault((asked, frozenset((a, b)), item.gold is None), (name, a))
        found[name] = _Asked(of, a != its_a)
    return found


def _one_vote(votes: Iterable[Vote], asked: Mapping[str, _Asked]) -> list[Vote]:
    """Votes on the items that they are told by, of each rater the newest on each."""
    told = (vote._replace(item=asked[vote.item].of, choice=asked[vote.item].turned(vote.choice)) for vote in votes)
    return list({(vote.item, vote.rater): vote for vote in sorted(told, key=lambda vote: vote.at_ms)}.values())


def _once(asked: Mapping[str, _Asked], chosen: Mapping[str, str], aside: dict[str, list[str]]) -> Iterable[str]:
    """The items that are left where each is asked once."""
    same = defaultdict[str, list[str]](list)
    for name in chosen:
        same[asked[name].of].append(name)
    for group in same.values():
        if len({asked[name].turned(chosen[name]) for name in group}) > 1:
            aside["decided differently of items that ask the same"] += group
            continue
        if group[1:]:
            aside["asks the same as another item"] += group[1:]
        yield group[0]


def _row(item: Item, choice: str) -> dict[str, Any]:
    asked: dict[str, Any] = {"prompt": item.prompt}
    if item.system:
        asked = {"messages": [{"role": "system", "content": item.system}, {"role": "user", "content": item.prompt}]}
    match item.kind:
        case "pair":
            won, lost = (item.a, item.b) if choice == "a" else (item.b, item.a)
            return {**asked, "chosen": won, "rejected": lost}
        case "answer":
            return {**asked, "answer": item.answer, "good": choice == "good"}
        case "label":
            return {**asked, "answer": choice}


def _refuses(text: str, words: Words) -> bool:
    unlike = "(?!(to hear|you|that you|for|wait|stress|recommend|thank) )"  # "I can't wait" refuses nothing
    return _finds(REFUSING, words, unlike).search(_spaced(text, words)) is not None


@cache
def _finds(phrases: tuple[str, ...], words: Words, unlike: str = "") -> re.Pattern[str]:
    return re.compile(f" ({'|'.join(' '.join(words(phrase)) for phrase in phrases)}) {unlike}")


def _spaced(text: str, words: Words) -> str:
    return f" {' '.join(words(text))} "
