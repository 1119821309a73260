"""How commands fail: the documented status, what, where and what to do; never a secret, never a traceback."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.fleets.processes.hub import LORADECK
from tests.fleets.waiting import wait_until
from tests.integration.cli.conftest import Desk

from loradeck.schemas.state import HubState

pytestmark = pytest.mark.usefixtures("node")


def test_the_state_is_printed_once_for_people_and_as_its_schema(desk: Desk, tenant: str) -> None:
    done = desk.run("--once")
    assert done.returncode == 0
    assert re.search(rf"^{tenant} +v2/B1 \w{{6}} ", done.stdout, re.MULTILINE)
    state = HubState.model_validate_json(desk.process("--once", "--json").stdout)
    assert tenant in [row.tenant for row in state.tenants]
    assert state.me.local


def test_pipes_and_no_color_get_no_colour(desk: Desk) -> None:
    for words in (["--once"], ["tenant", "ls"], ["event", "ls"]):
        assert "\x1b" not in desk.run(*words).stdout


def test_a_hub_that_is_not_there_is_3(desk: Desk, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        token = tmp_path / "t"
        token.write_text("ld_0_0\n")
        token.chmod(0o600)
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        for where in (["--hub", f"unix:{tmp_path}/none.sock"], ["--hub", url, "--token-file", str(token)]):
            problem = desk.refused(3, "hub_unreachable", *where, "rollback", "acme", "--yes", process=True)
            assert problem["detail"]
            assert problem["fix"]


def test_what_is_no_hub_is_3(desk: Desk, tmp_path: Path) -> None:
    with other_program(404, b"<html>not here") as url:
        problem = desk.refused(3, "hub_unreachable", "--hub", url, "--token-file", loose_token(tmp_path), "--once")
        assert "not from a Loradeck hub" in problem["title"]


def test_a_lost_answer_that_cannot_be_settled_is_4_and_names_the_key(
    desk: Desk, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loradeck.client.calls.LOOKUP_S", 0.5)
    row = desk.row(tenant).model_dump_json().encode()
    with other_program(200, row, hang_up_on_posts=True) as url:
        where = ("--hub", url, "--token-file", loose_token(tmp_path))
        problem = desk.refused(4, "outcome_unknown", *where, "rollback", tenant, "--yes")
        assert Other.posts == 1
        plain = desk.refused(4, "outcome_unknown", *where, "tenant", "create", "new", process=True)
    assert "loradeck move" not in plain["fix"]
    key = re.search(r"loradeck move (\w{32})$", problem["fix"])
    assert key is not None
    desk.refused(1, "unknown_key", "move", key.group(1))  # the real hub never had it


@pytest.mark.parametrize(
    ("role", "words", "code"),
    [
        ("viewer", ("rollback", "{tenant}", "--yes"), "forbidden"),
        ("viewer", ("tenant", "create", "other"), "forbidden"),
        ("operator", ("promote", "{tenant}", "v3", "--yes"), "forbidden"),
        ("operator", ("lift", "{tenant}", "v1", "--yes", "--reason", "r"), "forbidden"),
        ("releaser", ("token", "ls"), "local_only"),
    ],
)
def test_a_token_that_does_not_allow_it_is_6_and_changes_nothing(
    desk: Desk, tenant: str, role: str, words: tuple[str, ...], code: str
) -> None:
    before = desk.row(tenant)
    token = desk.token(role)
    asked = [word.format(tenant=tenant) for word in words]
    desk.refused(6, code, "--hub", desk.url, "--token-file", token, *asked)
    assert desk.row(tenant).pointer == before.pointer


def test_a_revoked_and_an_invented_token_are_6_and_never_shown(desk: Desk, tmp_path: Path) -> None:
    token = desk.token("viewer")
    secret = token.read_text().strip()
    assert desk.run("--hub", desk.url, "--token-file", token, "--once").returncode == 0
    known = next(t for t in desk.json("token", "ls") if t["id"] == secret.split("_")[1])
    desk.json("token", "revoke", known["id"], "--yes")
    for file in (token, loose_token(tmp_path)):
        done = desk.process("--hub", desk.url, "--token-file", file, "--once")
        assert done.returncode == 6
        assert file.read_text().strip() not in done.stdout + done.stderr


def test_a_token_file_that_others_can_read_is_refused_before_anything_is_sent(desk: Desk) -> None:
    token = desk.token("viewer")
    assert token.stat().st_mode & 0o777 == 0o600
    token.chmod(0o640)
    done = desk.process("--hub", desk.url, "--token-file", token, "--once")
    assert done.returncode == 2
    assert "mode 0640" in done.stderr
    assert token.read_text().strip() not in done.stderr
    token.chmod(0o600)
    token.write_text("two words\n")
    assert desk.run("--hub", desk.url, "--token-file", token, "--once").returncode == 2


def test_a_tcp_hub_without_a_token_and_a_plain_one_beyond_loopback_are_wrong_use(desk: Desk) -> None:
    assert "needs a token" in desk.refused(2, "settings", "--hub", desk.url, "--once")["title"]
    assert "TLS" in desk.refused(2, "settings", "--hub", "http://192.0.2.1:7400", "--once")["title"]


def test_a_token_is_written_to_a_new_file_only_and_never_printed(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "op.token"
    done = desk.run("token", "create", "--role", "operator", "--name", "op1", "--out", out)
    secret = out.read_text().strip()
    assert done.returncode == 0
    assert secret not in done.stdout + done.stderr
    count = len(desk.json("token", "ls"))
    desk.refused(2, "usage", "token", "create", "--role", "operator", "--name", "op1", "--out", out)
    desk.refused(2, "usage", "token", "create", "--role", "agent", "--name", "a", "--out", tmp_path / "a.token")
    assert out.read_text().strip() == secret
    assert not (tmp_path / "a.token").exists()
    assert len(desk.json("token", "ls")) == count
    # Refused by the hub: the file that was made for it is gone again.
    token = desk.token("releaser")
    where = ("--hub", desk.url, "--token-file", token)
    new = tmp_path / "b.token"
    desk.refused(6, "local_only", *where, "token", "create", "--role", "viewer", "--name", "b", "--out", new)
    assert not new.exists()


def test_a_read_only_context_refuses_every_change_here(desk: Desk, tenant: str) -> None:
    settings = desk.root / "config" / "loradeck" / "config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'[contexts.look]\nsocket = "{desk.socket}"\nread_only = true\n')
    try:
        assert desk.run("--context", "look", "route", "show", tenant).returncode == 0
        assert desk.run("route", "show", tenant, env={"LORADECK_CONTEXT": "look"}).returncode == 0
        desk.refused(2, "read_only", "rollback", tenant, "--yes", "--context", "look")
        desk.refused(2, "settings", "--context", "loom", "--once")
    finally:
        settings.unlink()


def test_a_name_from_the_hub_cannot_steer_the_terminal(desk: Desk, tenant: str) -> None:
    desk.json("event", "annotate", tenant, "--reason", "\x1b]0;owned\x07\x1b[2Jcleared")
    done = desk.run("event", "ls", tenant)
    assert "cleared" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout


def test_ctrl_c_while_a_move_is_waited_for_is_130_and_says_that_it_may_stand(desk: Desk, tenant: str) -> None:
    with other_program(200, desk.row(tenant).model_dump_json().encode(), hold_posts=True) as url:
        process = subprocess.Popen(
            [LORADECK, "--hub", url, "--token-file", loose_token(desk.root), "rollback", tenant, "--yes"],
            env=desk.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background job ignores Ctrl-C and so would its children, this one among them.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        wait_until("the move is sent", lambda: Other.posts)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"interrupted: the move may have been committed; see: loradeck move \w{32}", errors)
    assert "Traceback" not in errors


def test_the_console_needs_a_terminal(desk: Desk) -> None:
    for words in ([], ["open", "acme"]):
        done = desk.process(*words)
        assert done.returncode == 2
        assert "loradeck --once" in done.stderr


def loose_token(folder: Path) -> Path:
    path = folder / "loose.token"
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write("ld_0123456789abcdef_" + "0" * 64)
    return path


class Other(http.server.BaseHTTPRequestHandler):
    """Some program that answers HTTP where a hub was expected."""

    status = 200
    body = b""
    hang_up_on_posts = False
    hold_posts = False
    posts = 0
    release = threading.Event()

    def do_GET(self) -> None:
        if self.hang_up_on_posts and "/moves/" in self.path:
            self.close_connection = True
            return
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).posts += 1
        self.close_connection = True
        if self.hold_posts:
            self.release.wait(60)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def other_program(status: int, body: bytes, **how: bool) -> Iterator[str]:
    Other.status, Other.body, Other.posts = status, body, 0
    Other.hang_up_on_posts, Other.hold_posts = how.get("hang_up_on_posts", False), how.get("hold_posts", False)
    Other.release.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        Other.release.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("promot", "acme", "v2"), "Did you mean 'promote'?"),
        (("tenant", "creat", "acme"), "create"),
        (("route", "show", "{tenant}x"), "did you mean '{tenant}'?"),
    ],
)
def test_a_mistyped_command_or_tenant_is_answered_with_the_one_that_is_near(
    desk: Desk, tenant: str, words: tuple[str, ...], meant: str
) -> None:
    done = desk.run(*(word.format(tenant=tenant) for word in words))
    assert done.returncode != 0
    assert meant.format(tenant=tenant) in done.stderr


def test_a_wrong_setting_in_a_file_is_named_with_its_line_and_the_one_that_was_meant(
    desk: Desk, tenant: str, tmp_path: Path
) -> None:
    file = tmp_path / "route.toml"
    file.write_text("fallback = true\n\n[soak]\nrequest = 3\n")
    problem = desk.refused(2, "usage", "route", "set", tenant, "--file", file, "--yes")
    assert problem["title"] == "line 4: soak.request: is not a setting that exists; did you mean 'requests'?"
    assert problem["detail"] == str(file)


def test_a_name_that_cannot_be_one_is_refused_in_words(desk: Desk) -> None:
    problem = desk.refused(2, "usage", "tenant", "create", "Acme Corp")
    assert "lower-case letters, digits" in problem["title"]
    assert "^" not in problem["title"], "no pattern"
    assert problem["fix"] == "for example acme, or acme-corp"


def test_https_to_a_hub_without_tls_says_so(desk: Desk) -> None:
    url, token = desk.url.replace("http:", "https:"), desk.token("viewer")
    problem = desk.refused(3, "hub_unreachable", "--hub", url, "--token-file", token, "--once")
    assert "speaks no TLS" in problem["fix"]


def test_a_problem_in_json_is_the_hubs_document(desk: Desk) -> None:
    done = desk.process("route", "show", "nobody", "--json")
    problem = json.loads(done.stderr)
    assert (done.returncode, problem["status"], problem["code"]) == (1, 404, "unknown_tenant")
    plain = desk.run("route", "show", "nobody")
    assert plain.stderr.startswith("error: ")
    assert "[unknown_tenant]" in plain.stderr
