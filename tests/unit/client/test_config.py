"""Contexts, and the files that tokens are in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loradeck.client.config import LOCAL, load_contexts, local_socket, read_token, resolve
from loradeck.client.errors import ConfigError

SECRET = "ld_0123_verysecretvalue"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("LORADECK_CONTEXT", "LORADECK_HUB", "LORADECK_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def settings(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config" / "loradeck" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def token_file(tmp_path: Path, content: str = SECRET + "\n", mode: int = 0o600) -> Path:
    path = tmp_path / "token"
    path.write_text(content)
    path.chmod(mode)
    return path


TWO = """
current = "lab"
[contexts.lab]
socket = "/run/lab/hub.sock"
[contexts.eu-1]
url = "https://hub.eu-1.example:7400/"
token_file = "eu-1.token"
production = true
read_only = true
"""


def test_without_settings_the_hub_is_this_users_own() -> None:
    contexts, current = load_contexts()
    assert (set(contexts), current) == ({LOCAL}, LOCAL)
    assert resolve(env={}).socket == local_socket()
    assert str(local_socket()).endswith("state/loradeck/hub/hub.sock")


def test_the_current_context_of_the_settings_is_used_unless_another_is_named(tmp_path: Path) -> None:
    path = settings(tmp_path, TWO)
    assert resolve(env={}).name == "lab"
    named = resolve(context="eu-1", env={})
    assert named.url == "https://hub.eu-1.example:7400"
    assert named.token_file == path.parent / "eu-1.token"
    assert (named.production, named.read_only) == (True, True)
    assert resolve(env={"LORADECK_CONTEXT": "eu-1"}) == named


def test_a_flag_wins_over_the_environment(tmp_path: Path) -> None:
    settings(tmp_path, TWO)
    env = {"LORADECK_CONTEXT": "eu-1", "LORADECK_TOKEN_FILE": "/tmp/other.token"}
    assert resolve(context="lab", env=env).name == "lab"
    assert resolve(hub="unix:/run/x.sock", env=env).socket == Path("/run/x.sock")


def test_a_context_named_by_flag_does_not_get_the_environments_token(tmp_path: Path) -> None:
    path = settings(tmp_path, TWO)
    env = {"LORADECK_HUB": "unix:/run/x.sock", "LORADECK_TOKEN_FILE": "/tmp/other.token"}
    assert resolve(context="eu-1", env=env).token_file == path.parent / "eu-1.token"


def test_a_hub_named_by_itself_does_not_get_the_token_of_a_context(tmp_path: Path) -> None:
    settings(tmp_path, TWO.replace('current = "lab"', 'current = "eu-1"'))
    assert resolve(hub="https://elsewhere.example", env={}).token_file is None


@pytest.mark.parametrize(
    ("how", "where"),
    [
        ({"context": "lab", "hub": "unix:/x"}, "--context and --hub"),
        ({"env": {"LORADECK_CONTEXT": "lab", "LORADECK_HUB": "unix:/x"}}, "LORADECK_CONTEXT and LORADECK_HUB"),
    ],
)
def test_two_hubs_named_at_once_are_refused(tmp_path: Path, how: dict[str, object], where: str) -> None:
    settings(tmp_path, TWO)
    with pytest.raises(ConfigError) as error:
        resolve(**{"env": {}, **how})  # type: ignore[arg-type]
    assert error.value.detail == where


@pytest.mark.parametrize(
    "address",
    ["ftp://h:1", "h:7400", "http://", "https://h:notaport", "https://h/path", "unix:relative.sock", "http://10.0.0.1"],
)
def test_an_address_that_is_none_or_unsafe_is_refused(address: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(hub=address, env={})
    assert error.value.fix


def test_several_hubs_of_one_log_are_named_with_commas_or_in_a_list(tmp_path: Path) -> None:
    settings(tmp_path, '[contexts.eu]\nurl = ["https://a.example", "https://b.example:7400"]')
    named = resolve(context="eu", env={})
    assert named.addresses == ("https://a.example", "https://b.example:7400")
    assert named.where == "https://a.example, https://b.example:7400"
    assert [one.where for one in named.each()] == list(named.addresses)
    given = resolve(env={"LORADECK_HUB": "https://a.example, https://b.example:7400,https://a.example"})
    assert given.addresses == named.addresses
    assert resolve(hub="unix:/run/a,b.sock", env={}).addresses == ("unix:/run/a,b.sock",)


@pytest.mark.parametrize("address", ["https://a.example,unix:/x", "https://a.example,", "https://a.example,http://b"])
def test_each_of_several_addresses_has_to_be_safe(address: str) -> None:
    with pytest.raises(ConfigError):
        resolve(hub=address, env={})


@pytest.mark.parametrize("address", ["http://127.0.0.1:7400", "http://[::1]:7400", "http://localhost:7400"])
def test_plain_http_is_for_loopback_only(address: str) -> None:
    assert resolve(hub=address, env={}).url == address


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as error:
        resolve(hub=f"https://me:{SECRET}@hub.example", env={})
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("nonsense = 1", "unknown setting 'nonsense'"),
        ("[contexts.a]\nurl = 'https://a'\ntokn = 'x'", "unknown setting 'tokn'"),
        ("[contexts.a]\nurl = 'https://a'\nsocket = '/x'", "either a url or a socket"),
        ("[contexts.a]", "either a url or a socket"),
        ("[contexts.a]\nurl = []", "'url' is a string, or a list of strings"),
        ("[contexts.a]\nurl = 'https://a'\nproduction = 'yes'", "'production' is true or false"),
        ("current = 'b'", "current context 'b' is not defined"),
        ("not toml", "cannot be read"),
    ],
)
def test_settings_that_are_not_understood_are_refused(tmp_path: Path, text: str, what: str) -> None:
    path = settings(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_contexts()
    assert what in error.value.title
    assert str(path) in error.value.detail


def test_a_token_is_read_from_a_file_of_ones_own(tmp_path: Path) -> None:
    assert read_token(token_file(tmp_path)) == SECRET
    assert read_token(token_file(tmp_path, mode=0o400)) == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o620, 0o601])
def test_a_token_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError) as error:
        read_token(token_file(tmp_path, mode=mode))
    assert f"{mode:04o}" in error.value.detail
    assert "chmod 600" in error.value.fix
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("content", ["", "\n", f"{SECRET} and more", f"{SECRET}\n{SECRET}", "x" * 5000, "t\x00ken"])
def test_a_file_that_holds_no_token_is_refused_without_showing_it(tmp_path: Path, content: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_token(token_file(tmp_path, content))
    assert SECRET not in str(error.value)


def test_another_users_token_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = token_file(tmp_path)
    if os.geteuid() == 0:
        os.chown(path, 4242, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(ConfigError, match="belongs to another user"):
        read_token(path)


def test_a_missing_token_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "none")
    with pytest.raises(ConfigError):
        read_token(tmp_path)
