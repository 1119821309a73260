"""What the console asks of its hub beside moves: figures, records, labels, a promote's candidate, a rewind's plan.

Nothing here changes anything at the hub. Answers go into the state; what stands in the way is told once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Hashable
from typing import Any

from loradeck.client.errors import ClientError
from loradeck.schemas.attestation import GateResult
from loradeck.schemas.moves import RewindPlan, RewindRequest
from loradeck.schemas.state import ReleaseView
from loradeck.tui.dispatch import newest
from loradeck.tui.labels import Labels
from loradeck.tui.moves import RowKey
from loradeck.tui.outcome import said
from loradeck.tui.port import Port
from loradeck.tui.state import FETCHED, ConsoleState, Link, Screen
from loradeck.tui.text import clean


class Asker:
    """
    Args:
        start: runs a coroutine beside the keys.
        changed: called when an answer has changed what is on the screen.
        notice: tells a line, with its style.
    """

    def __init__(
        self,
        port: Port,
        state: ConsoleState,
        *,
        start: Callable[[Coroutine[Any, Any, None]], None],
        changed: Callable[[], None],
        notice: Callable[[str, str], None],
    ) -> None:
        self._port = port
        self._state = state
        self._start = start
        self._changed = changed
        self._notice = notice
        self._labels = Labels(port, state)
        self._shown: frozenset[RowKey] | None = None
        self._scoring: str | None = None

    def show(self, rows: Collection[RowKey]) -> None:
        """Ask for the figures of these rows from now on; what moves or changes a flag comes for every row."""
        shown = frozenset(key for key in rows if key in self._state.tenants)
        if shown != self._shown and self._state.link is not Link.CONNECTING:
            self._shown = shown
            self._start(self._port.show(shown))

    def labels(self, in_view: Collection[Hashable]) -> None:
        """Ask what releases are called that events name and no row has described. `in_view`: revs on the screen."""
        for tenant in self._labels.wanted(in_view):
            self._start(self._learn(tenant))

    async def _learn(self, tenant: str) -> None:
        await self._labels.learn(tenant)
        self._changed()

    # ---- records -------------------------------------------------------------------------------------------

    def records(self) -> None:
        """Fetch the rows of the screen in front when they are missing or old, and the selected adapter's scores."""
        which, state = self._state.screen, self._state
        if which not in FETCHED or state.link not in (Link.LIVE, Link.STALE):
            return
        if state.fetches[which].due(state.clock()):
            state.fetches[which].running = True
            self._start(self._fetch(which))
        version = state.registry.adapters.get(state.adapter_list.selected or "")
        if which is not Screen.ADAPTERS or version is None or self._scoring is not None:
            return
        if version.release not in state.registry.scores:
            self._scoring = version.release
            self._start(self._fetch_scores(version.release))

    async def _fetch(self, which: Screen) -> None:
        state, registry = self._state, self._state.registry
        try:
            if which is Screen.GATES:
                registry.take_gates(await self._port.gates())
            if which in (Screen.ADAPTERS, Screen.DATA):
                registry.take_adapters(await self._port.adapters())
            # Names of suites and datasets are on all three.
            registry.take_data(*await self._port.data())
            state.fetched(which)
        except ClientError as error:
            state.fetches[which].trouble = said(error)
        finally:
            state.fetches[which].running = False
        for tenant in self._labels.of(registry):
            await self._labels.learn(tenant)
        state.arrange()
        self._changed()

    async def _fetch_scores(self, release: str) -> None:
        try:
            self._state.registry.take_scores(release, await self._port.scores(release))
        except ClientError as error:  # the pane goes on saying that it is looking them up
            self._notice(f"scores: {said(error)}", "warn")
        finally:
            self._scoring = None
        self._changed()

    # ---- before a question ---------------------------------------------------------------------------------

    async def candidate(self, key: RowKey, label: str | None) -> tuple[ReleaseView, GateResult | None] | None:
        """The release that `p` would offer on a row, and its newest gate result; None: it was told why there is none.

        `label`: the release that was named; None: the newest that is not live.
        """
        tenant, route = key
        try:
            releases = await self._port.releases(tenant)
            row = self._state.tenants.get(key)
            if row is None:
                return None
            named = [view for view in releases if label in (view.label, f"v{view.label}", view.id)]
            found = (named[-1] if named else None) if label else newest(releases, row)
            if found is None:
                known = ", ".join(clean(view.label) for view in releases) or "none"
                what = clean(label) if label else "but the live one"
                self._notice(f"p off: no release {what} (known: {known})", "warn")
                return None
            return found, await self._port.gate(tenant, route, found.id, row.pointer.release)
        except ClientError as error:
            self._notice(f"p off: {said(error)}", "bad")
            return None

    async def plan(self, request: RewindRequest) -> RewindPlan | None:
        """What the hub would do on a rewind; None: it was told why there is no answer."""
        try:
            return await self._port.plan_rewind(request)
        except ClientError as error:
            self._notice(f"W off: {said(error)}", "bad")
            return None
