"""Adapter versions: origin, scores and routes of each, and the differences of any two."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial

from loradeck.client.terminal_text import clean
from loradeck.schemas.manifest import AdapterVersion
from loradeck.schemas.release import Form, Release
from loradeck.schemas.responses import ReleaseDetail
from loradeck.tui.actions.window import Handlers
from loradeck.tui.keys.action import Action, Screen
from loradeck.tui.lines.difference import difference_lines
from loradeck.tui.lines.lineage import lineage_lines
from loradeck.tui.lines.registry import ADAPTER_COLUMNS, adapter_cells, adapter_lines
from loradeck.tui.screens.listing import ListScreen
from loradeck.tui.widgets.page import Page

PAGE_S = 1.0
"""How often a version's page is written anew: what its ancestors scored comes one after the other."""


class AdaptersScreen(ListScreen[AdapterVersion]):
    """The list of adapter versions."""

    WHICH = Screen.ADAPTERS
    COLUMNS = ADAPTER_COLUMNS
    CELLS = adapter_cells
    DETAILS = adapter_lines
    EMPTY = "no adapter yet: loradeck job train RECIPE, or loradeck adapter import"

    mark: str | None = None
    """The version that `d` compares the selected one with."""

    def marked(self) -> frozenset[Hashable]:
        """The version that is marked for comparison."""
        return frozenset({self.mark} if self.mark is not None else ())

    # ---- keys ------------------------------------------------------------------------------------------------

    @property
    def handlers(self) -> Handlers:
        """Actions of this screen alone."""
        return {**super().handlers, Action.MARK_VERSION: self._mark_version, Action.COMPARE: self._compare}

    def _mark_version(self) -> None:
        selected = self.selected
        if selected is None:
            self.window.notice("nothing is selected", "dim")
            return
        self.mark = None if self.mark == selected.digest else selected.digest
        if self.mark is not None:
            self.window.notice(
                f"{_name(selected)} is marked; {self.key(Action.COMPARE)} on another one compares them", "dim"
            )

    def _compare(self) -> None:
        """The marked version beside the selected one."""
        adapters, selected = self.state.registry.adapters, self.selected
        marked = adapters.get(self.mark or "")
        if selected is None or marked is None:
            mark = self.key(Action.MARK_VERSION)
            self.off(Action.COMPARE, f"mark a version with {mark}, then select the one to compare it with")
        elif marked is selected:
            self.off(Action.COMPARE, "the selected version is the marked one; select another")
        else:
            names = {digest: self.state.registry.name_of(digest) for digest in self.state.registry.data}
            what = " and ".join(dict.fromkeys(_adapter(one) for one in (marked, selected)))
            one, other = _detail(marked), _detail(selected)
            write = partial(difference_lines, what, one, other, names, sides=("marked", "selected"))
            self.app.push_screen(Page("difference", write, leaves=self.state.keys.of(Action.COMPARE)))

    def open(self) -> None:
        """Open the lineage of the selected version."""
        version = self.selected
        if version is not None:
            self.app.push_screen(Page("lineage", partial(lineage_lines, self.state, version), every=PAGE_S))


def _adapter(version: AdapterVersion) -> str:
    return clean(f"{version.manifest.tenant}/{version.manifest.name}")


def _name(version: AdapterVersion) -> str:
    return f"{_adapter(version)} v{version.version}"


def _detail(version: AdapterVersion) -> ReleaseDetail:
    manifest = version.manifest
    release = Release(
        tenant=manifest.tenant,
        form=Form.ADAPTER,
        base=manifest.base,
        adapter=version.digest,
        label=f"v{version.version}",
    )
    return ReleaseDetail(release=release, manifest=manifest)
