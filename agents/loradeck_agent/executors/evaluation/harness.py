"""Runs a task of lm-eval or inspect-ai in the environment that the node's operator has made for it.

The harness asks a release by its OpenAI calls at an address on this host that exists while it runs, behind a key of its
own; they are passed on to the engine that serves, through the agent's socket. Nothing is looked up on the network.
"""

import json
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.harness_results import harness_report
from loradeck.schemas.attestation import EvaluationReport, ItemResult
from loradeck.schemas.executor import EngineDoor
from loradeck.schemas.jobs import AT_ONCE, EvaluateSpec
from loradeck.schemas.suite import HarnessTask
from loradeck_agent.executors.evaluation.served import Served
from loradeck_agent.executors.protocol import BadSpec, ExecutorFailure, Run
from loradeck_agent.serving.engine_questions import LONGEST_LINE, EngineQuestion

LONGEST_ANSWER = 2000
"""Characters of an answer that are kept."""


def evaluated(current: Run, spec: EvaluateSpec, task: HarnessTask) -> Mapping[str, Any]:
    """Runs an evaluate job whose suite names a harness's task, and leaves its `report.json`.

    Returns the data of the FINISHED event: `n`, `exact` and `valid`, as counts of items.

    Raises:
        BadSpec: `no_harness`: this node has no such environment, or the job asks no engine; `bad_data`: the task has
            other items or metrics than the suite says.
        ExecutorFailure: `harness_failed`: it ended with an error, which is in the job's log.
        Preempted: SIGTERM was received.
    """
    began, engine = time.monotonic(), current.spec.engine
    place = current.spec.harnesses.get(task.harness)
    if place is None or engine is None or spec.arm is not None:
        why = (
            "an engine that serves, without --offline"
            if place
            else f"[harness.{task.harness}] in the agent's configuration"
        )
        raise BadSpec("no_harness", f"tasks of {task.harness} need {why}")
    python, tasks = place
    work = Path(current.spec.out).with_name("harness")
    work.mkdir(mode=0o700, exist_ok=True)
    current.phase(f"{task.harness} runs {task.task}")
    with _address(engine) as (url, key):
        argv = _argv(task, url, tasks, work, current.spec.base, min(spec.batch, AT_ONCE))
        _run(current, (python, *argv), _environment(url, key, tasks, work))
    found = sorted(work.rglob("results_*.json" if task.harness == "lm-eval" else "*.json"))
    try:
        said = harness_report(found[-1], spec.release)
        items = list(_lm_eval(found[-1], task) if task.harness == "lm-eval" else _inspect(found[-1], task))
    except (IndexError, BadArtifact) as error:
        raise ExecutorFailure("harness_failed", f"{task.harness} left no results: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise BadSpec("bad_data", f"the samples of {task.task} have no {task.metric} of 0 or 1: {error!r}") from error
    if len({item.id for item in items}) != task.items:
        raise BadSpec("bad_data", f"{task.task} has {len(items)} items, the suite says {task.items}")
    version = next((one.version for one in said.figures if one.version), "")
    exact = sum(item.exact for item in items)
    report = EvaluationReport(
        release=spec.release,
        suite=spec.suite,
        n=len(items),
        exact=exact,
        valid=len(items),
        items=tuple(items),
        seconds=round(time.monotonic() - began, 3),
        engine=engine.build,
        harness=f"{said.harness} {said.version}, {task.task} {version}, {task.metric}"[:300],
    )
    current.check()
    current.publish({"report.json": report})
    return {"n": len(items), "exact": exact, "valid": len(items)}


def _argv(task: HarnessTask, url: str, tasks: str, work: Path, base: str, at_once: int) -> tuple[str, ...]:
    if task.harness == "inspect-ai":
        how = ("--model", "openai-api/local/release", "--temperature", "0", "--max-connections", str(at_once))
        logs = ("--display", "plain", "--log-format", "json", "--log-dir", str(work), "--limit", str(task.items))
        return ("-m", "inspect_ai", "eval", str(Path(tasks, task.task)), *how, *logs)
    path = "chat/completions" if task.api == "chat" else "completions"
    model = {"model": "release", "base_url": f"{url}/{path}", "num_concurrent": at_once, "max_retries": 1}
    model |= (
        {"tokenized_requests": False} if task.api == "chat" else {"tokenizer": base, "tokenizer_backend": "huggingface"}
    )
    kind = "local-chat-completions" if task.api == "chat" else "local-completions"
    said = ("--model_args", ",".join(f"{name}={value}" for name, value in model.items()), "--apply_chat_template")
    rest = ("--tasks", task.task, "--include_path", tasks, "--limit", str(task.items), "--output_path", str(work))
    return ("-m", "lm_eval", "--model", kind, *said, *rest, "--log_samples")


def _environment(url: str, key: str, tasks: str, work: Path) -> dict[str, str]:
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    asked = {"OPENAI_API_KEY": key, "LOCAL_API_KEY": key, "LOCAL_BASE_URL": url}
    own = {"HOME": str(work), "HF_HOME": str(Path(tasks, "huggingface")), "PATH": os.environ.get("PATH", os.defpath)}
    return offline | asked | own


def _run(current: Run, argv: tuple[str, ...], environment: dict[str, str]) -> None:
    """Runs the harness to its end. What it prints is in the job's log; it ends with the job."""
    try:
        process = subprocess.Popen(argv, env=environment, cwd=environment["HOME"], stdin=subprocess.DEVNULL)
    except OSError as error:
        raise BadSpec("no_harness", f"{argv[0]} cannot be started: {error}") from error
    try:
        while True:
            try:
                status = process.wait(1.0)
                break
            except subprocess.TimeoutExpired:
                current.check()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if status:
        raise ExecutorFailure("harness_failed", f"{argv[2]} ended with status {status}; its words are in the job's log")


@contextmanager
def _address(door: EngineDoor) -> Iterator[tuple[str, str]]:
    """Answers OpenAI calls on this host by the engine behind a door. Yields the URL up to `/v1`, and the key."""
    key = secrets.token_urlsafe(32)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            given = self.headers.get("authorization") or ""
            status, said = 401, {"error": {"message": "another key"}}
            if secrets.compare_digest(given.encode(), f"Bearer {key}".encode()) and 0 < size < LONGEST_LINE:
                try:
                    question = EngineQuestion(body=json.loads(self.rfile.read(size)))
                    ((_, answer),) = Served(door, 1).each([question], lambda: None)
                    status, said = 200, answer.body or {}
                except (ExecutorFailure, ValueError) as error:
                    status, said = 400, {"error": {"message": str(error)}}
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", key
    finally:
        server.shutdown()
        server.server_close()


def _lm_eval(results: Path, task: HarnessTask) -> Iterator[ItemResult]:
    """The samples of an lm-eval task, by the first of its filters, each known by its number and its content."""
    (path, *_) = sorted(results.parent.glob(f"samples_{task.task}_*.jsonl"), reverse=True)
    rows = [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    for row in (one for one in rows if one.get("filter") == rows[0].get("filter")):
        answer = json.dumps(row.get("filtered_resps"), ensure_ascii=False)
        yield _item(f"{row['doc_id']}-{row['doc_hash'][:12]}", answer, row[task.metric])


def _inspect(log: Path, task: HarnessTask) -> Iterator[ItemResult]:
    """The samples of an inspect-ai log, by one of its scorers; its C and I are right and wrong."""
    for sample in json.loads(log.read_bytes())["samples"]:
        score = sample["scores"][task.metric]
        value = {"C": 1, "I": 0}.get(score["value"], score["value"])
        yield _item(str(sample["id"]), str(score.get("answer") or ""), value)


def _item(name: str, answer: str, value: Any) -> ItemResult:
    if value not in (0, 1):
        raise ValueError(f"item {name} has {value!r}")
    return ItemResult(id=name, answer=answer[:LONGEST_ANSWER], exact=value == 1, valid=True)
