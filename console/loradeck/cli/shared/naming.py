"""From what people type to what travels: pointers, releases, digests, labels, times."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from loradeck.cli.shared.exits import misused, refused
from loradeck.client import times
from loradeck.client.api import HubApi
from loradeck.client.responses import DatasetEntry, SuiteEntry
from loradeck.schemas.ids import short
from loradeck.schemas.log import Event
from loradeck.schemas.state import ReleaseView

PRODUCTION = "production"
"""The route that is meant where none is named."""

_HEX = re.compile(r"[0-9a-f]{4,64}")

T = TypeVar("T")


@dataclass(frozen=True)
class Pointer:
    tenant: str
    route: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.route}"


def pointer(tenant: str, route: str | None = None) -> Pointer:
    """`acme`, `acme production` or `acme/production`.

    Raises:
        CliError: the route is named twice.
    """
    name, slash, inner = tenant.partition("/")
    if slash and route is not None:
        raise misused("the route is named twice", where=f"{tenant} {route}", fix="give TENANT/ROUTE or TENANT ROUTE")
    return Pointer(name, inner or route or PRODUCTION)


def pointer_and_release(words: Sequence[str]) -> tuple[Pointer, str]:
    """`TENANT [ROUTE] RELEASE`.

    Raises:
        CliError: too few or too many words.
    """
    if len(words) == 2:
        return pointer(words[0]), words[1]
    if len(words) == 3:
        return pointer(words[0], words[1]), words[2]
    raise misused(
        "which release of which tenant?", where=" ".join(words) or "no arguments", fix="TENANT [ROUTE] RELEASE"
    )


async def release_named(api: HubApi, tenant: str, text: str) -> ReleaseView:
    """The tenant's release called `v7`, by its full id, or by a prefix of its id that no other has.

    Raises:
        CliError: none, or several.
        ApiError, HubUnreachable.
    """
    known = await api.releases(tenant)
    labelled = [view for view in known if view.label == text]
    if len(labelled) == 1:
        return labelled[0]
    if not labelled and _HEX.fullmatch(text):
        labelled = [view for view in known if view.id.startswith(text)]
        if len(labelled) == 1:
            return labelled[0]
    if labelled:
        told = ", ".join(f"{view.label} {view.id[:12]} on {view.base_label}" for view in labelled)
        raise refused(
            f"{text!r} names {len(labelled)} releases of {tenant}",
            where=told,
            fix="give more of the id",
            code="ambiguous_release",
        )
    have = ", ".join(f"{view.label} {short(view.id)}" for view in known[-8:]) or "none"
    raise refused(
        f"{tenant} has no release {text!r}",
        where=f"it has: {have}",
        fix="name it v7, by its id, or by the first characters of its id",
        code="unknown_release",
    )


NAMED = 20
"""Tenants whose releases are asked for to name them in one table; of more, ids are shown."""


async def called(api: HubApi, events: Iterable[Event]) -> Callable[[str | None], str]:
    """What people call the releases of some events: `v7 b81e07`, or the id's first characters."""
    tenants = list(dict.fromkeys(event.tenant for event in events))[:NAMED]
    known = {view.id: view.label for views in await asyncio.gather(*map(api.releases, tenants)) for view in views}

    def name(release: str | None) -> str:
        label = known.get(release) if release is not None else None
        return f"{label} {short(release)}" if label else short(release)

    return name


async def event_named(api: HubApi, at: Pointer, text: str | None) -> Event:
    """The pointer's event with this id, or whose id alone begins so; its last move where none is named.

    Raises:
        CliError: none, or several.
        ApiError, HubUnreachable.
    """
    row = await api.row(at.tenant, at.route)
    text = text or row.pointer.last_move
    if text is None:
        raise refused(f"{at} has not moved yet", fix=f"loradeck event ls {at}", code="no_move")
    if row.last_event is not None and row.last_event.id == text:
        return row.last_event
    found = [e for e in await api.events(tenant=at.tenant, route=at.route, limit=1000) if e.id.startswith(text)]
    if len(found) != 1:
        raise refused(
            f"{len(found)} of the last 1,000 events of {at} are called {text!r}",
            fix=f"loradeck event ls {at}",
            code="unknown_event",
        )
    return found[0]


@dataclass(frozen=True)
class Named(Generic[T]):
    """A registered document with the names it may be called by."""

    digest: str
    names: tuple[str, ...]
    value: T


def owned_named(kind: str, text: str, tenant: str, known: Iterable[DatasetEntry | SuiteEntry]) -> str:
    """Digest of a tenant's dataset or suite called `text`; 'other/name' looks at that tenant's. Raises: CliError."""
    entries = [Named(e.digest, (e.manifest.name, f"{e.manifest.tenant}/{e.manifest.name}"), e) for e in known]
    own = [entry for entry in entries if entry.value.manifest.tenant == tenant]
    return one_named(kind, text, entries if "/" in text else own).digest


def one_named(kind: str, text: str, known: Iterable[Named[T]]) -> Named[T]:
    """The document called `text`: a name, its digest, or a prefix of the digest that no other has.

    Of several with the same name the newest registered is meant (documents come oldest first).

    Raises:
        CliError: none, or a prefix that fits several.
    """
    every = list(known)
    by_name = [entry for entry in every if text in entry.names]
    if by_name:
        return by_name[-1]
    found = [entry for entry in every if entry.digest.startswith(text)] if _HEX.fullmatch(text) else []
    if len(found) == 1:
        return found[0]
    if found:
        raise refused(
            f"{text!r} fits {len(found)} {kind}s",
            where=", ".join(entry.digest[:12] for entry in found),
            fix="give more of the digest",
            code=f"ambiguous_{kind}",
        )
    have = ", ".join(f"{entry.names[0]} {short(entry.digest)}" for entry in every[-8:]) or "none"
    raise refused(
        f"the hub has no {kind} {text!r}",
        where=f"it has: {have}",
        fix=f"register it first: loradeck {kind} add",
        code=f"unknown_{kind}",
    )


def labels_of(pairs: Iterable[str]) -> dict[str, str]:
    """`--label site=eu-1` and the like. Raises: CliError."""
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise misused("a label is KEY=VALUE", where=repr(pair), fix="for example --label site=eu-1")
        labels[key] = value
    return labels


def moment(text: str, *, interactive: bool, now_ms: int | None = None, ahead: bool = False) -> int:
    """Milliseconds since 1970 UTC of a time as people type it (`loradeck.client.times`).

    A time without a zone is taken as this machine's local time where somebody sees what it came to before it
    counts, and refused where nobody does.

    Raises:
        CliError: not a time, without a zone when not interactive, or in the future (`ahead`: that is taken).
    """
    try:
        return times.moment(text, now_ms=now_ms or int(time.time() * 1000), zoneless=interactive, ahead=ahead)
    except times.MomentError as error:
        raise misused(str(error), where=repr(text), fix=error.fix, code=error.code) from None
