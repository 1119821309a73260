"""`loradeck hub`: how it starts, how it refuses to, and how it ends."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fleets.host import short_folder
from tests.integration.cli.conftest import Desk


@pytest.fixture
def own() -> Iterator[Desk]:
    """A hub that is not started yet."""
    with short_folder() as root:
        desk = Desk(root=root)
        yield desk
        desk.stop_hub()


def test_it_serves_what_it_kept_after_a_restart_and_ends_with_0(own: Desk) -> None:
    own.start_hub()
    own.json("tenant", "create", "acme")
    assert own.stop_hub() == 0
    assert own.refused(3, "hub_unreachable", "tenant", "ls")["fix"].startswith("start a hub here")
    own.start_hub()
    assert [tenant["name"] for tenant in own.json("tenant", "ls")] == ["acme"]
    assert own.socket.stat().st_mode & 0o777 == 0o600
    assert own.socket.parent.stat().st_mode & 0o777 == 0o700


def test_an_installation_without_a_hub_names_a_command_that_completes_this_one(own: Desk) -> None:
    """pip completes an installed package from its own metadata, though no index has it: in this Python, no other."""
    script = "import sys; sys.modules['uvicorn'] = None; from loradeck.cli import main; main(['hub'])"
    done = subprocess.run([sys.executable, "-c", script], env=own.env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the package uvicorn is missing" in done.stderr
    assert f"do:    {sys.executable} -m pip install 'loradeck[hub]'" in done.stderr


def test_a_second_hub_on_the_same_data_is_refused_and_the_first_goes_on(own: Desk) -> None:
    own.start_hub()
    done = own.process("hub")
    assert done.returncode == 3
    assert "in use by another hub" in done.stderr
    assert "Traceback" not in done.stderr
    own.json("tenant", "create", "acme")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--listen", "0.0.0.0:0"], "beyond loopback needs TLS"),
        (["--listen", "nowhere"], "is not HOST:PORT"),
        (["run", "--listen", "nowhere"], "is not HOST:PORT"),
        (["--listen", "nowhere", "run"], "is not HOST:PORT"),
        (["--tls-cert", "/nonexistent.pem"], "--tls-key"),
        (["--data", "/" + "long/" * 40], "longer than 107 bytes"),
        (["--name", "x", "recover", "--reason", "r"], "belongs to `loradeck hub run`"),
    ],
)
def test_settings_that_do_not_go_together_are_wrong_use(own: Desk, words: list[str], what: str, tmp_path: Path) -> None:
    done = own.process("hub", *[word.replace("/long", f"{tmp_path}/long", 1) for word in words])
    assert done.returncode == 2, done.stderr
    assert what in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_wrong_use(own: Desk) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = own.process("hub", "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 2
    assert "Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_recover_needs_a_reason_and_a_yes_and_raises_the_epoch(own: Desk) -> None:
    own.start_hub()
    before = own.json("--once")["status"]
    assert own.process("hub", "recover", "--yes").returncode == 2
    own.refused(2, "not_confirmed", "hub", "recover", "--reason", "restored")
    after = own.json("hub", "recover", "--reason", "restored", "--yes")
    assert after["epoch"] > before["epoch"]


def test_a_backup_is_a_hub_that_starts_with_the_same_log(own: Desk, tmp_path: Path) -> None:
    own.start_hub()
    own.json("tenant", "create", "acme")
    copy = tmp_path / "copy.db"
    made = own.json("hub", "backup", copy)
    assert (made["path"], made["rev"]) == (str(copy), 1)
    assert copy.stat().st_mode & 0o777 == 0o600
    kept = copy.read_bytes()
    own.refused(1, "exists", "hub", "backup", copy)
    own.refused(1, "invalid_request", "hub", "backup", tmp_path / "none" / "copy.db")
    assert copy.read_bytes() == kept
    own.json("tenant", "create", "later")
    own.stop_hub()
    for left in own.socket.parent.glob("hub.db*"):
        left.unlink()
    shutil.copy(copy, own.socket.parent / "hub.db")
    own.start_hub()
    assert [tenant["name"] for tenant in own.json("tenant", "ls")] == ["acme"]
    assert own.json("audit", "verify")["ok"]
    note = own.json("audit", "checkpoint")["checkpoint"]
    assert own.run("audit", "checkpoint").stdout.split("\n")[3] == note.split("\n")[3] == "", "a note has its lines"


def test_init_makes_an_authority_once_and_rotate_renews_the_hubs_certificate(own: Desk) -> None:
    data = str(own.root / "d")
    assert own.process("hub", "rotate", "--data", data).returncode == 2
    made = own.process("hub", "init", "--data", data, "--host", "hub.example.com")
    assert made.returncode == 0, made.stderr
    assert "certificate for hub.example.com, hub.loradeck, localhost" in made.stdout
    before = (own.root / "d" / "tls" / "server.pem").read_bytes()
    again = own.process("hub", "init", "--data", data)
    assert again.returncode == 2
    assert "loradeck hub rotate" in again.stderr
    assert (own.root / "d" / "tls" / "server.pem").read_bytes() == before
    rotated = own.process("hub", "rotate", "--data", data, "--host", "other.example.com")
    assert "certificate for other.example.com, hub.loradeck, localhost" in rotated.stdout
    assert rotated.stdout.splitlines()[0] == made.stdout.splitlines()[0]
