"""A GPU's NVLinks and MIG instances in words, for the console and the CLI alike."""

from loradeck.client.terminal_text import clean
from loradeck.schemas.telemetry import Gpu


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
