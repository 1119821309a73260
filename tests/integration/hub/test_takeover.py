"""A hub takes over a PostgreSQL database that fails, or has lost something, in that very moment."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fakes.postgres_server import PostgresServer, servers
from tests.fleets.linked.turns import taking_turns
from tests.fleets.waiting import until

from loradeck.hub.hub import Hub
from loradeck.hub.log.takeover import TakenLease
from loradeck.hub.process import HubProcess
from loradeck.store.interface import Unusable


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    """A server of the test's own, that it may kill."""
    with servers() as (server,):
        server.start()
        yield server


class FailingTakeover(HubProcess):
    """A hub whose database is killed when it has just taken the lease, the first time, and is back afterwards."""

    database: PostgresServer
    takeovers = 0

    def active(self, hold: TakenLease) -> Hub:
        self.takeovers += 1
        if self.takeovers > 1:
            return super().active(hold)
        self.database.kill()
        try:
            return super().active(hold)
        finally:
            self.database.start()


async def test_a_database_that_fails_during_a_takeover_has_the_hub_stand_by_again_and_take_over_once_it_is_back(
    database: PostgresServer, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "loradeck")
    process = FailingTakeover(data, name="b", database=database.url)
    process.database = database
    async with taking_turns(process, data) as (turns, client):
        await until(lambda: turns.done() or process.takeovers == 2, "it tries again", 60)
        assert not turns.done()

        async def ready() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await until(ready, "it serves", 60)
    (failed,) = [record for record in caplog.records if "takeover" in record.message]
    assert failed.levelname == "ERROR"
    assert failed.message.startswith("the takeover failed code=store_unreachable the database cannot be reached")
    assert failed.message.endswith("this hub stands by again")


async def test_a_database_that_this_program_cannot_use_ends_the_hub_and_is_not_tried_again(
    database: PostgresServer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unusable(self: HubProcess, hold: TakenLease) -> Hub:
        raise Unusable("the event at rev 3 cannot be read")

    monkeypatch.setattr(HubProcess, "active", unusable)
    with pytest.raises(Unusable, match="rev 3"):
        async with taking_turns(HubProcess(data, name="b", database=database.url), data) as (turns, _):
            await until(turns.done, "it ends", 60)
