"""An executor of another tenant on the same node, as the same user: it is kept out by the kernel (Landlock)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from loradeck.schemas.executor import EXIT_BAD_SPEC, ExecutorSpec
from loradeck.schemas.jobs import EvaluateSpec
from loradeck_agent.executors import __main__ as program
from loradeck_agent.executors import confinement

SPEC = EvaluateSpec(tenant="acme", release="a" * 64, suite="b" * 64)


@pytest.fixture
def spec(tmp_path: Path) -> ExecutorSpec:
    """The spec of a job of acme, beside what another tenant's job has left on the node."""
    state, token = tmp_path / "state", tmp_path / "token"
    for name in ("inputs/acme", "inputs/bolt", "checkpoints/j1", "checkpoints/j2", "jobs/j1-1/out", "jobs/j2-1"):
        (state / name).mkdir(parents=True)
        (state / name / "file").write_text(f"in {name}")
    token.write_text("a secret")
    (tmp_path / "elsewhere").write_text("of this host")
    (tmp_path / "link").symlink_to(state)
    work = state / "jobs/j1-1"
    return ExecutorSpec(
        run="j1", attempt=1, spec=SPEC, base=str(tmp_path / "elsewhere"), base_digest="d" * 64,
        inputs={"e" * 64: str(state / "inputs/acme")}, out=str(work / "out"), events=str(work / "events.jsonl"),
        error=str(work / "error.txt"), checkpoints=str(state / "checkpoints/j1"), closed=(str(state), str(token)),
    )  # fmt: skip


def confined(spec: ExecutorSpec, *tried: Callable[[], object]) -> list[object]:
    """What comes of each of these, or the name of its error, in a process that has given up what is closed."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            found: list[object] = [confinement.confine(spec)]
            for each in tried:
                try:
                    found.append(each())
                except OSError as error:
                    found.append(type(error).__name__)
            os.write(writable, json.dumps(found, default=str).encode())
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    result: list[object] = json.loads(text)
    return result


def test_an_executor_reads_and_writes_what_is_its_jobs_and_nothing_of_the_next_tenants(
    spec: ExecutorSpec, tmp_path: Path
) -> None:
    state, work = tmp_path / "state", tmp_path / "state/jobs/j1-1"
    others = "inputs/bolt", "checkpoints/j2", "jobs/j2-1"
    barred = [
        *(lambda name=name: (state / name / "file").read_text() for name in others),
        lambda: (tmp_path / "link/inputs/bolt/file").read_text(),
        lambda: (tmp_path / "token").read_text(),
        lambda: os.listdir(state / "inputs"),
        lambda: (state / "inputs/acme/file").write_text("other rows"),
        lambda: (state / "inputs/acme/file").unlink(),
        lambda: (state / "checkpoints/j2/file").rename(work / "mine"),
        lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY),
        lambda: Path(f"/proc/{os.getppid()}/root{state}/inputs/bolt/file").read_text(),
        lambda: os.kill(os.getppid(), 0),
    ]
    allowed = [
        lambda: (state / "inputs/acme/file").read_text(),
        lambda: (work / "out/file").rename(work / "moved"),
        lambda: (state / "checkpoints/j1/new").write_text("saved"),
        lambda: (tmp_path / "elsewhere").read_text(),
        lambda: subprocess.run(["/bin/cat", state / "inputs/bolt/file"], capture_output=True).returncode,
    ]
    why, *found = confined(spec, *barred, *allowed)
    assert why == ""
    assert found[: len(barred)] == ["PermissionError"] * len(barred)
    assert found[len(barred) :] == ["in inputs/acme", str(work / "moved"), 5, "of this host", 1]


@pytest.mark.parametrize("odd", ["token in the state", "code around the state", "parent that cannot be listed"])
def test_nothing_of_the_next_tenants_is_open_wherever_the_state_lies(
    spec: ExecutorSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    state, listed = tmp_path / "state", Path.iterdir
    if odd.startswith("token"):
        (state / "token").write_text("a secret")
        spec = spec.model_copy(update={"closed": (str(state), str(state / "token"))})
    elif odd.startswith("code"):
        monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    else:

        def unlisted(folder: Path) -> Iterator[Path]:
            if folder == tmp_path:
                raise PermissionError(13, "Permission denied", str(folder))
            return listed(folder)

        monkeypatch.setattr(Path, "iterdir", unlisted)
    others = (lambda: (state / "inputs/bolt/file").read_text(), lambda: (state / "jobs/j2-1/file").read_text())
    why, *found = confined(spec, *others, lambda: (state / "inputs/acme/file").read_text())
    assert (why, *found) == ("", "PermissionError", "PermissionError", "in inputs/acme")


@pytest.mark.parametrize(("passing", "kept"), [("elsewhere", True), ("state/tmp", False)])
def test_home_and_the_folder_for_files_in_passing_are_the_attempts_own_where_nothing_can_be_made_in_them(
    spec: ExecutorSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passing: str, kept: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / passing))
    found, own = confined(spec, lambda: os.environ["HOME"], lambda: os.environ["TMPDIR"]), str(Path(spec.out).parent)
    assert found == ["", own, str(tmp_path / passing) if kept else own]


@pytest.mark.parametrize("must", [False, True])
def test_where_the_kernel_cannot_the_log_says_so_and_a_node_that_asks_for_it_does_no_job(
    spec: ExecutorSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], must: bool
) -> None:
    def absent(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    ran: list[object] = []
    monkeypatch.setattr(confinement, "_call", absent)
    kind = SimpleNamespace(evaluate=lambda run: ran.append(run) or {})
    monkeypatch.setattr(program, "importlib", SimpleNamespace(import_module=lambda name: kind))
    path = Path(spec.out).parent / "spec.json"
    path.write_text(spec.model_copy(update={"confined": must}).model_dump_json())
    monkeypatch.setattr(sys, "argv", ["executors", "evaluate", "--spec", str(path)])
    status, events = program.main(), Path(spec.events).read_text()
    said = "Landlock cannot be used: [Errno 38] Function not implemented"
    assert said in (events if must else capsys.readouterr().err)
    assert (status, len(ran), "not_confined" in events) == ((EXIT_BAD_SPEC, 0, True) if must else (0, 1, False))
