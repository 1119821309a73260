"""A real fleet on the small word model: hub, agents, routers and engines as separate processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.word_model import reference_answers, write_adapter, write_base
from tests.fleets.host import short_folder

from incident.fleet import Fleet, NotReady, wait_for
from incident.incident import Cast
from incident.traffic import Prompt

TENANT = "acme"
PROMPTS = [f"w{n} w{3 * n} w{7 * n % 50}" for n in range(1, 13)]
LABELS = ("v1", "v2", "v3")

ROUTE = """
min_replicas = {replicas}
canaries = [
  [{{role = "user", content = "w5 w6"}}],
  [{{role = "user", content = "w60 w61 w62"}}],
  [{{role = "user", content = "w90"}}],
  [{{role = "user", content = "w12 w90 w33"}}],
]

[soak]
seconds = 0
requests = 0

[checks]
finish_reasons = ["stop", "length"]
"""


@dataclass(frozen=True, kw_only=True)
class Material:
    """A base, three adapters, and what each answers to each prompt. Made once a test session."""

    base: Path
    adapters: tuple[Path, ...]
    answers: list[list[str]]


def make_material(folder: Path, *, head_dim: int = 8) -> Material:
    base = write_base(folder / "base", head_dim=head_dim)
    adapters = tuple(write_adapter(folder / label, base, seed=n) for n, label in enumerate(LABELS, 1))
    return Material(base=base, adapters=adapters, answers=reference_answers(base, list(adapters), PROMPTS))


def lay(fleet: Fleet, material: Material, *placed: str) -> tuple[Cast, str]:
    """Register base, tenant, route and v1 to v3, promote v1 then v2; the cast, and the callers' key.

    `placed`: flags of `loradeck route set` that place the route; without, it is on every node.
    """
    base = fleet.cli("base", "add", str(material.base), "--model-id", "tests/words", "--revision", "1")["digest"]
    fleet.cli("tenant", "create", TENANT)
    key = fleet.cli("tenant", "key", "create", TENANT)["key"]
    settings = fleet.root / "route.toml"
    settings.write_text(ROUTE.format(replicas=len(fleet.nodes)))
    fleet.cli("route", "set", TENANT, "--file", str(settings), *placed, "--yes")
    releases = {}
    for label, folder in zip(LABELS, material.adapters, strict=True):
        words = ("--tenant", TENANT, "--name", "words", "--base", base, "--why", "tests")
        releases[label] = fleet.cli("adapter", "import", str(folder), *words)["release"]
    prompts = [
        Prompt(
            id=f"p{n}",
            messages=[{"role": "user", "content": text}],
            answers={release: material.answers[k][n] for k, release in enumerate(releases.values())},
        )
        for n, text in enumerate(PROMPTS)
    ]
    for label in ("v1", "v2"):
        promote(fleet, releases[label])
    return Cast(tenant=TENANT, releases=releases, prompts=prompts), key


def promote(fleet: Fleet, release: str, *words: str) -> Any:
    """Promote and wait until it is proven and attested."""
    result = fleet.cli("promote", TENANT, release, "--yes", "--wait", "proven", "--timeout", "180", *words)
    wait_for("attested", lambda: row(fleet)["attested"], 30)
    return result


def row(fleet: Fleet) -> dict[str, Any]:
    """As `loradeck route show` has it; it is asked again and again, and a command takes longer than a move."""
    found: dict[str, Any] = fleet.ask(f"tenants/{TENANT}/routes/production")
    return found


def restore(fleet: Fleet, cast: Cast) -> None:
    """Has a fleet as `lay` left it: each node runs the agent's own program, v2 is live and proven, v1 is beneath.

    Raises:
        NotReady: it does not come to that; the text has the row.
    """
    for node in fleet.nodes:
        if node.program != fleet.program:
            fleet.stop_node(node)
            node.program = fleet.program
            fleet.start_agent(node)
    fleet.wait_until_up()
    wanted = (cast.releases["v2"], [cast.releases["v1"]], len(fleet.nodes))

    def as_laid() -> bool:
        now = row(fleet)
        return bool(now["attested"]) and wanted == (now["pointer"]["release"], now["pointer"]["beneath"], now["proven"])

    try:
        wait_for("the fleet is as it was laid", as_laid, 60)
    except NotReady as error:
        raise NotReady(f"{error}: {row(fleet)}") from None


@contextmanager
def fleet_at(base: Path, kind: type[Fleet] = Fleet, **settings: Any) -> Iterator[Fleet]:
    """A running fleet on a base, in a folder of its own, which is removed with it."""
    with short_folder() as root:
        fleet = kind(root=root, base=base, temporary=True, **settings)
        with fleet.running():
            yield fleet


def told(fleet: Fleet) -> str:
    """The last words of every log, for a test that failed."""
    return "\n".join(
        f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in fleet.root.glob("**/*.log")
    )
