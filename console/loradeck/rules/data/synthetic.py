"""Synthetic rows: which prompts a generate job asks, how deep its rows are, and what they may be used for.

Rows of a model are at least as confidential, and may be kept and used no longer and for no more, than the rows that the
model was trained on and those of people that they stand beside.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loradeck.rules.clocks import DAY_MS
from loradeck.rules.data.lineage import Made
from loradeck.rules.data.policy import DatedEntry
from loradeck.rules.errors import Refused
from loradeck.rules.quality.statistics import wilson
from loradeck.schemas.dataset_ledger import TRAIN, LedgerEntry
from loradeck.schemas.generation import (
    GenerateSpec,
    GenerationReport,
    Share,
    Source,
    Template,
    filled,
    slots_of,
)
from loradeck.schemas.manifest import AdapterVersion, Origin, Provenance, Release, Tier

_TIERS = list(Tier)


@dataclass(frozen=True)
class Asked:
    """A prompt of a template, and what its slots are filled with."""

    template: Template
    slots: Mapping[str, str]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation that a source is asked."""
        system = [{"role": "system", "content": filled(self.template.system, self.slots)}]
        return [
            *(system if self.template.system else ()),
            {"role": "user", "content": filled(self.template.prompt, self.slots)},
        ]


def prompts(spec: GenerateSpec) -> list[Asked]:
    """The prompts of a job: of all templates in turn, each with texts of its slots that follow from the seed.

    No prompt of a template comes twice. Fewer than `spec.prompts` where the templates make no more.
    """
    lists = [_of_template(number, spec) for number in range(len(spec.templates))]
    turns = max(map(len, lists))
    found = [one[turn] for turn in range(turns) for one in lists if turn < len(one)]
    return found[: spec.prompts]


def _of_template(number: int, spec: GenerateSpec) -> list[Asked]:
    template = spec.templates[number]
    names = sorted(slots_of(template, spec))
    sizes = [len(spec.slots[name]) for name in names]

    def order(choice: int) -> bytes:
        return hashlib.sha256(f"{spec.seed}:{number}:{choice}".encode()).digest()

    found = []
    for choice in sorted(range(math.prod(sizes)), key=order)[: spec.prompts]:
        slots, left = dict[str, str](), choice
        for name, size in zip(names, sizes, strict=True):
            left, at = divmod(left, size)
            slots[name] = spec.slots[name][at]
        found.append(Asked(template, slots))
    return found


def trained_on(
    release: Release, *, adapters: Mapping[str, AdapterVersion], releases: Iterable[Release], made: Made
) -> frozenset[str]:
    """The datasets that a release's weights were trained on: adapter, its parents, and what its base was made from.

    `made` may name teachers of adapters, too.

    Raises: Refused: `no_depth`: an adapter of them names no datasets.
    """
    merged = {one.merged: one.adapter for one in releases if one.merged is not None}
    open_bases, open_adapters = [release.base, release.served_base], [release.adapter]
    seen, found = set[str](), set[str]()
    while open_bases or open_adapters:
        if (adapter := open_adapters.pop() if open_adapters else None) is not None and adapter not in seen:
            seen.add(adapter)
            version = adapters.get(adapter)
            if version is None or not version.manifest.datasets:
                raise Refused(
                    "no_depth",
                    "nobody knows how deep rows of this release are: its adapter names no datasets",
                    detail=f"adapter {adapter}",
                    fix="import it with the datasets that it was trained on (--dataset), or ask another release",
                )
            found.update(version.manifest.datasets)
            open_adapters.append(version.manifest.parent)
            open_bases += [version.manifest.base, *(one.base for one in made.get(adapter, ()))]
        if open_bases and (base := open_bases.pop()) not in seen:
            seen.add(base)
            open_adapters.append(merged.get(base))
            for one in made.get(base, ()):
                found.update(one.datasets)
                open_bases.append(one.base)
                open_adapters.append(one.adapter)
    return frozenset(found)


def check_terms(source: Source, called: str) -> None:
    """Checks that somebody has accepted the terms of a source. Raises: Refused: `terms_not_accepted`."""
    if not source.terms.strip():
        raise Refused(
            "terms_not_accepted",
            "nobody says that the source's terms allow to train on what it writes",
            detail=called,
            fix="write under the source who has read which terms, and when: terms = '...'",
        )


def provenance(
    spec: GenerateSpec, learnt: Iterable[str], ledger: Mapping[str, DatedEntry], *, job: str, now_ms: int
) -> Provenance:
    """The provenance of a job's rows. `learnt`: the datasets that its sources were trained on.

    Depth is one more than of the deepest row that a source was trained on. A row's own licence and release stand in the
    row.

    Raises: Refused: `no_depth`: a dataset has no ledger entry. `retention_over`. `no_human_rows`: those beside have
    none. `purpose_not_allowed`: some rows may not be trained on.
    """
    learnt = sorted(learnt)
    unread = [digest for digest in (*learnt, *spec.beside) if digest not in ledger]
    if unread:
        raise Refused(
            "no_depth",
            "nobody knows how deep the rows are: a dataset was never read into the ledger",
            detail=unread[0],
            fix="register it again (loradeck dataset add), with the provenance of every row",
        )
    if not any(ledger[digest].entry.human for digest in spec.beside):
        raise Refused(
            "no_human_rows",
            "the datasets beside hold no row that a person wrote",
            detail=", ".join(spec.beside),
            fix="name the rows of people that the job's rows are trained beside",
        )
    used = [ledger[digest] for digest in dict.fromkeys((*learnt, *spec.beside))]
    left = [
        kept.entry.retention_days - -(-(now_ms - kept.at_ms) // DAY_MS)
        for kept in used
        if kept.entry.retention_days is not None
    ]
    if left and min(left) < 1:
        raise Refused("retention_over", "the retention period of rows that the job would learn from is over")
    purposes = sorted(set.intersection(*(set(kept.entry.purposes) for kept in used)))
    if TRAIN not in purposes:
        raise Refused(
            "purpose_not_allowed",
            "rows of a model may be used for what all rows that it learnt from allow, and some may not be trained on",
            detail=f"all allow {', '.join(purposes) or 'nothing'}",
        )
    return Provenance(
        source=f"job {job}",
        tier=max((tier for kept in used for tier in kept.entry.tiers), key=_TIERS.index),
        origin=Origin.SYNTHETIC,
        generator_release=spec.sources[0].release,
        synthetic_depth=1 + max((ledger[digest].entry.deepest for digest in learnt), default=0),
        verifier=f"{spec.verifier.form.value}, {'by a judge' if spec.verifier.judge else 'by a program'}",
        consent=", ".join(sorted({basis for kept in used for basis in kept.entry.consents})),
        licence_class=spec.sources[0].licence,
        retention_days=min(left, default=None),
        purpose=tuple(purposes),
    )


def share(k: int, n: int) -> Share:
    """A share with its interval in thousandths."""
    low, high = wilson(k, n)
    return Share(k=k, n=n, low=round(1000 * low), high=round(1000 * high))


def disagreement(report: GenerationReport, spec: GenerateSpec, job: str) -> str:
    """Names what in a report cannot be of this job, or does not add up; empty: nothing."""
    passed, of = report.passed, report.sources
    shares = (passed, report.tail, report.tail_of_people, *(one.passed for one in of))
    kept = passed.k - report.copies - (report.near or 0) - report.contaminated
    broken = {
        "job": report.job != job,
        "beside": report.beside != spec.beside,
        "sources": [one.release for one in of] != [one.release for one in spec.sources],
        "asked": report.asked > spec.prompts * spec.answers * len(spec.temperatures)
        or report.asked != report.unfinished + report.sensitive + passed.n,
        "passed": [passed.k, passed.n] != [sum(one.passed.k for one in of), sum(one.passed.n for one in of)],
        "rows": report.rows != kept,
        "an interval": any(one.k > one.n or one != share(one.k, one.n) for one in shares),
    }
    return ", ".join(name for name, wrong in broken.items() if wrong)


def claims(entry: LedgerEntry, spec: GenerateSpec, provenance: Provenance) -> str:
    """Names what rows say of themselves that is not so; empty: nothing. Their source and its licence they may name."""
    broken = {
        "origin": entry.model != entry.rows,
        "depth": entry.deepest != provenance.synthetic_depth,
        "generator": not {source.release for source in spec.sources}.issuperset(entry.generators),
        "licence": not {source.licence for source in spec.sources}.issuperset(entry.licence_classes),
        "source": entry.sources != (provenance.source,),
        "consent": entry.consents != (provenance.consent,),
        "tier": entry.tiers != (provenance.tier,),
        "purpose": not set(entry.purposes) <= set(provenance.purpose),
        "retention": entry.retention_days != provenance.retention_days,
    }
    return ", ".join(name for name, wrong in broken.items() if wrong)
