"""The commands by which a host becomes a part of the fleet: `loradeck-agent run`, `gateway` and `join`."""

import asyncio
import os
import sys
from pathlib import Path

import click

from loradeck.schemas.address import is_loopback
from loradeck.schemas.membership import Joined
from loradeck_agent.cli.shared import config_option, log_level_option
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import ConfigError
from loradeck_agent.host.identity import HubLogin, Identity
from loradeck_agent.host.process import log_to_stderr
from loradeck_agent.host.secret_file import read_secret


@click.command()
@config_option
@log_level_option
def run(config: AgentConfig, log_level: str) -> None:
    """Runs the agent until SIGTERM or SIGINT.

    A node that has not joined yet joins first, if `token` names a file with a join token. Router, engines and jobs go
    on after the agent's end and are taken over by the next start; `stop` ends them too.
    """
    login = HubLogin(config)
    joins = login.may_join
    if not joins:
        login.now()  # what is wrong with it is said at once
        if config.router.tls and not Identity(config.state).exists:
            raise ConfigError(
                "not_joined",
                "the router is to show this node's certificate, and this node has not joined",
                "tls = true under [router]",
                f"join first: loradeck node token {config.node} --out FILE on the hub's host, named here as `token`",
            )
    config.check_engines()
    os.umask(0o077)
    log_to_stderr(log_level)
    if joins:
        _join(config, config.read_token())
    from loradeck_agent.daemon import serve  # the other commands start faster without it

    asyncio.run(serve(config, login.now))


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
        _join(config, config.read_token())
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


@click.command()
@config_option
@click.option("--token-file", type=click.Path(path_type=Path), help="File with a join token. [default: `token`]")
def join(config: AgentConfig, token_file: Path | None) -> None:
    """Joins the hub's fleet with a join token, or joins again with a new key.

    The key is made here and never leaves this node. An agent that runs uses it at its next connection; keys that were
    bound to the node's name before count no more. `run` joins by itself where `token` holds a join token.
    """
    fix = f"make one on the hub's host: loradeck node token {config.node} --out FILE"
    token = read_secret(token_file, "token", fix) if token_file else config.read_token()
    os.umask(0o077)
    joined = _join(config, token)
    click.echo(f"{joined.node} has joined; its key and certificate are in {config.state / 'identity'}")


def _join(config: AgentConfig, token: str) -> Joined:
    from loradeck_agent.uplink.membership import join as join_fleet  # what it takes is needed once

    return asyncio.run(join_fleet(config, token))
