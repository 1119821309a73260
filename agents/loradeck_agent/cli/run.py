"""`loradeck-agent run`."""

import asyncio
import os

import click

from loradeck_agent.cli.shared import config_option, log_level_option
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import ConfigError
from loradeck_agent.host.identity import HubLogin, Identity
from loradeck_agent.host.process import log_to_stderr


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
        from loradeck_agent.uplink.membership import join

        asyncio.run(join(config, config.read_token()))
    from loradeck_agent.daemon import serve  # the other commands start faster without it

    asyncio.run(serve(config, login.now))
