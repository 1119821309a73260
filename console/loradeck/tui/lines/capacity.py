"""Pools and nodes as cells of a row and lines of the pane: what they hold at each level. Unknown is never a zero."""

from loradeck.client import capacity_words, node_words
from loradeck.client.terminal_text import clean
from loradeck.schemas.capacity import CapacityRow
from loradeck.tui.lines.columns import Column
from loradeck.tui.model.state import ConsoleState
from loradeck.tui.text.spans import Line, Span, labelled, line, plural, title

CAPACITY_COLUMNS = (
    Column("POOL OR NODE", 0),
    Column("NODES", 5, right=True),
    Column("ROUTES", 6, right=True),
    Column("DEVICE", 7, right=True),
    Column("HOST", 9, right=True),
    Column("DISK", 5, right=True),
    Column("HIT", 6, right=True),
    Column("COLD/MIN", 8, right=True),
    Column("WAITING", 7, right=True),
    Column("TURNED OUT", 10, right=True, wide=True),
    Column("LOAD", 6, right=True, wide=True),
)


def capacity_cells(state: ConsoleState, row: CapacityRow) -> dict[str, Span]:
    """The cells of a pool's or a node's row."""
    heard, nodes = row.nodes
    old = "" if row.pool or heard else "dim"  # what the node said last
    full = row.host is not None and row.host[0] >= row.host[1] > 0
    name = Span(f"pool {clean(row.name)}", "bold") if row.pool else Span(clean(row.name), old)
    return {
        "POOL OR NODE": name,
        "NODES": Span(f"{heard}/{nodes}", "" if heard == nodes else "warn"),
        "ROUTES": Span(str(row.routes), old),
        "DEVICE": Span(capacity_words.of(row.device), old or ("" if row.device else "dim")),
        "HOST": Span(capacity_words.of(row.host), old or ("warn" if full else "" if row.host else "dim")),
        "DISK": Span(capacity_words.count(row.disk), old),
        "HIT": Span(capacity_words.share(row.hit_rate), old),
        "COLD/MIN": Span(capacity_words.count(row.minute), old or ("warn" if row.minute else "")),
        "WAITING": Span(capacity_words.count(row.waiting), old or ("warn" if row.waiting else "")),
        "TURNED OUT": Span(capacity_words.count(row.evictions), old),
        "LOAD": Span(capacity_words.load(row), old),
    }


def capacity_lines(state: ConsoleState, row: CapacityRow, width: int) -> list[Line]:
    """A pool or a node in the pane: its levels, how requests for on-demand routes fared, engines, what to ask next."""
    name, (heard, nodes) = clean(row.name), row.nodes
    up = clean(row.of) or ("up" if heard else "unlinked")
    sku = f"   SKU {clean(row.of)}" if row.of else ""
    where = f"{heard} of {plural(nodes, 'node')} heard{sku}" if row.pool else up
    found = [title(f"{'pool ' if row.pool else ''}{name}   {where}   {plural(row.routes, 'route')}", width)]
    device, host = capacity_words.of(row.device), capacity_words.of(row.host)
    held = f"device {device}   host {host}   disk {capacity_words.count(row.disk)}"
    found.append(labelled(" LEVELS    ", held))
    hit = f"{capacity_words.share(row.hit_rate)} of {row.asked:,} met a loaded release" if row.asked else ""
    met = hit or "nobody asked, or not known"
    found.append(labelled(" ON DEMAND ", met))
    queue = f"{capacity_words.count(row.waiting)} waiting   {capacity_words.count(row.refused)} refused, it was full"
    found.append(
        labelled(" QUEUE     ", f"{queue}   {capacity_words.count(row.minute)} cold starts in the last minute")
    )
    found.append(
        labelled(
            " LOADS     ", f"{capacity_words.count(row.evictions)} turned out   a load takes {capacity_words.load(row)}"
        )
    )
    node = state.nodes.get(row.name) if not row.pool else None
    found += [
        labelled(f" {clean(engine.replica)}  ", f"{engine.state.value}   {node_words.slots(engine)}")
        for engine in (node.replicas if node is not None else ())
    ]
    if row.pool:
        found.append(line(Span(f" loradeck capacity plan --pool {name} --routes N", "dim")))
    return found
