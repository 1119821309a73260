"""How an engine's memory and the requests that met a release which was not loaded are said, in console and commands."""

from loradeck.schemas.counts import ColdFigures
from loradeck.schemas.state import NodeReplica


def slots(replica: NodeReplica) -> str:
    """Says what an engine holds: `host 12/128, device 3/8`, or `4/4` where a batch mixes all that it holds."""
    held = f"{len(replica.loaded)}/{replica.slots}"
    if not replica.batch_slots or replica.batch_slots >= replica.slots:
        return held
    device = "unknown" if replica.on_device is None else replica.on_device
    return f"host {held}, device {device}/{replica.batch_slots}"


def paging(replica: NodeReplica) -> str:
    """Says what an engine has turned out, and how long a load takes there; empty where neither is known."""
    said = []
    if replica.evictions:
        said.append(f"{replica.evictions} turned out")
    if replica.load_s is not None:
        said.append(f"a load takes {replica.load_s:.2g} s")
    return ", ".join(said)


def on_demand(cold: ColdFigures) -> str:
    """Says how requests for on-demand routes fared since their router's start: hit rate, cold starts and the queue."""
    hits = f"{1 - min(1, (cold.cold + cold.refused) / cold.asked):.1%} of {cold.asked}" if cold.asked else "none"
    return (
        f"on demand: {hits} met a loaded release, {cold.minute} cold starts in the last minute, "
        f"{cold.waiting} waiting, {cold.refused} refused"
    )
