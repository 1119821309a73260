"""A node's engines and GPUs in words, for console and commands: what is in memory, NVLinks and MIG instances."""

from loradeck.client.terminal_text import clean
from loradeck.schemas.counts import ColdFigures
from loradeck.schemas.state import NodeReplica
from loradeck.schemas.telemetry import Gpu


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


def links(gpu: Gpu) -> str:
    """Says how many NVLinks of a GPU are up, how fast they are, and by how much their errors grew."""
    if (found := gpu.nvlink) is None:
        return "NVLink not known"
    speed = f" at {found.speed_mbps / 1000:.1f} GB/s" if found.speed_mbps else ""
    grown = " ".join(f"{clean(kind)} {n}" for kind, n in found.errors.items()) or "not known"
    return f"NVLink {found.up} of {found.links} up{speed}, errors in 5 min: {grown}"


def mig(gpu: Gpu) -> list[str]:
    """Says whether MIG divides a GPU, and names each instance with its memory in GB of 2^30 bytes."""
    if not gpu.mig or not gpu.instances:
        on = "MIG on, " + ("its instances are not known" if gpu.instances is None else "without an instance")
        return [on if gpu.mig else "MIG not known" if gpu.mig is None else "MIG off"]
    return [
        clean(f"MIG {i.place} {i.profile}  {gigabytes(i.memory_used)}/{gigabytes(i.memory_total)} GB  {i.uuid}")
        for i in gpu.instances
    ]


def gigabytes(size: int | None) -> str:
    """Bytes in units of 2**30, one decimal below ten."""
    if size is None:
        return "-"
    figure = size / 2**30
    return f"{figure:.1f}" if figure < 10 else f"{figure:.0f}"
