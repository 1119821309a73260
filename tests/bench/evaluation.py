"""Evaluation through the engine that serves, beside lm-eval on the same items and the same engine, in turns.

Our executor asks over the agent's socket and lm-eval over vLLM's OpenAI calls, both eight items at a time, greedy, with
as many tokens for an answer. Each has a turn before the first that counts, so that vLLM has seen every prompt.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from tests import vllm_server
from tests.bench.executors import environment
from tests.bench.peers import Peer, install
from tests.bench.rows import Row
from tests.fakes.lm_eval_task import write_task
from tests.integration.executors.running import SUITE, Bench, write_rows

from base_model import ensure_base
from incident.fleet import free_port
from loradeck.schemas.attestation import EngineBuild, EvaluationReport
from loradeck.schemas.executor import EngineDoor
from loradeck.schemas.jobs import EvaluateSpec
from loradeck_agent.serving.engine_api import EngineAddress, EngineApi
from loradeck_agent.serving.engine_questions import EngineAnswer, EngineQuestion
from loradeck_agent.serving.engine_relay import answering

ROUNDS, AT_ONCE, TOKENS = 3, 8, 24
BUILD = EngineBuild(engine="vllm", device="cpu", dtype="float32")
RECIPES = Path(__file__).parents[2] / "examples" / "recipes"

Answers = dict[str, str]


def measure(*, rounds: int = ROUNDS) -> list[Row]:
    """About three minutes on two free cores; needs the environment of `make test-vllm`."""
    peer = install("lm-eval")
    rows = [
        {"id": f"{path.stem}-{number}", **json.loads(line)}
        for path in sorted(RECIPES.glob("*-held-out.jsonl"))
        for number, line in enumerate(path.read_text().splitlines())
        if isinstance(json.loads(line).get("prompt"), str) and "answer" in json.loads(line)
    ]
    ours, theirs = list[float](), list[float]()
    with tempfile.TemporaryDirectory(prefix="ld") as name, _engine(ensure_base(), Path(name)) as url:
        folder = Path(name)
        items = write_rows(folder / "items.jsonl", rows)
        tasks = folder / "tasks"
        asked = [{"question": row["prompt"], "answer": row["answer"], "id": row["id"]} for row in rows]
        write_task(tasks, "held", asked, {"until": ["<|im_end|>"], "max_gen_toks": TOKENS, "temperature": 0})
        bench = Bench(ensure_base(), folder)
        for turn in range(rounds + 1):
            report = asyncio.run(_our_executor(bench, items, url))
            seconds, answers = _lm_eval(peer, url, tasks, folder / f"lm-eval{turn}")
            if turn:
                ours.append(report.n / report.seconds)
                theirs.append(len(answers) / seconds)
    alike = sum(answers[item.id] == item.answer for item in report.items)
    shared = f"{AT_ONCE} at a time, {TOKENS} tokens at most, SmolLM2 in float32; without the start of either's Python"
    how = f"the seconds that lm-eval {peer.version} itself states, of as many items"
    beside = [one / other for one, other in zip(ours, theirs, strict=True)]
    return [
        Row("evaluation through vLLM: items/s", median(ours), "1/s", report.n, how=shared),
        Row("evaluation through vLLM by lm-eval: items/s", median(theirs), "1/s", len(answers), how=how),
        Row("evaluation, ours over lm-eval: median", median(beside), "x", rounds, how="of the turns", reference="peer"),
        Row("evaluation, ours over lm-eval: smallest", min(beside), "x", rounds, reference="peer"),
        Row("items that both have the same answer to", alike, "items", report.n, how="to the letter"),
    ]


@contextmanager
def _engine(base: Path, folder: Path) -> Iterator[str]:
    port, log = free_port(), folder / "vllm.log"
    process = vllm_server.start(("--host", "127.0.0.1", "--port", str(port)), base, log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
            vllm_server.wait_until_up(http, process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        vllm_server.end(process)


async def _our_executor(bench: Bench, items: Path, url: str) -> EvaluationReport:
    """One evaluate job of the base alone, in a process of its own, asking as it does through an agent."""
    api = EngineApi(EngineAddress(url=url))

    async def answer(question: EngineQuestion) -> EngineAnswer:
        if question.messages:
            return EngineAnswer(ids=await api.tokens("base", question.messages, question.tools))
        text, tokens = await api.complete("base", question.prompt, question.max_tokens)
        return EngineAnswer(text=text, tokens=tokens)

    socket = bench.root / "ask.sock"
    spec = EvaluateSpec(tenant="acme", release=bench.release(None), suite=SUITE, batch=AT_ONCE, max_new_tokens=TOKENS)
    door = EngineDoor(replica="n1/e0", socket=str(socket), build=BUILD, scores=True)
    folder = bench.write(spec, {SUITE: str(items)}, engine=door)
    words = (sys.executable, "-m", "loradeck_agent.executors", "evaluate", "--spec", str(folder / "spec.json"))
    async with answering(socket, None, answer):
        process = await asyncio.create_subprocess_exec(*words, env=environment())
        assert await process.wait() == 0, (folder / "error.txt").read_text()
    api.close()
    return EvaluationReport.model_validate_json((folder / "out" / "report.json").read_bytes())


def _lm_eval(peer: Peer, url: str, tasks: Path, out: Path) -> tuple[float, Answers]:
    """Seconds that it states, and its answers by the item's id."""
    model = {"model": "base", "base_url": f"{url}/v1/chat/completions", "num_concurrent": AT_ONCE}
    model |= {"tokenized_requests": False}
    said = ",".join(f"{name}={value}" for name, value in model.items())
    words = [peer.bin("python"), "-m", "lm_eval", "--model", "local-chat-completions", "--model_args", said]
    words += ["--apply_chat_template", "--tasks", "held", "--include_path", str(tasks), "--output_path", str(out)]
    env = os.environ | {"OPENAI_API_KEY": "none", "HF_HOME": str(tasks / "huggingface")}
    env |= dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    done = subprocess.run([*words, "--log_samples"], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = out.rglob("results_*.json")
    (samples,) = out.rglob("samples_held_*.jsonl")
    answers: dict[str, Any] = {}
    for line in samples.read_text().splitlines():
        row = json.loads(line)
        answers[row["doc"]["id"]] = row["filtered_resps"][0]
    return float(json.loads(results.read_text())["total_evaluation_time_seconds"]), answers
