"""The real vLLM as a process, from the environment that `make test-vllm` makes (`LORADECK_VLLM_PYTHON`)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PYTHON = os.environ.get("LORADECK_VLLM_PYTHON")
START_S = 400.0
"""It takes half a minute to be up; a machine that does other work is given more."""

ENV = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    # By itself every server would bind its one thread to the first core, where they all wait for one another.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def command(base: Path, *, dtype: str, max_len: int, listen: Sequence[str], adapters: Mapping[str, int]) -> list[str]:
    """What starts the server. `listen`: its `--uds PATH`, or its `--host` and `--port`. `adapters`: {} for none."""
    assert PYTHON, "LORADECK_VLLM_PYTHON is not set; `make test-vllm` sets it"
    settings = {
        "--model": str(base),
        "--served-model-name": "base",
        "--max-model-len": str(max_len),
        "--dtype": dtype,
        **{name: str(number) for name, number in adapters.items()},
    }
    words = [word for setting in settings.items() for word in setting] + ["--enable-lora"] * bool(adapters)
    return [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", *words, *listen]


def start(
    listen: Sequence[str],
    base: Path,
    log: Path,
    *,
    slots: int = 4,
    cpu_slots: int = 8,
    rank: int = 8,
    dtype: str = "float32",
    max_len: int = 512,
    key: str = "",
    adapters: bool = True,
    env: Mapping[str, str] = {},
    more: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Starts a server in a session of its own, so that `end` reaches its engine core too. `key`: callers need it.

    `more`: further flags.
    """
    room = {"--max-loras": slots, "--max-cpu-loras": cpu_slots, "--max-lora-rank": rank} if adapters else {}
    words = command(base, dtype=dtype, max_len=max_len, listen=listen, adapters=room)
    words += more
    variables = os.environ | ENV | ({"VLLM_API_KEY": key} if key else {}) | env
    with log.open("wb") as out:
        return subprocess.Popen(words, stdout=out, stderr=out, start_new_session=True, env=variables)


def end(process: subprocess.Popen[bytes]) -> None:
    """No process of the server is left behind."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
    with suppress(ProcessLookupError):  # all of them have ended by themselves
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until_up(http: httpx.Client, process: subprocess.Popen[bytes], log: Path, seconds: float = START_S) -> None:
    """Until `/health` is 200. A server that ended instead fails with its log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")[-8000:]
        try:
            if http.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise AssertionError("the engine did not start:\n" + log.read_text(errors="replace")[-8000:])


@dataclass
class Server:
    """A running server, and vLLM's own calls to it, without anything of ours between."""

    base: Path
    folder: Path
    socket: Path
    process: subprocess.Popen[bytes]
    log: Path
    http: httpx.Client

    def client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        return httpx.AsyncClient(transport=transport, base_url="http://engine", headers=self.http.headers, timeout=120)

    def load(self, name: str, folder: Path, **more: Any) -> httpx.Response:
        return self.http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder), **more})

    def unload(self, name: str) -> httpx.Response:
        return self.http.post("/v1/unload_lora_adapter", json={"lora_name": name})

    def listed(self) -> dict[str, str]:
        """Adapters it lists: name -> folder."""
        return {m["id"]: m["root"] for m in self.http.get("/v1/models").json()["data"] if m["parent"]}

    def ask(self, model: str, text: str, tokens: int = 12) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=asked(model, text, tokens))

    def text(self, model: str, text: str, tokens: int = 12) -> str:
        """A greedy answer."""
        reply = self.ask(model, text, tokens)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["choices"][0]["message"]["content"]).strip()

    def gauge(self, name: str) -> float:
        """What its metrics say of `vllm:name`, summed over its labels."""
        lines = self.http.get("/metrics/").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"vllm:{name}{{"))

    def kill(self) -> None:
        """kill -9, of all its processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def asked(model: str, text: str, tokens: int, **more: Any) -> dict[str, Any]:
    """A greedy request."""
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "temperature": 0, "max_tokens": tokens, **more}


@contextmanager
def running(base: Path, **settings: Any) -> Iterator[Server]:
    """A server on a Unix socket in a folder of its own; both are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ld"))
    socket, log = folder / "engine.sock", folder / "engine.log"
    process = start(["--uds", str(socket)], base, log, **settings)
    headers = {"authorization": f"Bearer {settings['key']}"} if settings.get("key") else {}
    transport = httpx.HTTPTransport(uds=str(socket))
    try:
        with httpx.Client(transport=transport, base_url="http://engine", headers=headers, timeout=120) as http:
            wait_until_up(http, process, log)
            yield Server(base, folder, socket, process, log, http)
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)
