"""Who still calls deprecated releases: the keys of their callers, as routers name them, and when each asked last."""

from collections.abc import Callable

from pydantic import TypeAdapter

from loradeck.hub.log.store_thread import StoreThread
from loradeck.rules.clocks import MINUTE_MS
from loradeck.rules.moves.fold import FoldedLog
from loradeck.schemas.counts import CALLER_CHARS, Traffic
from loradeck.schemas.ids import PointerKey
from loradeck.schemas.state import CallerSeen
from loradeck.store.interface import StoreError

KEPT = "deprecated_callers"
"""The setting of the store that holds them."""

STEP_MS = MINUTE_MS
"""A caller that goes on asking is noted anew after so long, in milliseconds."""

_kept = TypeAdapter(dict[str, dict[str, int]])


class DeprecatedCallers:
    """Callers by pointer and release. Only keys of the tenant count, so that no node can make any up."""

    def __init__(self, state: FoldedLog, store: StoreThread, now_ms: Callable[[], int]) -> None:
        """Reads what was kept; blocking."""
        self._state, self._store, self._now_ms = state, store, now_ms
        self._seen = _kept.validate_json(store.now(lambda s: s.meta(KEPT)) or "{}")
        self._unsaved = False

    def told(self, row: Traffic) -> None:
        """A router has said who called a deprecated release."""
        now, seen = self._now_ms(), self._seen.setdefault(_name((row.tenant, row.route), row.release), {})
        for key in self._state.tenant(row.tenant).keys:
            at_ms = min(row.called_by.get(key.sha256[:CALLER_CHARS], 0), now)
            if at_ms and at_ms >= seen.get(key.id, 0) + STEP_MS:
                seen[key.id] = at_ms
                self._unsaved = True

    def of(self, key: PointerKey, release: str) -> tuple[CallerSeen, ...]:
        """The callers of a release on a pointer, the one that asked last first."""
        seen = self._seen.get(_name(key, release), {})
        return tuple(CallerSeen(key=name, last_ms=seen[name]) for name in sorted(seen, key=lambda k: (-seen[k], k)))

    async def save(self) -> None:
        """Writes what has changed, without keys that are gone. Raises: StoreError: it is kept for the next time."""
        if not self._unsaved:
            return
        for name, seen in list(self._seen.items()):
            tenant = self._state.tenants.get(name.partition("/")[0])
            keys = {key.id for key in tenant.keys} if tenant is not None else set()
            self._seen[name] = {key: at_ms for key, at_ms in seen.items() if key in keys}
            if not self._seen[name]:
                del self._seen[name]
        text, self._unsaved = _kept.dump_json(self._seen).decode(), False
        try:
            await self._store(lambda s: s.set_meta(KEPT, text), background=True)
        except StoreError:
            self._unsaved = True
            raise


def _name(key: PointerKey, release: str) -> str:
    return f"{key[0]}/{key[1]}/{release}"
