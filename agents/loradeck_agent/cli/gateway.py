"""`loradeck-agent gateway`."""

import asyncio
import os
import sys

import click

from loradeck.schemas.address import is_loopback
from loradeck_agent.cli.shared import config_option, log_level_option
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import ConfigError
from loradeck_agent.host.identity import HubLogin, Identity


@click.command()
@config_option
@click.option("--metrics", metavar="HOST:PORT", help="Where its metrics are read; on the loopback interface.")
@log_level_option
def gateway(config: AgentConfig, metrics: str | None, log_level: str) -> None:
    """Runs a gateway until SIGTERM or SIGINT: it sends callers on to the nodes that serve them.

    Its configuration is an agent's without engines: `node`, `hub`, `token`, `state` and [router]. It joins with a token
    of `loradeck node token NAME --gateway`. Any number of them may run, each on a host of its own; what it was told
    last it goes on by while no hub answers.
    """
    if config.engine:
        raise ConfigError(
            "config_invalid", "a gateway has no engine", "[[engine]]", "run a node with `loradeck-agent run`"
        )
    host, _, port = (metrics or "127.0.0.1:1").rpartition(":")
    if not port.isdigit() or not is_loopback(host.strip("[]")):
        raise ConfigError(
            "config_invalid", "metrics are told to everybody who asks", f"--metrics {metrics}", "write 127.0.0.1:PORT"
        )
    os.umask(0o077)
    if HubLogin(config).may_join:
        from loradeck_agent.uplink.membership import join

        asyncio.run(join(config, config.read_token()))
    elif not Identity(config.state).exists:
        raise ConfigError(
            "not_joined",
            "nodes know a gateway by its certificate, and this one has not joined",
            str(config.state),
            f"on the hub's host: loradeck node token {config.node} --gateway --out FILE, named here as `token`",
        )
    words = ["--config", click.get_current_context().params["config_path"], "--log-level", log_level]
    words += ["--metrics", metrics] if metrics else []
    os.execv(sys.executable, [sys.executable, "-m", "loradeck_agent.gateway", *map(str, words)])
