"""What nodes reported of their hardware over the last minutes, kept in memory of a fixed size.

Time is cut into slots; the first report of a slot is kept. A slot without one is a gap, and so is a figure that
could not be read: gaps stay gaps.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from loradeck.schemas.state import NodeRow
from loradeck.schemas.telemetry import Gpu, NvmlState

SLOT_S = 5.0
SLOTS = 60
"""Five minutes."""

_GAP = -1


class Figure(IntEnum):
    """A figure that is kept of a GPU, or of a host (USE and MEMORY alone)."""

    USE = 0  # percent
    MEMORY = 1  # percent of what it has
    POWER = 2  # watts
    TEMPERATURE = 3  # degrees Celsius
    CLOCK = 4  # MHz of the SMs


class Ring:
    """The last SLOTS values of a few figures. It takes as much memory as it has values: most nodes are seen once."""

    __slots__ = ("_figures", "_values", "last")

    def __init__(self, figures: int) -> None:
        self._figures = figures
        self._values = array("h")
        self.last = -SLOTS

    def put(self, slot: int, values: Sequence[float | None]) -> None:
        """A slot's values; slots that were passed over become gaps. A slot that has some keeps them."""
        if slot <= self.last:
            return
        passed = min(slot - self.last - 1, SLOTS) if self._values else 0
        self._values.extend([_GAP] * (passed * self._figures))
        self._values.extend(_GAP if value is None else max(0, min(32_767, round(value))) for value in values)
        del self._values[: -SLOTS * self._figures]
        self.last = slot

    def series(self, figure: int, slot: int) -> list[float | None]:
        """SLOTS values up to a slot, oldest first."""
        values = self._values[figure :: self._figures]
        first = self.last - len(values) + 1
        found = (values[at - first] if first <= at <= self.last else _GAP for at in range(slot - SLOTS + 1, slot + 1))
        return [None if value == _GAP else value for value in found]


@dataclass
class History:
    """Rings by node, then by GPU; "" is the host itself."""

    _nodes: dict[str, dict[str, Ring]] = field(default_factory=dict)

    def record(self, node: NodeRow, now: float) -> None:
        """Record a node's row that has just come. `now`: seconds of the console's clock.

        Old figures of a node that is away, or of a driver that hangs, are not recorded.
        """
        slot = int(now // SLOT_S)
        rings = self._nodes.get(node.node)
        if rings is not None and "" in rings and rings[""].last >= slot:
            return
        if not node.linked or node.lost or node.heard_age_s is None or node.heard_age_s > SLOT_S:
            return
        if rings is None:
            rings = self._nodes[node.node] = {}
        host = node.host
        memory = _percent(host.memory_used, host.memory_total) if host is not None else None
        _ring(rings, "", 2).put(slot, (host.cpu_percent if host is not None else None, memory))
        if node.nvml is not NvmlState.OK:
            return
        for gpu in node.gpus:
            _ring(rings, gpu.uuid, len(Figure)).put(slot, _figures(gpu))
        for gone in [name for name, ring in rings.items() if ring.last <= slot - SLOTS]:
            del rings[gone]

    def keep(self, nodes: Iterable[str]) -> None:
        """Forget nodes that the hub no longer lists."""
        kept = set(nodes)
        self._nodes = {name: rings for name, rings in self._nodes.items() if name in kept}

    def series(self, node: str, gpu: str, figure: Figure, now: float) -> list[float | None]:
        """SLOTS values of a GPU by its uuid, or of the host for "", oldest first, up to now; None: a gap."""
        ring = self._nodes.get(node, {}).get(gpu)
        return ring.series(figure, int(now // SLOT_S)) if ring is not None else [None] * SLOTS


def _ring(rings: dict[str, Ring], name: str, figures: int) -> Ring:
    ring = rings.get(name)
    if ring is None:
        ring = rings[name] = Ring(figures)
    return ring


def _figures(gpu: Gpu) -> tuple[float | None, ...]:
    memory = _percent(gpu.memory_used, gpu.memory_total)
    return (gpu.utilisation, memory, gpu.power_w, gpu.temperature_c, gpu.clock_sm_mhz)


def _percent(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else 100 * part / whole
