"""The embedded engine as a process: its folder, its lock, its start, and what it says of itself."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.contract.engine.running import EMBEDDED_ONLY, SLOTS, Engine, start_embedded, wait_for_health

from loradeck.artifacts import base_manifest
from loradeck.schemas.attestation import EngineBuild


@EMBEDDED_ONLY
def test_version_names_build_base_and_slots(engine: Engine) -> None:
    version = engine.http.get("/version").json()
    build = EngineBuild.model_validate(version["build"])
    assert (build.device, build.dtype, build.tensor_parallel) == ("cpu", "float32", 1)
    assert version["base"] == base_manifest(engine.base, "any", "any").digest
    assert (version["base_name"], version["slots"]) == ("base", SLOTS)
    assert engine.http.get("/version").json()["boot"] == version["boot"] != ""


@EMBEDDED_ONLY
def test_socket_and_folder_are_private(engine: Engine) -> None:
    assert stat.S_IMODE(engine.socket.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(engine.socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((engine.socket.parent / "engine.lock").stat().st_mode) == 0o600


@EMBEDDED_ONLY
def test_a_second_engine_on_the_same_folder_is_refused_and_the_first_serves_on(engine: Engine) -> None:
    command = [sys.executable, "-m", "loradeck_agent.embedded.serve", "--state", str(engine.socket.parent)]
    second = subprocess.run([*command, "--base", str(engine.base)], capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert "already_running" in second.stderr
    assert engine.http.get("/health").status_code == 200


def test_an_engine_that_was_killed_leaves_a_folder_that_the_next_one_uses_with_another_boot(
    tiny_base: Path, folder: Path
) -> None:
    boots = []
    for number in (signal.SIGKILL, signal.SIGTERM):
        log = folder / "log"
        process = start_embedded(folder / "s", tiny_base, log)
        try:
            socket = folder / "s" / "engine.sock"
            wait_for_health(socket, process, log)
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://engine") as http:
                boots.append(http.get("/version").json()["boot"])
        finally:
            os.kill(process.pid, number)
            status = process.wait(60)
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    assert boots[0] != boots[1]


def test_a_folder_that_is_no_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loradeck_agent.embedded.serve", "--state", str(tmp_path / "s")]
    run = subprocess.run([*command, "--base", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert "is not the folder of a model" in run.stderr
    assert not (tmp_path / "s").exists()


def test_a_truncated_base_ends_the_engine_with_an_error(tiny_base: Path, tmp_path: Path, folder: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    process = start_embedded(folder / "s", base, folder / "log")
    assert process.wait(60) == 1
    assert "the engine cannot serve" in (folder / "log").read_text()


@EMBEDDED_ONLY
@pytest.mark.parametrize("path", ["/v1/embeddings", "/metrics", "/invocations", "/adapters"])
def test_only_the_contract_is_reachable(engine: Engine, path: str) -> None:
    assert engine.http.post(path, json={}).status_code in (404, 405)
