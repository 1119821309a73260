"""Training freezes: when no train or generate job of a tenant is begun, as freeze windows stop promotes."""

from collections.abc import Iterable, Iterator

from loradeck.rules.clocks import utc
from loradeck.rules.errors import Refused
from loradeck.schemas.dataset_ledger import LedgerEntry, fits
from loradeck.schemas.freshness import TrainingFreeze
from loradeck.schemas.incident import Incident
from loradeck.schemas.tenant import TenantState


def freezes_of_training(
    tenant: TenantState, datasets: Iterable[tuple[str, LedgerEntry]], incident: Incident | None, now_ms: int
) -> Iterator[Refused]:
    """The refusals of a train or generate job of a tenant, one for each freeze that holds it.

    A source that is frozen holds every dataset that names it, and those that name so many sources that the ledger has
    not all of them.

    Args:
        datasets: what the job reads, with the names of the datasets; several may have one name.
        incident: an open one with a pointer of the tenant.
    """
    datasets = tuple(datasets)
    for freeze in tenant.data.training_freezes:
        if freeze.from_ms <= now_ms and (freeze.until_ms is None or now_ms < freeze.until_ms):
            held = _held(freeze, datasets)
            if held is not None:
                until = "until it is lifted" if freeze.until_ms is None else f"until {utc(freeze.until_ms)}"
                yield _refusal(tenant.name, f"{until}{held}", freeze.reason, freeze.model_dump(mode="json"))
    if incident is not None:
        until = f"until incident {incident.id} is closed"
        yield _refusal(tenant.name, until, incident.title, {"incident": incident.id})


def _held(freeze: TrainingFreeze, datasets: Iterable[tuple[str, LedgerEntry]]) -> str | None:
    """Why a freeze holds a job, in words that follow when it ends; None: it is about other sources."""
    if not freeze.source:
        return ""
    for name, entry in datasets:
        for source in entry.sources:
            if fits(freeze.source, source):
                return f": {name} has rows of {source}"
        if entry.distinct_sources > len(entry.sources):
            return f": {name} has rows of {entry.distinct_sources} sources, and {freeze.source} may be among them"
    return None


def _refusal(tenant: str, until: str, why: str, context: dict[str, object]) -> Refused:
    return Refused(
        "training_frozen",
        f"training of {tenant} is frozen {until}",
        detail=why,
        fix="wait until then, or pass it: --override WHY; an event keeps that",
        context=context,
    )
