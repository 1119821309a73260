"""Engines that run only while wanted, and the memory they share: what the configuration says and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import ConfigError

HEAD = 'node = "gpu-01"\nhub = "http://127.0.0.1:7400"\ntoken = "t"\nstate = "/var/lib/la"\n'
ROUTER = '[router]\nlisten = "127.0.0.1:7500"\n'


def engine(name: str, *lines: str) -> str:
    return "\n".join(["[[engine]]", f'name = "{name}"', f'base = "{name}"', *lines]) + "\n"


def load(folder: Path, head: str, *engines: str) -> AgentConfig:
    path = folder / "agent.toml"
    path.write_text(HEAD + head + ROUTER + "".join(engines))
    return AgentConfig.load(path)


def test_engines_always_run_and_are_held_for_a_day_unless_it_is_said(tmp_path: Path) -> None:
    config = load(tmp_path, "", engine("a"))
    assert config.engine[0].start == "always"
    assert (config.memory_gb, config.hold_prior_s) == (None, 86_400)


def test_two_engines_may_share_a_memory_that_holds_one_of_them(tmp_path: Path) -> None:
    wanted = 'start = "wanted"'
    config = load(
        tmp_path,
        "memory_gb = 80\nhold_prior_s = 3600\n",
        engine("a", wanted, "memory_gb = 60"),
        engine("b", wanted, "memory_gb = 60"),
    )
    assert [one.memory_gb for one in config.engine] == [60, 60]


@pytest.mark.parametrize(
    ("engines", "says"),
    [
        ([engine("a")], "engine 'a' needs its own memory_gb"),
        ([engine("a", "memory_gb = 81")], "engine 'a' takes 81 GB, the node has 80"),
        (
            [engine("a", "memory_gb = 50"), engine("b", "memory_gb = 40")],
            'the engines that always run take 90 GB, the node has 80; write start = "wanted"',
        ),
        ([engine("a", "memory_gb = 0")], "greater than 0"),
        ([engine("a", 'start = "sometimes"', "memory_gb = 1")], "'always' or 'wanted'"),
    ],
)
def test_engines_that_do_not_fit_are_refused_with_their_figures(tmp_path: Path, engines: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        load(tmp_path, "memory_gb = 80\n", *engines)
    assert says in str(wrong.value.detail)
