"""`kind = "vllm"`: what can be written, and what is refused because it would work against the agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from loradeck.rules.serving.vram import RANKS
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.engine_config import VllmEngine
from loradeck_agent.host.errors import ConfigError
from loradeck_agent.serving.vllm.command import vllm_argv, vllm_environment

HEAD = """\
node = "gpu-01"
hub = "http://127.0.0.1:7400"
token = "gpu-01.token"
state = "/var/lib/la"
[router]
listen = "127.0.0.1:7500"
[[engine]]
name = "e0"
kind = "vllm"
base = "models/base"
"""
LAUNCHED = 'python = "venv/bin/python"\n'


def engine(folder: Path, text: str) -> VllmEngine:
    path = folder / "agent.toml"
    path.write_text(HEAD + text)
    found = AgentConfig.load(path).engine[0]
    assert isinstance(found, VllmEngine)
    return found


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as error:
        engine(folder, text)
    assert error.value.code == "config_invalid"
    return error.value.detail


def test_a_socket_a_url_and_a_python_are_three_ways_and_their_paths_count_from_the_file(tmp_path: Path) -> None:
    attached = engine(tmp_path, 'socket = "vllm.sock"\nkey = "vllm.key"\n')
    assert attached.attached
    assert (attached.socket, attached.key) == (tmp_path / "vllm.sock", tmp_path / "vllm.key")
    assert engine(tmp_path, 'url = "http://127.0.0.1:8000/"\n').url == "http://127.0.0.1:8000"
    assert engine(tmp_path, 'url = "https://gpu-07.example.com:8000"\n').attached
    launched = engine(tmp_path, LAUNCHED)
    assert not launched.attached
    assert launched.python == tmp_path / "venv/bin/python"


def test_its_rank_limit_is_one_that_vllm_takes(tmp_path: Path) -> None:
    assert engine(tmp_path, LAUNCHED).rank_limit == 16
    assert [engine(tmp_path, f"{LAUNCHED}max_rank = {rank}\n").rank_limit for rank in RANKS] == list(RANKS)
    assert "line 12: engine.0.max_rank: Input should be 1, 8, 16" in refusal(tmp_path, LAUNCHED + "max_rank = 24\n")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 7: engine.0: how is it reached? Write `socket` or `url`"),
        ('socket = "s"\nurl = "http://127.0.0.1:8000"\n', "`socket` and `url` are different engines"),
        (f'socket = "s"\n{LAUNCHED}', "`socket` and `python` are different engines"),
        ('url = "http://gpu-07:8000"\n', "line 11: engine.0.url: 'http://gpu-07:8000' would carry prompts"),
        ('url = "127.0.0.1:8000"\n', "is not the address of a vLLM"),
        ('url = "https://user:word@gpu-07:8000"\n', "is not the address of a vLLM"),
        ('url = "https://gpu-07:8000/v1"\n', "is not the address of a vLLM"),
        ('socket = "s"\nargs = ["--enforce-eager"]\n', "`args` is for a vLLM that the agent launches"),
        ('socket = "s"\nenv = {A = "1"}\n', "`env` is for a vLLM that the agent launches"),
        ('socket = "s"\nstart = "wanted"\n', "`start` is for an engine that the agent starts"),
        (LAUNCHED + 'key = "k"\n', "`key` is for a vLLM that runs already"),
        (LAUNCHED + "threads = 2\n", "engine.0.threads: is not a setting that exists"),
        (LAUNCHED + 'dtype = "int8"\n', "line 12: engine.0.dtype"),
        (LAUNCHED + 'device = "CUDA 0"\n', "line 12: engine.0.device"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    assert says in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model", "/other"], "'--model' cannot be set here: write `base`"),
        (["--served-model-name=acme"], "'--served-model-name=acme' cannot be set here: the agent names the base"),
        (["--served_model_name", "acme"], "the agent names the base itself"),
        (["--port", "8000"], "the agent lays the engine's socket"),
        (["--uds=/tmp/x"], "the agent lays the engine's socket"),
        (["--max-loras", "9"], "write `batch_slots`"),
        (["--max_cpu_loras", "9"], "write `slots`"),
        (["--max-lora-rank=64"], "write `max_rank`"),
        (["--max-lora-r", "64"], "write `max_rank`"),
        (["--no-enable-lora"], "the agent loads adapters"),
        (["--lora-modules", "a=/b"], "adapters are loaded by the agent"),
        (["--dtype", "half"], "write `dtype`"),
        (["-tp", "2"], "write `tensor_parallel`"),
        (["--api-key", "s3cret"], "every user can read a command line"),
        (["--config", "x.yaml"], "write its flags in `args`"),
        (["--api-server-count", "2"], "with more than one API server vLLM loads no adapters at run time"),
        (["--api-server-count=4"], "with more than one API server vLLM loads no adapters at run time"),
        (["-asc", "2"], "with more than one API server"),
    ],
)
def test_a_flag_that_contradicts_the_agent_is_refused_with_what_to_write(
    tmp_path: Path, args: list[str], says: str
) -> None:
    words = ", ".join(f'"{arg}"' for arg in args)
    assert says in refusal(tmp_path, f"{LAUNCHED}args = [{words}]\n")


@pytest.mark.parametrize(
    "args",
    [
        ["--max-model-len", "4096", "--gpu-memory-utilization=0.8"],
        ["--api-server-count", "1"],
        ["--enable-prefix-caching", "-O3"],
        ["--quantization", "fp8", "--max-num-seqs", "64", "--lora-dtype", "bfloat16"],
    ],
)
def test_other_flags_are_passed_on_as_they_are(tmp_path: Path, args: list[str]) -> None:
    words = ", ".join(f'"{arg}"' for arg in args)
    config = engine(tmp_path, f"{LAUNCHED}args = [{words}]\n")
    assert vllm_argv(config, tmp_path)[-len(args) :] == tuple(args)


@pytest.mark.parametrize("name", ["VLLM_ALLOW_RUNTIME_LORA_UPDATING", "HF_HUB_OFFLINE", "VLLM_API_KEY", "PYTHONPATH"])
def test_a_variable_that_contradicts_the_agent_is_refused(tmp_path: Path, name: str) -> None:
    assert f"{name} cannot be set here" in refusal(tmp_path, f'{LAUNCHED}env = {{{name} = "x"}}\n')
    config = engine(tmp_path, f'{LAUNCHED}env = {{VLLM_CPU_KVCACHE_SPACE = "2"}}\n')
    assert vllm_environment(config)["VLLM_CPU_KVCACHE_SPACE"] == "2"


def test_a_socket_whose_path_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        engine(tmp_path, f'socket = "/{"x" * 107}"\n')
    assert error.value.code == "socket_path_too_long"


def test_a_vllm_is_one_engine(tmp_path: Path) -> None:
    second = '[[engine]]\nname = "e1"\nkind = "vllm"\nbase = "models/base"\nsocket = "s"\n'
    assert f"two engines are attached to {tmp_path / 's'}" in refusal(tmp_path, f'socket = "s"\n{second}')


def test_what_is_not_there_is_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(HEAD + LAUNCHED)
    config = AgentConfig.load(tmp_path / "agent.toml")
    with pytest.raises(ConfigError) as error:
        config.check_engines()
    assert error.value.code == "base_missing"
    (tmp_path / "models/base").mkdir(parents=True)
    with pytest.raises(ConfigError) as error:
        config.check_engines()
    assert error.value.code == "python_missing"

    (tmp_path / "agent.toml").write_text(HEAD + 'socket = "s"\nkey = "vllm.key"\n')
    config = AgentConfig.load(tmp_path / "agent.toml")
    with pytest.raises(ConfigError) as error:
        config.check_engines()
    assert error.value.code == "key_unreadable"
    (tmp_path / "vllm.key").write_text("s3cret\n")
    (tmp_path / "vllm.key").chmod(0o644)
    with pytest.raises(ConfigError) as error:
        config.check_engines()
    assert error.value.code == "key_mode"
    assert "s3cret" not in str(error.value)
    (tmp_path / "vllm.key").chmod(0o600)
    config.check_engines()
