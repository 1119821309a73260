"""Commits one move after another until it is killed; says each on stdout once it is acknowledged.

    python committer.py BACKEND URL [TTL_S]

Run by the tests in a process of its own. Each line is `KEY REV`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from drafts import move

from loradeck.store.postgres import PostgresStore
from loradeck.store.sql_log import Store
from loradeck.store.sqlite import SqliteStore

OPENERS: dict[str, Callable[[str], Store]] = {
    "sqlite": SqliteStore,
    "postgres": PostgresStore,
}


def main(backend: str, url: str, ttl_s: str = "60") -> None:
    store = OPENERS[backend](url)
    epoch = store.take_lease("committer", ttl_s=float(ttl_s), anyway=True)
    generation = max((p.generation for p in store.snapshot().pointers), default=0)
    while True:
        generation += 1
        key = f"key-{epoch}-{generation}"
        committed = store.commit([move(to=generation % 5, generation=generation)], key=key)
        print(key, committed.rev, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
