"""What a gateway knows: fences that nodes show, callers' keys, and what it finds again on its disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.router.running import KEY, entry, release

from loradeck.schemas.ids import GENESIS
from loradeck.schemas.link import Bookmark, Desired, ServedRoute, Serving
from loradeck.schemas.replica_state import AckLevel
from loradeck.schemas.table import TableEntry, table_digest
from loradeck_agent.gateway.routes import GatewayRoutes


def told(*entries: TableEntry, rev: int = 1, full: bool = True) -> Desired:
    digest = table_digest(entries)
    return Desired(epoch=1, rev=rev, prev_rev=rev - 1, hash=GENESIS, entries=entries, full=full, table=digest)


def bookmark() -> Bookmark:
    return Bookmark(epoch=1, rev=1, hash=GENESIS)


@pytest.fixture
def routes(tmp_path: Path) -> GatewayRoutes:
    made = GatewayRoutes(tmp_path / "gateway.json")
    assert made.directive(told(entry(release("v1")))) is None
    return made


def held(routes: GatewayRoutes) -> TableEntry:
    found = routes.entry(("acme", "production"))
    assert found is not None
    return found


def test_the_highest_fence_that_a_node_has_shown_is_sent(routes: GatewayRoutes) -> None:
    routes.show(held(routes), (1, 3), "n1")
    routes.show(held(routes), (1, 2), "n2")
    assert routes.fence(held(routes)) == (1, 3)


def test_a_fence_that_no_hub_has_heard_of_is_forgotten_and_its_node_not_believed_again(routes: GatewayRoutes) -> None:
    """Or one hostile node could have all others of its pointers refuse."""
    routes.show(held(routes), (9, 9), "n1")
    for _ in range(2):
        assert routes.fence(held(routes)) == (9, 9)
        assert routes.bookmark(bookmark()) is None
    assert routes.fence(held(routes)) == (1, 1)
    routes.show(held(routes), (9, 9), "n1")
    assert routes.fence(held(routes)) == (1, 1)
    routes.show(held(routes), (1, 2), "n2")
    assert routes.fence(held(routes)) == (1, 2)


def test_a_node_that_shows_a_move_before_the_hub_tells_of_it_is_believed_on(routes: GatewayRoutes) -> None:
    routes.show(held(routes), (1, 2), "n1")
    routes.directive(told(entry(release("v2"), 2), rev=2, full=False))
    for _ in range(3):
        routes.bookmark(Bookmark(epoch=1, rev=2, hash=GENESIS))
    routes.show(held(routes), (1, 3), "n1")
    assert routes.fence(held(routes)) == (1, 3)


def test_a_node_that_shows_a_move_which_the_hub_before_has_lost_is_believed_on(routes: GatewayRoutes) -> None:
    """It speaks the truth: the move was made, and a hub from a backup knows nothing of it."""
    routes.show(held(routes), (1, 2), "n1")
    assert routes.directive(told(entry(release("v1"))).model_copy(update={"epoch": 2, "prev_rev": 1})) is None
    for _ in range(3):
        assert routes.bookmark(Bookmark(epoch=2, rev=1, hash=GENESIS)) is None
    assert routes.fence(held(routes)) == (1, 1)
    routes.show(held(routes), (2, 2), "n1")
    assert routes.fence(held(routes)) == (2, 2)


def test_a_missed_directive_asks_for_everything_and_changes_nothing(routes: GatewayRoutes) -> None:
    assert routes.directive(told(entry(release("v2"), 2), rev=4, full=False)) == "revisions 1 to 3 were missed"
    assert held(routes).generation == 1
    assert routes.bookmark(bookmark()) is not None


def test_a_route_that_is_gone_takes_its_callers_keys_with_it(routes: GatewayRoutes) -> None:
    assert routes.tenants_of(KEY) == {"acme"}
    assert routes.models({"acme"}) == ["acme", "acme/production"]
    routes.directive(told(rev=2))
    assert (routes.tenants_of(KEY), routes.models({"acme"})) == (None, [])


def test_it_finds_again_what_it_knew(routes: GatewayRoutes, tmp_path: Path) -> None:
    served = ServedRoute(tenant="acme", route="production", nodes={"n1": AckLevel.HOST})
    routes.serving(Serving(full=True, nodes={"n1": "n1.example.com:7500"}, routes=(served,)))
    (tmp_path / "gateway.json").write_bytes(routes._snapshot())
    again = GatewayRoutes(tmp_path / "gateway.json")
    again.load()
    assert (held(again), again.nodes, again.tenants_of(KEY)) == (held(routes), routes.nodes, {"acme"})
    assert again.served(("acme", "production")) == {"n1": AckLevel.HOST}


def test_a_file_that_is_damaged_is_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "gateway.json").write_text("{")
    GatewayRoutes(tmp_path / "gateway.json").load()
    assert "cannot be read" in caplog.text
