"""The command that prints shell completion scripts."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    bash: source <(loradeck completion bash)
    """
    kind = get_completion_class(shell)
    assert kind is not None  # click.Choice has let only known shells through
    root = ctx.find_root().command
    script = kind(root, {}, "loradeck", "_LORADECK_COMPLETE")
    # `source()` would start a bash to ask its version; the script does not depend on it.
    click.echo(script.source_template % script.source_vars())
