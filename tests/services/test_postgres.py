"""Real PostgreSQL servers, a primary and two synchronous standbys: what was acknowledged outlives each of them."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contract.store.drafts import move
from tests.contract.store.test_migrate import everything, fill
from tests.contract.store.whole_log import verify_log
from tests.fakes.postgres_server import PostgresServer, fail_over, replicated, servers
from tests.fleets.processes.hub import LORADECK

from loradeck.store.interface import LeaseHeld, LeaseLost, OutcomeUnknown, StoreError
from loradeck.store.postgres import PostgresStore
from loradeck.store.sqlite import SqliteStore

COMMITTER = Path(__file__).parents[1] / "contract" / "store" / "committer.py"


@pytest.fixture
def cluster() -> Iterator[list[PostgresServer]]:
    """A primary and two standbys, of which one must have each commit."""
    with replicated() as made:
        yield made


def url_of(cluster: list[PostgresServer]) -> str:
    return f"postgresql://postgres@/postgres?host={','.join(str(server.folder) for server in cluster)}"


class Committer:
    """A hub that commits one move after another, and looks up what was not answered."""

    def __init__(self, url: str) -> None:
        self.store = PostgresStore(url, commit_s=2.0)
        self.store.take_lease("hub-a", ttl_s=60)
        self.acknowledged: list[str] = []
        self.ending = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        generation = 1
        while not self.ending:
            key = f"key-{generation}"
            try:
                self.store.commit([move(to=generation % 5, generation=generation)], key=key)
            except OutcomeUnknown:
                if not self._was_made(key):
                    continue
            except LeaseLost:
                raise
            except StoreError:
                time.sleep(0.05)
                continue
            self.acknowledged.append(key)
            generation += 1

    def _was_made(self, key: str) -> bool:
        while True:
            try:
                self.store.reopen()
                return self.store.lookup(key) is not None
            except StoreError:
                time.sleep(0.05)

    def reach(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.acknowledged) < count:
            assert time.monotonic() < deadline, "no commit goes through"
            assert self._thread.is_alive()
            time.sleep(0.005)

    def end(self) -> None:
        self.ending = True
        self._thread.join(60)


@pytest.mark.parametrize("round_", range(3))
def test_no_acknowledged_commit_is_lost_when_the_primary_is_killed_and_a_standby_promoted(
    cluster: list[PostgresServer], round_: int
) -> None:
    committer = Committer(url_of(cluster))
    committer.reach(random.randrange(20, 200))
    before = len(committer.acknowledged)
    began = time.monotonic()
    fail_over(cluster)
    committer.reach(before + 50)
    print(f"50 more commits {time.monotonic() - began:.2f} s after the kill")
    committer.end()
    store = committer.store
    lost = [key for key in committer.acknowledged if store.lookup(key) is None]
    report = verify_log(store)
    assert (lost, report.ok) == ([], True)
    assert report.rev == len(committer.acknowledged)
    store.close()


def test_an_old_primary_that_comes_back_alone_acknowledges_nothing(cluster: list[PostgresServer]) -> None:
    old = cluster[0]
    store = PostgresStore(old.url, commit_s=1.0)
    store.take_lease("hub-a", ttl_s=60)
    store.commit([move()], key="key-0001")
    fail_over(cluster)
    old.start()
    with pytest.raises(OutcomeUnknown):
        store.commit([move(to=2, generation=2)], key="key-0002")
    with pytest.raises(OutcomeUnknown):
        store.lookup("key-0002")
    store.close()


def test_a_commit_goes_on_with_one_standby_and_ends_as_unknown_with_none(cluster: list[PostgresServer]) -> None:
    store = PostgresStore(url_of(cluster), commit_s=1.0)
    store.take_lease("hub-a", ttl_s=60)
    cluster[1].kill()
    assert store.commit([move()], key="key-0001").rev == 1
    cluster[2].kill()
    with pytest.raises(OutcomeUnknown):
        store.commit([move(to=2, generation=2)], key="key-0002")
    cluster[1].start()
    store.reopen()
    found = store.lookup("key-0002")
    assert found is not None
    assert found.rev == 2
    assert cluster[1].execute("SELECT max(rev) FROM loradeck.events") == [(2,)]
    store.close()


def migrate(source: str, target: str) -> subprocess.CompletedProcess[str]:
    words = ["hub", "migrate", "--from", source, "--to", target]
    return subprocess.run([LORADECK, *words], capture_output=True, text=True, timeout=120, check=False)


def test_a_hubs_database_moves_to_postgresql_and_back_by_a_command(tmp_path: Path) -> None:
    first, last = str(tmp_path / "hub.db"), str(tmp_path / "back.db")
    store = SqliteStore(first)
    store.take_lease("hub-a")
    fill(store)
    kept, head = everything(store), store.snapshot().hash
    store.close()
    with servers() as (server,):
        server.start()
        for source, target in ((first, server.url), (server.url, last)):
            done = migrate(source, target)
            assert (done.returncode, done.stdout) == (0, f"6 events, verified on both sides: head {head}\n"), done
        again = migrate(last, server.url)
    assert again.returncode == 3
    assert "the target has a log already, at epoch 1 and rev 6" in again.stderr
    store = SqliteStore(last)
    assert everything(store) == kept
    store.close()


def test_of_two_hubs_the_second_takes_over_when_the_first_is_killed(cluster: list[PostgresServer]) -> None:
    url = url_of(cluster)
    with subprocess.Popen(
        [sys.executable, str(COMMITTER), "postgres", url, "1.5"], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        acknowledged = [first.stdout.readline().split()[0] for _ in range(20)]
        second = PostgresStore(url)
        with pytest.raises(LeaseHeld, match="'committer'"):
            second.take_lease("hub-b", ttl_s=10)
        first.kill()
        acknowledged += [line.split()[0] for line in first.stdout.readlines() if line.endswith("\n")]
    while (head := second.read_head()).is_held:
        second.wait_for_change(head.remaining_s or 0.0)
    assert second.take_lease("hub-b", ttl_s=10) == 2
    assert [key for key in acknowledged if second.lookup(key) is None] == []
    generation = second.snapshot().pointers[0].generation + 1
    second.commit([move(to=1, generation=generation)], key="key-after")
    assert verify_log(second).ok
    second.close()
