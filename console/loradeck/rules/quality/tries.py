"""Tries: the releases that were tried on a suite of a gate since the live release went live, and what each has to pay.

Of five candidates that lose the limit, one in five passes by luck if each is judged at 5 %. So the first is judged at
5 %, as where it is the only one, and all later ones of the line share one point more: the second is judged at 0.5 %,
the third at 0.17 %, and number k at 1 % over (k - 1) k. The sum of 1 / ((k - 1) k) from 2 on is 1, so that by
Bonferroni's inequality 6 % pass at most, however many are tried and however alike they are. Each is judged with what
is known when its turn comes, so that nobody has to say beforehand how many there will be (a spending of alpha, as for
looks at one trial: Lan and DeMets, Biometrika 70, 1983, 659).

A release is tried when it is evaluated on the suite, whether for the gate or not: whoever reads the figures can choose.
"""

from collections.abc import Iterable

from loradeck.rules.quality.statistics import ALPHA
from loradeck.schemas.attestation import Look
from loradeck.schemas.ids import Digest

FURTHER = 0.01
"""Level that all tries of a line share, beside the first."""


def level(number: int) -> float:
    """The one-sided level at which try `number` of a line is judged, from 1."""
    return ALPHA if number <= 1 else FURTHER / ((number - 1) * number)


def number_of(
    release: Digest,
    evaluated: Iterable[Look],
    judged: Iterable[Look],
    live_from_ms: int,
    not_tried: Iterable[Digest],
) -> int:
    """Which try on a suite a release is, from 1, in the line that begins when the live release went live.

    A release keeps its number: later tries do not change it.

    Args:
        release: the candidate.
        evaluated: evaluations on the suite, of any time.
        judged: results of the gate on that suite against the live release: whoever was evaluated before this line, and
            is judged in it, is tried in it too.
        live_from_ms: when the live release went live, milliseconds since 1970 UTC.
        not_tried: releases that are only compared with: the live one and the anchor.
    """
    looks = [*(look for look in evaluated if look.at_ms > live_from_ms), *judged]
    others = {*not_tried} - {release}
    first = dict.fromkeys(look.release for look in sorted(looks, key=lambda look: look.seq))
    tried = [one for one in first if one not in others]
    return tried.index(release) + 1 if release in first else len(tried) + 1
