"""Quotas: how many adapter versions a tenant may have at the hub, and how many bytes their files may take."""

from collections.abc import Iterable

from loradeck.rules.errors import Refused
from loradeck.schemas.ids import Digest
from loradeck.schemas.manifest import AdapterManifest
from loradeck.schemas.tenant import Quota, QuotaUse


def used(quota: Quota, kept: Iterable[AdapterManifest]) -> QuotaUse:
    """Sums what a tenant has. A file that several versions name is counted once.

    `kept`: its adapter versions that are not deprecated.
    """
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


def _files(versions: Iterable[AdapterManifest]) -> dict[Digest, int]:
    return {file.sha256: file.size for version in versions for file in version.files}


def _over(new: AdapterManifest, detail: str) -> Refused:
    return Refused(
        "over_quota",
        f"{new.tenant} would have more than its quota allows",
        detail=detail,
        fix="deprecate versions that are not promoted any more: loradeck adapter deprecate; or have the quota raised",
    )
