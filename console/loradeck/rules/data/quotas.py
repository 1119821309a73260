"""Quotas: what a tenant may have of adapter versions and their files, of whole weights on nodes, and of slots.

What it has already stays when its quota is made smaller; then nothing is added.
"""

from collections.abc import Callable, Iterable, Mapping

from loradeck.rules.errors import Refused
from loradeck.rules.serving.capacity import ALWAYS_SLOTS
from loradeck.schemas.ids import Digest, Name
from loradeck.schemas.manifest import AdapterManifest, BaseManifest
from loradeck.schemas.route import RouteConfig
from loradeck.schemas.table import RouteResidency
from loradeck.schemas.tenant import Quota, QuotaUse, TenantState


def used(quota: Quota, kept: Iterable[AdapterManifest]) -> QuotaUse:
    """Sums what a tenant has, a file of several versions once. `kept`: its versions that are not deprecated."""
    versions = list(kept)
    return QuotaUse(quota=quota, adapters=len(versions), bytes=sum(_files(versions).values()))


def check(quota: Quota, kept: Iterable[AdapterManifest], new: AdapterManifest) -> None:
    """Checks that a tenant may have one more adapter version. Raises: Refused: over_quota."""
    versions = list(kept)
    after = used(quota, [*versions, new])
    if quota.adapters is not None and after.adapters > quota.adapters:
        raise _over(new, f"{len(versions)} adapter versions of {quota.adapters}")
    if quota.bytes is not None and after.bytes > quota.bytes:
        more = after.bytes - sum(_files(versions).values())
        raise _over(new, f"{after.bytes - more:,} bytes of {quota.bytes:,}, and this one has {more:,} more")


def weights(kept: Iterable[BaseManifest]) -> int:
    """Sums the bytes of whole weights; a file that several name lies in each of their folders."""
    return sum(file.size for one in kept for file in one.files)


def check_weights(tenant: TenantState, kept: Iterable[BaseManifest], base: BaseManifest) -> None:
    """Checks that a job may make whole weights of a base, as large as this.

    `kept`: those of the tenant, and the bases of which its jobs that are not over make some.

    Raises: Refused: over_quota.
    """
    most, has, more = tenant.quota.weights, weights(kept), weights([base])
    if most is not None and has + more > most:
        raise Refused(
            "over_quota",
            f"{tenant.name} would have more than its quota allows",
            detail=f"{has:,} bytes of whole weights of {most:,}, with what jobs are to make; these have {more:,} more",
            fix="have those collected that nothing goes back to: loradeck hub collect; or have the quota raised",
        )


def slots(routes: Mapping[Name, RouteConfig], nodes: Callable[[RouteConfig], int]) -> int:
    """Counts the slots that `always` routes keep: for each, on each of its nodes, its release and the one R goes to.

    `nodes`: those that a route is placed on.
    """
    always = [config for config in routes.values() if config.residency is RouteResidency.ALWAYS]
    return sum(ALWAYS_SLOTS * nodes(config) for config in always)


def check_slots(tenant: TenantState, route: Name, config: RouteConfig, nodes: Callable[[RouteConfig], int]) -> None:
    """Checks that a route may be set so. A setting that takes no more slots than before is always allowed.

    Raises: Refused: over_quota.
    """
    most, has = tenant.quota.slots, slots(tenant.routes, nodes)
    would = slots({**tenant.routes, route: config}, nodes)
    if most is not None and would > max(most, has):
        raise Refused(
            "over_quota",
            f"{tenant.name} would keep more slots than its quota allows",
            detail=f"{would} slots of {most}: {ALWAYS_SLOTS} on each node of each `always` route, and {has} until now",
            fix="place it on fewer nodes, or --residency on-demand, which keeps none; or have the quota raised",
        )


def _files(versions: Iterable[AdapterManifest]) -> dict[Digest, int]:
    return {file.sha256: file.size for version in versions for file in version.files}


def _over(new: AdapterManifest, detail: str) -> Refused:
    return Refused(
        "over_quota",
        f"{new.tenant} would have more than its quota allows",
        detail=detail,
        fix="deprecate versions that are not promoted any more: loradeck adapter deprecate; or have the quota raised",
    )
