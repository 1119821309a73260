"""Recommends what to do where freshness meters have a signal: nothing, another prompt, retrieval, or training again.

Facts that change belong into retrieval, style and procedure into weights, and what a prompt mends into the prompt; an
answer that is no worse needs nothing, however far its inputs have moved.
"""

from collections.abc import Iterable

from loradeck.rules.quality import figures
from loradeck.rules.quality.statistics import paired_items
from loradeck.schemas.freshness import Figure, Meter, MeterKind, Recommendation, Remedy, Sizing

WORSE = frozenset({MeterKind.CORRECTED, MeterKind.BAD})
"""Meters that look at answers: without one of them nothing is known to be worse. A request that no engine was given has
none: what it lacks is capacity, and neither a prompt nor training brings that.
"""

FACTS = frozenset({MeterKind.TERMS, MeterKind.EXPECTED})
"""Meters of facts that have come up and that the weights may not know."""

WEIGHTS = frozenset({MeterKind.BASE, MeterKind.RETENTION})
"""Meters of the weights themselves: no prompt mends those."""

LOSS = 0.05
"""The loss that a gate bounds, where no gain was measured."""


def items_to_see(gain: Figure | None) -> int:
    """Returns how many held-out items show this gain with 80 % power; where none was measured, a loss of 5 points."""
    return paired_items(min(1.0, gain.mean) if gain is not None and gain.mean > 0 else LOSS)


def recommend(meters: Iterable[Meter], sizing: Sizing | None) -> Recommendation:
    """Recommends what to do about a route, by its meters and by what training again would take and bring."""
    seen = {meter.kind: meter.says for meter in meters if meter.signal}
    if not seen or sizing is None:
        return Recommendation(remedy=Remedy.NOTHING, reasons=("no meter has a sustained signal",))
    worse, facts, forced = (seen.keys() & kinds for kinds in (WORSE, FACTS, WEIGHTS))
    reasons = tuple(seen[kind] for kind in MeterKind if kind in seen)
    gain, prompt = sizing.gain, sizing.prompt
    takes = (f"it takes {figures.figure(sizing.gpu_hours, '.3g')} GPU hours",) if sizing.gpu_hours is not None else ()
    if forced:
        return Recommendation(remedy=Remedy.TRAIN, reasons=tuple(seen[kind] for kind in sorted(forced)), against=takes)
    if worse and prompt is not None and prompt.low > 0:
        said = f"by loradeck decide, a better prompt wins {figures.figure(prompt, '.1%')} of the items"
        return Recommendation(remedy=Remedy.PROMPT, reasons=(*reasons, said))
    if facts and MeterKind.BAD not in worse:
        said = "facts that change belong into retrieval: weights would be old again"
        return Recommendation(remedy=Remedy.RETRIEVAL, reasons=(*reasons, said), against=takes)
    if not worse:
        said = "answers are not corrected or bad more often than in the first days"
        if MeterKind.REFUSED in seen:
            said = f"requests that no engine was given lack capacity, and {said}"
        return Recommendation(remedy=Remedy.NOTHING, reasons=(said,), against=reasons)
    if gain is None:
        said = "what training again would gain was never measured here; a prompt is cheaper to try"
        return Recommendation(remedy=Remedy.PROMPT, reasons=(*reasons, said))
    told = f"past refreshes won {figures.figure(gain, '.1%')} of the items"
    if gain.low > 0 and gain.n != 2:  # of two it is the lower one and no bound; of one its gate's own
        return Recommendation(remedy=Remedy.TRAIN, reasons=(*reasons, told), against=takes)
    return Recommendation(remedy=Remedy.PROMPT, reasons=(*reasons, f"{told}: not surely anything"), against=takes)
