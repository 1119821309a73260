"""A hub's log written through the store: what takes a quarter of an hour of requests for ten thousand tenants."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.ids import Role
from loradeck.schemas.log import Draft, EventKind, PointerState
from loradeck.schemas.manifest import BaseManifest, Release
from loradeck.schemas.route import RouteConfig
from loradeck.store.interface import Doc
from loradeck.store.sqlite import SqliteStore
from loradeck.testing.simulated_fleet import ROUTE

CHUNK = 500
"""Events of one transaction."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class WrittenLog:
    """The log in a new data folder of a hub. `clock_ms`: stamps its events."""

    def __init__(self, data: Path, base: BaseManifest, clock_ms: Callable[[], int] = now_ms) -> None:
        data.mkdir(mode=0o700)
        self.store = SqliteStore(data / "hub.db", clock_ms=clock_ms)
        with self.store.database.reading() as connection:
            connection.execute("PRAGMA synchronous=OFF")  # nobody relies on a benchmark's database
        self.store.take_lease("bench")
        self.store.register(Doc.BASE, base.digest, base.model_dump(mode="json"), tenant=None, by="bench")

    def register(self, releases: Sequence[Release]) -> None:
        """All releases of the log, as `Store.register` writes them, in one transaction."""
        at_ms = now_ms()
        rows = [
            (Doc.RELEASE.value, one.id, serial, one.tenant, at_ms, "bench", json.dumps(one.model_dump(mode="json")))
            for serial, one in enumerate(releases, 1)
        ]
        columns = "kind, digest, serial, tenant, created_ms, created_by, body"
        with self.store.database.transaction() as connection:
            connection.executemany(f"INSERT INTO documents ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def commit(self, drafts: Sequence[Draft]) -> None:
        for at in range(0, len(drafts), CHUNK):
            first = drafts[at]
            key = f"bench-{first.kind.value}-{first.tenant}-{first.expected_generation}"
            self.store.commit(drafts[at : at + CHUNK], key=key)


def draft(kind: EventKind, tenant: str, **more: object) -> Draft:
    return Draft.model_validate({"kind": kind, "tenant": tenant, "actor": "bench", "role": Role.RELEASER, **more})


def route(tenant: str, config: RouteConfig) -> Draft:
    pointer = PointerState(tenant=tenant, route=ROUTE)
    return draft(
        EventKind.ROUTE, tenant, route=ROUTE, pointer=pointer, payload={"config": config.model_dump(mode="json")}
    )


def promote(release: Release, beneath: Release | None = None) -> Draft:
    """The first promote of a tenant, or the second, with the first one's release `beneath`."""
    under = () if beneath is None else (beneath.id,)
    pointer = PointerState(
        tenant=release.tenant, route=ROUTE, generation=1 + len(under), release=release.id, beneath=under
    )
    before = {"expected_generation": len(under), "from_release": under[0] if under else None}
    return draft(EventKind.PROMOTE, release.tenant, route=ROUTE, pointer=pointer, **before)


def attested(release: Release, replicas: int) -> Attestation:
    """The release was proven on so many replicas as its tenant's first."""
    return Attestation(
        kind=AttestationKind.ATTESTED,
        subject=release.id,
        tenant=release.tenant,
        route=ROUTE,
        body={"generation": 1, "n": replicas, "m": replicas, "level": "proven"},
        by="bench",
    )
