"""An executor whose code is somebody else's: it runs as a user of its own, and neither reads nor misleads the agent.

Only root can start a process as another user, so these tests run as root, as CI does.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from loradeck.schemas.executor import ExecutorSpec
from loradeck.schemas.jobs import EvaluateSpec, JobAssignment
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.table import ReleaseRef
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.job_user import JobUser, open_plain, take
from loradeck_agent.host.state_folder import StateFolder, write_durably
from loradeck_agent.jobs import backend
from loradeck_agent.jobs.attempt import Attempt, ExecutorFolder
from loradeck_agent.jobs.executor import Executor
from loradeck_agent.jobs.launch import Launcher
from loradeck_agent.jobs.local_processes import LocalProcesses
from loradeck_agent.serving.replica import EngineReplica
from loradeck_agent.store.checkpoints import LAST_GOOD, CheckpointStore
from loradeck_agent.store.inputs import InputStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a process as another user")

SPEC = EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64)


class Node:
    """A node's state folder, an input, and secrets beside them that are the agent's alone."""

    def __init__(self, root: Path) -> None:
        user = JobUser.of("nobody")
        assert user is not None
        self.user, self.folder = user, StateFolder(root / "state")
        self.folder.make(user)
        self.token, self.config = root / "token", root / "agent.toml"
        for secret in (self.token, self.config, self.folder.status, self.folder.root / "identity"):
            secret.write_text("a secret")
            secret.chmod(0o600)
        self.input = self.folder.inputs / ("c" * 64)
        self.input.mkdir(mode=0o500)
        (self.input / "rows.jsonl").write_text("a row")
        user.may_read(self.input)

    async def ran(self, script: str, monkeypatch: pytest.MonkeyPatch) -> Executor:
        """An executor that is a shell's script, once it has ended."""
        monkeypatch.setattr(backend, "executor_argv", lambda kind, spec: ("/bin/sh", "-c", script))
        job = JobAssignment(id="j1", lease=1, attempt=1, spec=SPEC)
        folder = ExecutorFolder(self.folder.jobs / "j1-1", self.user)
        executor = Executor(LocalProcesses(folder, Attempt(job=job)))
        folder.write(executor.attempt)
        spec = ExecutorSpec(
            run="j1", attempt=1, spec=SPEC, base="/", base_digest="d" * 64, inputs={}, out=str(folder.out),
            events=str(folder.events), error=str(folder.error),
        )  # fmt: skip
        await executor.start("evaluate", spec)
        while executor.workload.look().alive:  # noqa: ASYNC110 - a process, and not a condition of ours
            await asyncio.sleep(0.02)
        return executor


@pytest.fixture
def node() -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="ld") as root:
        os.chmod(root, 0o755)
        yield Node(Path(root))


async def test_an_executor_reads_its_input_and_spec_and_no_secret_of_the_agent(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = (node.token, node.config, node.folder.status, node.folder.root / "identity", "../job.json")
    tried = "; ".join(f"cat {secret} && echo READ" for secret in secrets)
    listed = "; ".join(f"ls {folder} && echo READ" for folder in (node.folder.root, node.folder.inputs, ".."))
    script = f"id -u; cat {node.input}/rows.jsonl ../spec.json; {tried}; {listed}; echo x > ../job.json && echo WROTE"
    executor = await node.ran(f"{script}; mv ../log.txt ../mine && echo WROTE; exit 0", monkeypatch)
    printed = executor.folder.log.read_text()
    assert printed.startswith(f"{node.user.uid}\na row")
    assert '"run": "j1"' in printed
    assert "READ" not in printed
    assert "WROTE" not in printed
    assert "a secret" not in printed


@pytest.mark.parametrize(
    "planted", ["ln -s {token} out/report.json", "ln {row} out/report.json", "mkfifo out/report.json"]
)
async def test_a_result_with_a_link_in_it_is_refused(node: Node, monkeypatch: pytest.MonkeyPatch, planted: str) -> None:
    made = planted.format(token=node.token, row=node.input / "rows.jsonl")
    executor = await node.ran(f"mkdir out; echo 1 > out/good; {made}; ls -l out; exit 0", monkeypatch)
    if "report.json" not in executor.folder.log.read_text().partition("total")[2]:
        return  # the kernel forbids links to files of others (fs.protected_hardlinks)
    with pytest.raises(AgentError, match="result_unreadable"):
        executor.folder.take_result()
    assert not executor.folder.result.exists()


async def test_a_job_is_started_as_its_user_and_may_read_what_it_is_given(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, base = node.folder.inputs / SPEC.suite, node.folder.merged / ("d" * 64)
    for here in (suite, base):
        here.mkdir(mode=0o700)
        (here / "file").write_text(f"of {here.name[0]}\n")
    script = f"id -u; cat {suite}/file {base}/file; touch {node.folder.checkpoints}/j1/mine && echo made"
    monkeypatch.setattr(backend, "executor_argv", lambda kind, spec: ("/bin/sh", "-c", script))
    release = Release(tenant="acme", form=Form.BASE, base=base.name, label="base")
    ref = ReleaseRef(id=release.id, release=release, label="base")
    job = JobAssignment(id="j1", lease=1, attempt=1, spec=SPEC, release=ref)
    engine = SimpleNamespace(base=base.name, config=SimpleNamespace(base=base))
    nothing: Any = None
    launcher = Launcher(
        engines=(cast(EngineReplica, engine),),
        store=nothing,
        inputs=InputStore(node.folder, nothing, nothing),
        checkpoints=CheckpointStore(node.folder.checkpoints, nothing, node.user),
        threads=1,
        user=node.user,
    )
    executor = Executor(LocalProcesses(ExecutorFolder(node.folder.jobs / "j1-1", node.user), Attempt(job=job)))
    await launcher.launch(job, executor, None, {})
    while executor.workload.look().alive:  # noqa: ASYNC110 - a process, and not a condition of ours
        await asyncio.sleep(0.02)
    assert executor.folder.log.read_text() == f"{node.user.uid}\nof b\nof d\nmade\n"


async def test_a_good_result_is_the_agents_own_copy(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = await node.ran("mkdir -p out/a; echo 1 > out/a/good; exit 0", monkeypatch)
    taken = executor.folder.take_result()
    assert (taken / "a/good").read_text() == "1\n"
    assert {(path.stat().st_uid, path.stat().st_mode & 0o077) for path in (taken, taken / "a/good")} == {(0, 0)}
    assert not executor.folder.out.exists()
    assert executor.folder.take_result() == taken, "an agent that was started again takes it once"


async def test_events_and_errors_that_are_links_are_not_read(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"ln -s {node.token} error.txt; ln -s {node.token} events.jsonl; exit 1"
    executor = await node.ran(script, monkeypatch)
    assert executor.new_events() == []
    assert (executor.folder.first_error(), "a secret" in executor.folder.last_lines()) == ("", False)
    with pytest.raises(OSError, match="events"):
        open_plain(executor.folder.events, node.user)


async def test_the_agent_writes_through_no_link_among_checkpoints(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CheckpointStore(node.folder.checkpoints, None, node.user)  # type: ignore[arg-type]
    store.begin("j1")
    here = store.folder("j1")
    await node.ran(
        f"ln -s {node.token} {here}/{LAST_GOOD}; ln -s {node.token} {here}/.{LAST_GOOD}.{os.getpid()}", monkeypatch
    )
    assert store._newest(here) == 0
    with pytest.raises(OSError, match="symbolic"):
        write_durably(here / LAST_GOOD, b"step-00000001")
    with pytest.raises(OSError, match=r"symbolic|Not a directory"):
        take(here / LAST_GOOD, node.folder.root / "taken", node.user)
    assert node.token.read_text() == "a secret"
