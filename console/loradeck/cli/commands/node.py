"""Commands on nodes: list, show, let in, drain, cordon, revoke, forget, and end pins."""

from pathlib import Path

import click

from loradeck.cli.shared.exits import refused
from loradeck.cli.shared.files import checked, new_secret_file
from loradeck.cli.shared.naming import Pointer, on_pointer
from loradeck.cli.shared.options import reason_option, yes_option
from loradeck.cli.shared.output import span, utc
from loradeck.cli.shared.session import Noun, Session, hub_command, writes
from loradeck.client import node_words
from loradeck.client.idempotency import new_key
from loradeck.rules.scheduling import links_fail
from loradeck.schemas.ids import short
from loradeck.schemas.jobs import JobRequest, ProveSpec
from loradeck.schemas.link import HERE
from loradeck.schemas.membership import Invitation
from loradeck.schemas.moves import ForgetRequest, UnpinRequest
from loradeck.schemas.replica_state import EngineState
from loradeck.schemas.state import NodeRow, RelabelRequest

node = Noun("node")


@node.command("ls")
@hub_command
async def ls(s: Session) -> None:
    """List nodes."""
    s.out.listed(
        await s.api.nodes(),
        (
            "NODE",
            "STATE",
            "HEARD",
            "REPLICAS",
            "LOADED",
            "GPUS",
            "NVML",
            "CPU",
            "PINS",
            "LABELS",
            "VERSION",
            "TRAINING",
        ),
        lambda n: (
            n.node,
            _state(n),
            span(n.heard_age_s),
            "gateway"
            if n.gateway
            else f"jobs on {n.backend.system}"
            if n.backend is not None and not n.replicas
            else f"{'' if n.linked and not n.lost else 'was '}"
            f"{sum(r.state.value == 'up' for r in n.replicas)}/{len(n.replicas)} up",
            sum(len(r.loaded) for r in n.replicas),
            len(n.gpus),
            n.nvml.value,
            f"{n.host.cpu_percent:.0f}%" if n.host else "-",
            len(n.pins),
            _labels(n),
            n.version,
            n.training.partition(":")[0] or "-",
        ),
        empty="no nodes have connected",
    )


@node.command()
@click.argument("name", metavar="NODE")
@hub_command
async def show(s: Session, name: str) -> None:
    """Show a node: engines, GPUs, pins."""
    found = next((n for n in await s.api.nodes() if n.node == name), None)
    if found is None:
        raise refused(f"the hub knows no node {name!r}", fix="loradeck node ls", code="unknown_node")
    s.out.json(found)
    s.out.heading(f"{found.node}  {_state(found)}  heard {span(found.heard_age_s)} ago  {_labels(found)}")
    if found.cordoned_for:
        s.out.alarm(f"cordoned by itself: {'; '.join(found.cordoned_for)}")
        s.out.say(f"reset or replace the GPU, loradeck node prove-training {name}, and loradeck node uncordon {name}")
    if found.behind:
        s.out.alarm(f"not steered: {found.behind}")
    if found.contested:
        s.out.alarm(f"agents at {' and '.join(found.contested)} are linked as {name} at once: neither counts")
        s.out.say("stop the one that is not this node, or let neither in and give its host a key of its own:")
        s.out.say(f"loradeck node revoke {name}, then loradeck node token {name}; what it counted: node forget {name}")
    if found.jobs_as_agent:
        s.out.alarm(f"jobs on {name} run as its agent's own user: what a job runs could read the agent's token or key")
        s.out.say("run the agent as root, name a user without rights of its own as `user` under [jobs] in agent.toml,")
        s.out.say("and start the agent again; its router and engines go on meanwhile")
    if (runs := found.backend) is not None:
        bases = ", ".join(short(base) for base in runs.bases) or "none"
        where = "it runs jobs itself" if runs.system == HERE else f"its jobs run on {runs.system}"
        s.out.say(f"{where}, {runs.at_once} at once at most, of the bases {bases}")
    for hold in found.room.held if found.room is not None else ():
        gpus = f", the GPUs {' '.join(hold.gpus)}" if hold.gpus else ""
        s.out.say(f"job {hold.job}: {hold.memory_bytes / 1e9:.1f} GB of the host{gpus}")
    if found.training:
        (s.out.alarm if found.unproven else s.out.say)(f"training: {found.training}")
    s.out.table(
        ("REPLICA", "STATE", "BASE", "SLOTS", "LOADED", "BUILD"),
        [
            (
                r.replica,
                r.state.value,
                f"{r.base_label} {short(r.base)}",
                node_words.slots(r),
                " ".join(f"{v.label}:{short(v.id)}" for v in r.loaded) or "-",
                r.build,
            )
            for r in found.replicas
        ],
        empty="no engines",
    )
    for r in found.replicas:
        if r.alarm:
            s.out.alarm(f"{r.replica}: {r.alarm}")
        if said := node_words.paging(r):
            s.out.say(f"{r.replica}: {said}")
        if not r.levels_known:
            why = "this vLLM has no plugin of ours, or one that adds nothing there"
            s.out.say(f"{r.replica}: levels unknown: {why} (docs/architecture.md, vLLM)")
    if found.cold is not None:
        s.out.say(node_words.on_demand(found.cold))
    if found.host:
        used, total = found.host.memory_used / 1e9, found.host.memory_total / 1e9
        cpu, load = found.host.cpu_percent, found.host.load1
        s.out.say(f"host: CPU {cpu:.0f}%, memory {used:.1f} of {total:.1f} GB, load {load}")
    s.out.table(
        ("GPU", "NAME", "USE", "MEMORY GB", "POWER W", "TEMP C", "CLOCK MHZ", "THROTTLE", "XID", "ECC", "REMAPPED"),
        [
            (
                g.index,
                g.name,
                "-" if g.utilisation is None else f"{g.utilisation}%",
                _pair(g.memory_used, g.memory_total, 1e9),
                _pair(g.power_w, g.power_limit_w, 1),
                "-" if g.temperature_c is None else g.temperature_c,
                "-" if g.clock_sm_mhz is None else g.clock_sm_mhz,
                " ".join(g.throttle) or "-",
                " ".join(map(str, g.xids)) or "-",
                "-" if g.ecc_uncorrected is None else g.ecc_uncorrected,
                "-" if g.remapped_rows is None else g.remapped_rows,
            )
            for g in found.gpus
        ],
        empty=f"no GPU ({found.nvml.value})",
    )
    for g in found.gpus:
        said = "; ".join((node_words.links(g), *node_words.mig(g)))
        (s.out.alarm if links_fail(g) else s.out.say)(f"GPU {g.index}: {said}")
    s.out.table(
        ("PINNED", "TO", "BY", "SINCE", "REASON"),
        [
            (f"{p.tenant}/{p.route}", f"{p.release.label} {short(p.release.id)}", p.actor, utc(p.at_ms), p.reason)
            for p in found.pins
        ],
        empty="no pins",
    )


@node.command("prove-training")
@click.argument("name", metavar="NODE")
@click.option("--base", metavar="BASE", help="Digest of a base there. [default: the first engine's that is up]")
@click.option("--steps", type=int, default=20, show_default=True, help="Of each run.")
@writes
async def prove_training(s: Session, name: str, base: str | None, steps: int) -> None:
    """Show on a node that training there is right: a job of a few minutes on one of its GPUs.

    A small recipe runs twice in bf16, once more through a stop and a resume, and once in fp32; what is compared are the
    bytes of the adapters, the losses, and the peak memory with the plan. The hub keeps it, with the versions of torch
    and of the driver. A node without it, or with other versions since, reads UNPROVEN HERE, and STALE after 30 days.
    """
    row = next((row for row in await s.api.nodes() if row.node == name), None)
    up = [r.base for r in row.replicas if r.base and r.state is EngineState.UP] if row is not None else []
    up += row.backend.bases if row is not None and row.backend is not None else ()
    if not up:
        why = f"a node {name!r} has no base that could be trained on: no engine of it is up, and it names none"
        raise refused(why, fix="loradeck node ls", code="no_replica")
    spec = checked(ProveSpec, {"node": name, "base": base or up[0], "steps": steps}, where="options")
    job = await s.api.submit_job(JobRequest(spec=spec, idempotency_key=new_key()))
    s.out.answer(
        job, f"job {job.id} is {job.state.value}; loradeck job follow {job.id}, then loradeck node show {name}"
    )


@node.command()
@click.argument("name", metavar="NODE")
@yes_option
@writes
async def drain(s: Session, name: str, yes: bool) -> None:
    """Give a node no new jobs and free its GPU driver; its engines and jobs run on until you stop it.

    Routes of pools are brought to other nodes first, and then leave it: loradeck pool show.

    Once a drained node is silent no move waits for it. Its replicas stay in the counts: they may answer.
    """
    moving = await s.api.placement_preview(without=[name])
    if moving.total and not s.out.as_json:
        s.out.say(
            f"{moving.total} routes of pools leave it once others serve them; {len(moving.colder)} would be colder"
        )
        s.out.say(f"see loradeck placement preview --without {name}")
    s.confirm(f"Drain {name}? It gets no new jobs and reports no GPU figures; it serves on until you stop it.", yes=yes)
    _print_state(s, await s.api.order_node(name, "drain"))


@node.command()
@click.argument("name", metavar="NODE")
@yes_option
@writes
async def cordon(s: Session, name: str, yes: bool) -> None:
    """Give a node no new jobs and no new routes of pools; it goes on serving."""
    s.confirm(f"Cordon {name}?", yes=yes)
    _print_state(s, await s.api.order_node(name, "cordon"))


@node.command()
@click.argument("name", metavar="NODE")
@writes
async def uncordon(s: Session, name: str) -> None:
    """End a cordon or a drain."""
    _print_state(s, await s.api.order_node(name, "uncordon"))


@node.command()
@click.argument("name", metavar="NODE")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name or address that its callers reach it by. [default: NODE]",
)
@click.option("--gateway", is_flag=True, help="It has no engine: it sends callers on to the nodes that serve them.")
@click.option("--hours", type=float, default=24, show_default=True, help="How long the token is good.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New file for the token, mode 0600.")
@writes
async def token(s: Session, name: str, hosts: tuple[str, ...], gateway: bool, hours: float, out: Path) -> None:
    """Create a join token for a node (on the hub's host), written to a file of mode 0600; it is never shown.

    Bring the file to the node, name it as `token` in agent.toml, and start the agent, or run `loradeck-agent join`. The
    token is good once. Its node gets a certificate for a key of its own; a key that it had before counts no more. A
    gateway (`loradeck-agent gateway`) is told of every tenant's routes and of the digests of their callers' keys.
    """
    with new_secret_file(out) as write:
        made = await s.api.invite(Invitation(node=name, hosts=hosts, lifetime_s=round(hours * 3600), gateway=gateway))
        write(made.token)
    s.out.json({"id": made.id, "node": name, "hosts": hosts, "expires_ms": made.expires_ms, "file": str(out)})
    s.out.say(f"join token {made.id} for {name} is in {out}, good until {utc(made.expires_ms)}")


@node.command()
@click.argument("name", metavar="NODE")
@yes_option
@writes
async def revoke(s: Session, name: str, yes: bool) -> None:
    """Revoke every key and token of a node (on the hub's host); its link ends now.

    What it serves it serves on: end its router too, and then forget it.
    """
    s.confirm(f"Revoke every key and token of {name}? It gets no tables and no jobs any more.", yes=yes)
    revoked = await s.api.revoke_node(name)
    s.out.answer(revoked, f"{len(revoked.ids)} keys and tokens of {name} are revoked")


@node.command()
@click.argument("name", metavar="NODE")
@reason_option(required=True)
@yes_option
@writes
async def forget(s: Session, name: str, reason: str, yes: bool) -> None:
    """Forget a node that is off for good; its replicas leave all counts.

    You vouch that it answers nobody: a node that is cut off from the hub serves on. One that is linked is refused. A
    node that comes back is an ordinary node again.
    """
    s.confirm(f"Forget {name}? You vouch that it answers nobody: it counts nowhere until it is back.", yes=yes)
    result = await s.api.forget_node(name, ForgetRequest(idempotency_key=new_key(), reason=reason))
    s.out.moved(result, f"{name} is forgotten")


@node.command()
@click.argument("name", metavar="NODE")
@yes_option
@writes
async def relabel(s: Session, name: str, yes: bool) -> None:
    """Have a node placed by the labels that it says now.

    A node is placed by the labels of its token, or else by those that it said first. One that says others later is
    given nothing by them until somebody agrees, and serves on meanwhile.
    """
    row = next((row for row in await s.api.nodes() if row.node == name), None)
    if row is None or row.says is None:
        raise refused(f"{name} says no other labels than it is placed by", fix="loradeck node ls", code="no_change")
    s.confirm(f"Place {name} by {_words(row.says)} instead of {_words(row.labels)}?", yes=yes)
    await s.api.relabel_node(name, RelabelRequest(labels=row.says))
    s.out.say(f"{name} is placed by {_words(row.says)} once it has linked again")


@node.command()
@click.argument("name", metavar="NODE")
@reason_option()
@yes_option
@writes
@on_pointer
async def unpin(s: Session, at: Pointer, name: str, reason: str, yes: bool) -> None:
    """End a pin that was made on a node; the node follows the hub again."""
    s.confirm(f"End the pin of {at} on {name}? The node goes back to the hub's release.", yes=yes)
    request = UnpinRequest(node=name, idempotency_key=new_key(), reason=reason)
    result = await s.api.send(at.tenant, at.route, request)
    s.out.moved(result, f"the pin of {at} on {name} has ended")
    s.out.say("a node without a link ends the pin when it is back")


def _print_state(s: Session, row: NodeRow) -> None:
    s.out.answer(row, f"{row.node} is {_state(row)}")


def _state(row: NodeRow) -> str:
    words = ["TWO AGENTS" if row.contested else "LINK LOST" if row.lost else "up" if row.linked else "unlinked"]
    words += [word for word, on in (("drained", row.drained), ("cordoned", row.cordoned and not row.drained)) if on]
    words += [row.behind] if row.behind else []
    return " ".join(words)


def _labels(row: NodeRow) -> str:
    return _words(row.labels) + (f" (says {_words(row.says)})" if row.says is not None else "")


def _words(labels: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "-"


def _pair(used: float | None, total: float | None, unit: float) -> str:
    def one(value: float | None) -> str:
        return "-" if value is None else f"{value / unit:.0f}"

    return f"{one(used)}/{one(total)}"
