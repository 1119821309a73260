"""The command reference of docs/cli.md, written from the commands themselves; `scripts.reference` puts it there."""

from __future__ import annotations

from collections.abc import Iterator

import click

COMMON = {"--json", "--token-file", "--hub", "--context", "--help"}
"""Options that every command has; docs/cli.md explains them once, above the reference."""

_PLACEHOLDERS = {"[OPTIONS]", "COMMAND [ARGS]..."}


def commands(
    command: click.Command, path: str, parent: click.Context | None = None
) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with the words that call it, in the order of the help."""
    ctx = click.Context(command, info_name=path.rsplit(" ", 1)[-1], parent=parent)
    if not isinstance(command, click.Group):
        yield path, command
        return
    if command.invoke_without_command:
        yield path, command
    for name in command.list_commands(ctx):
        inner = command.get_command(ctx, name)
        assert inner is not None, name
        yield from commands(inner, f"{path} {name}", ctx)


def reference() -> str:
    """Markdown: one heading a command, its help, its own options."""
    from loradeck.cli import cli

    parts = []
    for path, command in commands(cli, "loradeck"):
        ctx = click.Context(command, info_name=path)
        pieces = [piece for piece in command.collect_usage_pieces(ctx) if piece not in _PLACEHOLDERS]
        usage = " ".join([path, *pieces])
        lines = [f"### `{path}`", "", "```", usage, "```", "", _paragraphs(command)]
        rows = [
            f"| `{names}` | {text} |"
            for parameter in command.get_params(ctx)
            if isinstance(parameter, click.Option) and not COMMON.intersection(parameter.opts)
            if (record := parameter.get_help_record(ctx)) is not None
            for names, text in [(record[0].replace("|", "\\|"), record[1].replace("|", "\\|"))]
        ]
        if rows:
            lines += ["", "| option | |", "|---|---|", *rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _paragraphs(command: click.Command) -> str:
    text = (command.help or "").replace("\b", "").strip()
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
