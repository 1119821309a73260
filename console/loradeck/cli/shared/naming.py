"""Names that people type, resolved to pointers, releases, digests, labels, times and spans of time."""

import asyncio
import functools
import re
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import click

from loradeck.cli.shared.exits import misused, refused
from loradeck.client import times
from loradeck.client.api import HubApi
from loradeck.schemas.ids import short
from loradeck.schemas.log import FLEET, Event
from loradeck.schemas.responses import BaseEntry, DatasetEntry, SuiteEntry
from loradeck.schemas.state import ReleaseView

PRODUCTION = "production"
"""The route that is meant if none is named."""

_HEX = re.compile(r"[0-9a-f]{4,64}")

T = TypeVar("T")


@dataclass(frozen=True)
class Pointer:
    """A pointer as named on the command line: tenant and route."""

    tenant: str
    route: str

    def __str__(self) -> str:
        return f"{self.tenant}/{self.route}"


def pointer(tenant: str, route: str | None = None) -> Pointer:
    """Parses `acme`, `acme production` or `acme/production`. Raises: CliError: the route is named twice."""
    name, slash, inner = tenant.partition("/")
    if slash and route is not None:
        raise misused("the route is named twice", where=f"{tenant} {route}", fix="give TENANT/ROUTE or TENANT ROUTE")
    return Pointer(name, inner or route or PRODUCTION)


def on_pointer(body: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Gives a command the arguments TENANT [ROUTE], as one `Pointer` before all that are named."""

    @functools.wraps(body)
    async def named(*args: Any, tenant: str, route: str | None, **kwargs: Any) -> None:
        await body(*args, pointer(tenant, route), **kwargs)

    command = click.argument("route", metavar="[ROUTE]", required=False)(named)
    return click.argument("tenant", metavar="TENANT")(command)


def pointer_and_release(words: Sequence[str]) -> tuple[Pointer, str]:
    """Parses `TENANT [ROUTE] RELEASE`. Raises: CliError: too few or too many words."""
    if len(words) == 2:
        return pointer(words[0]), words[1]
    if len(words) == 3:
        return pointer(words[0], words[1]), words[2]
    raise misused(
        "which release of which tenant?", where=" ".join(words) or "no arguments", fix="TENANT [ROUTE] RELEASE"
    )


async def release_named(api: HubApi, tenant: str, text: str) -> ReleaseView:
    """Finds a tenant's release by its label (`v7`), its id, or a unique prefix of its id.

    Raises:
        CliError: none matches, or several do.
        ApiError, HubUnreachable: the hub refused, or was not reached.
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
        raise refused(
            f"{text!r} names {len(labelled)} releases of {tenant}",
            where=", ".join(f"{view.label} {view.id[:12]} on {view.base_label}" for view in labelled),
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
"""Tenants whose releases are looked up to name them in one table; beyond these, ids are shown."""


async def called(api: HubApi, events: Iterable[Event]) -> Callable[[str | None], str]:
    """Looks up names for the releases of some events; returns a function from id to `v7 b81e07`, or to a short id."""
    tenants = list(dict.fromkeys(event.tenant for event in events if event.tenant != FLEET))[:NAMED]
    known = {view.id: view.label for views in await asyncio.gather(*map(api.releases, tenants)) for view in views}

    def name(release: str | None) -> str:
        label = known.get(release) if release is not None else None
        return f"{label} {short(release)}" if label else short(release)

    return name


async def event_named(api: HubApi, at: Pointer, text: str | None) -> Event:
    """Finds a pointer's event by its id or a unique prefix; its last move if none is named.

    Raises:
        CliError: none matches, or several do.
        ApiError, HubUnreachable: the hub refused, or was not reached.
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
class NamedDocument(Generic[T]):
    """A registered document and the names that it may be called by."""

    digest: str
    names: tuple[str, ...]
    value: T


def owned_named(kind: str, text: str, tenant: str, known: Iterable[DatasetEntry | SuiteEntry]) -> str:
    """Digest of a tenant's dataset or suite called `text`; 'other/name' looks at that tenant's.

    Raises: CliError: none matches, or several do.
    """
    entries = [NamedDocument(e.digest, (e.manifest.name, f"{e.manifest.tenant}/{e.manifest.name}"), e) for e in known]
    own = [entry for entry in entries if entry.value.manifest.tenant == tenant]
    return one_named(kind, text, entries if "/" in text else own).digest


async def base_named(api: HubApi, text: str) -> BaseEntry:
    """Finds a base by its label, its model id or its digest. Raises: CliError: none matches, or several do."""
    known = [NamedDocument(b.digest, (b.label, b.manifest.model_id), b) for b in await api.bases()]
    return one_named("base", text, known).value


def one_named(kind: str, text: str, known: Iterable[NamedDocument[T]]) -> NamedDocument[T]:
    """Finds a document by its name, its digest, or a unique prefix of its digest.

    A name that several documents have means the newest (`known` is ordered oldest first).

    Raises: CliError: none matches, or several do.
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
    """Parses labels such as `site=eu-1`. Raises: CliError: a label is not KEY=VALUE."""
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise misused("a label is KEY=VALUE", where=repr(pair), fix="for example --label site=eu-1")
        labels[key] = value
    return labels


def moment(text: str, *, interactive: bool, now_ms: int | None = None, ahead: bool = False) -> int:
    """Parses a time as people type it into milliseconds since 1970 UTC; see `loradeck.client.times`.

    A time without a zone is local time where a person sees the result before it counts, and refused otherwise.

    Raises: CliError: not a time, without a zone when not interactive, or in the future without `ahead`.
    """
    try:
        return times.moment(text, now_ms=now_ms or int(time.time() * 1000), zoneless=interactive, ahead=ahead)
    except times.MomentError as error:
        raise misused(str(error), where=repr(text), fix=error.fix, code=error.code) from None


_SPAN = re.compile("([1-9][0-9]{0,4})([mhd])")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}


def seconds_of(span: str, option: str) -> int:
    """The seconds of a span such as '90m'. `option` is where it was given. Raises: CliError: it is none."""
    found = _SPAN.fullmatch(span)
    if found is None:
        raise misused("this is no span of time", where=f"{option} {span}", fix="90d, 12h or 30m")
    return int(found[1]) * _SECONDS[found[2]]
