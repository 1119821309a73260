"""The agent's configuration: each mistake is named with its line, its key and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import ConfigError

GOOD = """\
node = "gpu-01"
hub = "http://127.0.0.1:7400"
token = "gpu-01.token"
state = "/var/lib/la"

[labels]
site = "eu-1"

[router]
listen = "127.0.0.1:7500"

[[engine]]
name = "e0"
kind = "embedded"
base = "models/smollm2"
slots = 4
threads = 1
"""


def load(folder: Path, text: str) -> AgentConfig:
    path = folder / "agent.toml"
    path.write_text(text)
    return AgentConfig.load(path)


def test_the_documented_file_is_read_and_its_paths_count_from_its_own_folder(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert config.token == tmp_path / "gpu-01.token"
    assert config.engine[0].base == tmp_path / "models/smollm2"
    assert config.state == Path("/var/lib/la")
    assert config.labels == {"site": "eu-1"}


def test_judges_and_harnesses_have_paths_from_the_files_own_folder_and_a_key_that_others_read_is_refused(
    tmp_path: Path,
) -> None:
    judge = '[[judge]]\nname = "house"\nurl = "https://j.example.com"\nmodel = "m"\nkey = "judge.key"\n'
    config = load(tmp_path, f'{GOOD}{judge}[harness.lm-eval]\npython = "lm/bin/python"\ntasks = "tasks"\n')
    assert config.judge[0].key == tmp_path / "judge.key"
    assert config.harness["lm-eval"].python == tmp_path / "lm/bin/python"
    assert config.harness["lm-eval"].tasks == tmp_path / "tasks"
    (tmp_path / "judge.key").write_text("sk-secret\n")
    (tmp_path / "judge.key").chmod(0o644)
    with pytest.raises(ConfigError, match="may be read by others"):
        config.check_engines()
    with pytest.raises(ConfigError, match="two judges are called 'house'"):
        load(tmp_path, GOOD + judge + judge)


def test_what_jobs_of_a_submit_host_read_and_write_lies_in_its_scratch_and_its_locks_do_not(tmp_path: Path) -> None:
    text = GOOD.partition("[[engine]]")[0] + '[slurm]\nscratch = "s"\nbases = ["b"]\n'
    config = load(tmp_path, text)
    folder, own = config.folder(), tmp_path / "s" / "gpu-01"
    assert config.slurm is not None
    assert config.slurm.bases == (tmp_path / "b",)
    below = (folder.jobs, folder.inputs, folder.checkpoints, folder.releases, folder.merged)
    assert {path.parent for path in below} == {own}
    assert folder.lock == Path("/var/lib/la/agent.lock")
    for wrong in ('[[engine]]\nname = "e0"\nbase = "m"\n', '[jobs]\nuser = "nobody"\n'):
        with pytest.raises(ConfigError, match="is for a submit host"):
            load(tmp_path, text + wrong)


def test_bases_for_jobs_alone_are_folders_that_are_there(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD.partition("[[engine]]")[0] + '[[base]]\npath = "b"\n')
    assert config.job_bases == (tmp_path / "b",)
    with pytest.raises(ConfigError, match="base_missing"):
        config.check_engines()
    (tmp_path / "b").mkdir()
    config.check_engines()


def test_several_hubs_are_named_in_one_list(tmp_path: Path) -> None:
    one = load(tmp_path, GOOD)
    two = load(tmp_path, GOOD.replace('"http://127.0.0.1:7400"', '["https://a.example", "https://b.example/"]'))
    assert (one.hub, one.hubs) == ("http://127.0.0.1:7400", ("http://127.0.0.1:7400",))
    assert (two.hub, two.hubs) == ("https://a.example", ("https://a.example", "https://b.example"))


def test_one_engine_bears_the_nodes_name_and_several_their_own(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert config.replica_of(config.engine[0]) == "gpu-01"
    two = load(tmp_path, GOOD + '\n[[engine]]\nname = "e1"\nbase = "m"\n')
    assert [two.replica_of(engine) for engine in two.engine] == ["gpu-01.e0", "gpu-01.e1"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('node = "gpu-01"', 'node = "GPU 01"', "line 1: node: is lower-case letters, digits, "),
        ('node = "gpu-01"\n', "", "node: is missing"),
        ("slots = 4", "slots = 0", "line 16: engine.0.slots: Input should be greater than or equal to 1"),
        ("slots = 4", "slot = 4", "line 16: engine.0.slot: is not a setting that exists"),
        ("[router]", "[ruoter]", "line 9: ruoter: is not a setting that exists; did you mean 'router'?"),
        ('kind = "embedded"', 'kind = "magic"', "line 14: engine.0.kind: must be 'embedded' or 'vllm'"),
        ('"127.0.0.1:7500"', '"7500"', "line 10: router.listen: '7500' is not HOST:PORT"),
        ('"127.0.0.1:7500"', '"0.0.0.0:7500"', "line 9: router: callers send their keys"),
        ('"127.0.0.1:7500"', '"127.0.0.1:7500"\nclient_ca = "ca.pem"', "line 9: router: client_ca needs tls = true"),
        ('"127.0.0.1:7500"', '"127.0.0.1:7500"\naddress = "gpu-01:7500"', "line 9: router: address needs tls = true"),
        ("http://127.0.0.1:7400", "http://hub.example.com:7400", "line 2: hub: 'http://hub.example.com:7400' would"),
        ('"http://127.0.0.1:7400"', "[]", "line 2: hub: write each hub once"),
        ('"http://127.0.0.1:7400"', '["https://a", "https://a/"]', "line 2: hub: write each hub once"),
        ("http://127.0.0.1:7400", "hub.example.com", "line 2: hub: 'hub.example.com' is not the URL of a hub"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD.replace(old, new, 1))
    assert error.value.code == "config_invalid"
    assert says in error.value.detail
    assert "agent.toml" in error.value.title


def test_two_engines_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two engines are called 'e0'"):
        load(tmp_path, GOOD + '\n[[engine]]\nname = "e0"\nbase = "m"\n')


def test_text_that_is_not_toml_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, 'node = "gpu-01"\nhub = \n')
    assert error.value.code == "config_syntax"
    assert "line 2" in error.value.detail


def test_an_absent_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="config_unreadable"):
        AgentConfig.load(tmp_path / "none.toml")


def test_a_state_folder_too_long_for_its_sockets_is_refused_with_the_length_that_fits(tmp_path: Path) -> None:
    deep = "/" + "d" * 90
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD.replace("/var/lib/la", deep))
    assert error.value.code == "socket_path_too_long"
    fits = int(error.value.fix.split("at most ")[1].split(" ")[0])
    load(tmp_path, GOOD.replace("/var/lib/la", "/" + "d" * (fits - 1)))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_token_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    config = load(tmp_path, GOOD)
    config.token.write_text("secret")
    config.token.chmod(mode)
    with pytest.raises(ConfigError) as error:
        config.read_token()
    assert error.value.code == "token_mode"
    assert "chmod 0600" in error.value.fix
    assert "secret" not in str(error.value)


def test_a_token_is_read_without_its_line_end_and_an_empty_or_absent_one_is_refused(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    with pytest.raises(ConfigError, match="token_unreadable"):
        config.read_token()
    config.token.write_text("secret\n")
    config.token.chmod(0o600)
    assert config.read_token() == "secret"
    config.token.write_text("\n")
    with pytest.raises(ConfigError, match="token_empty"):
        config.read_token()


def test_an_absent_base_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, GOOD).check_engines()
    assert error.value.code == "base_missing"
    assert "models/smollm2" in error.value.detail
