"""`loradeck-agent install-service`."""

import os
import pwd
from pathlib import Path

import click

from loradeck_agent.cli.shared import config_option
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError


@click.command("install-service")
@config_option
@click.option("--print", "show", is_flag=True, help="Only print the files.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and stop.")
@click.option("--uninstall", is_flag=True, help="Take the service away; its state and its user stay.")
@click.option("--gateway", is_flag=True, help="Of a gateway, which runs as a user loradeck-gateway.")
def install_service(config: AgentConfig, show: bool, dry_run: bool, uninstall: bool, gateway: bool) -> None:
    """Installs the agent as a service of systemd, with the router's listening socket. Needs root.

    It runs as a user of its own, loradeck-agent, or as root where `user` under [jobs] names whom executors run as. The
    router listens on a socket that systemd keeps: no restart of agent or router refuses a connection. Called again, it
    writes what has changed; so call it again after `listen`, `state` or `user` have.
    """
    from loradeck.systemd import units

    folders = [config.state, *(engine.base for engine in config.engine), *((config.ca,) if config.ca else ())]
    try:
        program = units.program("loradeck-agent")
        written = Path(click.get_current_context().params["config_path"]).absolute()
        if gateway:
            files, user = units.gateway_files(program, written, config.state), units.GATEWAY
        else:
            user = "root" if config.jobs.user is not None else units.AGENT
            files = units.agent_files(
                program,
                written,
                config.state,
                config.router.listen,
                as_root=user == "root",
                read_home=any(units.in_home(folder) for folder in folders),
            )
        if show:
            click.echo(units.printed(files))
        elif uninstall:
            if not gateway:
                click.echo("router, engines and jobs go on: loradeck-agent stop ends them")
            units.uninstall(files, click.echo, dry_run=dry_run)
        else:
            units.install(files, config.state, user, click.echo, dry_run=dry_run)
            if not dry_run:
                _name_unreadable(config, written, user)
    except units.ServiceFault as fault:
        raise AgentError(fault.code, fault.title, fault.detail, fault.fix) from fault


def _name_unreadable(config: AgentConfig, written: Path, user: str) -> None:
    """Names what the service's user cannot read: the configuration, what it names, and secrets that are not its own."""
    from loradeck.systemd import units

    for path in (written, config.ca, config.router.tls_cert, config.router.client_ca):
        if path is not None and (closed := units.closed_to(path, user)) is not None:
            mode = "a+rx" if closed.is_dir() else "a+r"
            click.echo(f"it cannot read {path}: chmod {mode} {closed}")
    owner = pwd.getpwnam(user).pw_uid
    secrets = (config.token, config.router.tls_key, *(getattr(engine, "key", None) for engine in config.engine))
    for path in (Path(path) for path in secrets if path is not None):
        if path.exists() and os.stat(path).st_uid != owner:
            click.echo(f"it cannot read {path}: chown {user} {path}")
