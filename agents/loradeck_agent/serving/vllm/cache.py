"""What a vLLM keeps in its CPU cache, as far as it is known from outside.

vLLM's unloading takes an adapter from its list and leaves it in the cache, which gives up what was used least
recently when one more is loaded. That must be an unloaded adapter: a listed one would be read from the disk again in
the middle of a step. Callers' requests are not seen here, so that a listed adapter counts as used when it was last
loaded or asked by us, and an unloaded one as used until its unload.
"""

from collections.abc import Iterable


class CpuCache:
    """The adapters in the CPU cache of one vLLM, which holds `size` of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._listed: dict[str, int] = {}
        self._unloaded: dict[str, int] = {}
        self._time = 0

    def found(self, listed: Iterable[str]) -> None:
        """Notes adapters that were all used just now, in a vLLM of which nothing was known: the rest was unloaded."""
        self._listed = dict.fromkeys(listed, 1)
        self._unloaded = {f"unknown {number}": 0 for number in range(self._size - len(self._listed))}
        self._time = 1

    def to_use(self) -> list[str]:
        """Listed adapters that have to be used before another one is loaded, so that it pushes out an unloaded one."""
        if not self._unloaded or len(self._listed) + len(self._unloaded) < self._size:
            return []
        oldest = min(self._unloaded.values())
        return [name for name, used in self._listed.items() if used <= oldest]

    def used(self, names: Iterable[str]) -> None:
        """Notes that adapters have answered a request."""
        self._time += 1
        self._listed.update(dict.fromkeys(names, self._time))

    def loaded(self, name: str) -> None:
        """Notes that an adapter was loaded, which pushes another one out of a full cache."""
        self._unloaded.pop(name, None)
        if self._unloaded and len(self._listed) + len(self._unloaded) >= self._size:
            del self._unloaded[min(self._unloaded, key=lambda one: self._unloaded[one])]
        self.used([name])

    def unloaded(self, name: str) -> None:
        """Notes that an adapter is no longer listed."""
        if self._listed.pop(name, None) is not None:
            self._time += 1
            self._unloaded[name] = self._time
