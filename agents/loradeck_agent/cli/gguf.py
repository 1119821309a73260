"""The command `loradeck-agent gguf`: it writes whole weights or an adapter as a GGUF file."""

import subprocess
import sys
from pathlib import Path

import click

from loradeck_agent.cli.shared import EXIT_FAILED, fail
from loradeck_agent.host.errors import AgentError

_FOLDER = click.Path(path_type=Path, file_okay=False, exists=True)


@click.command()
@click.argument("base", type=_FOLDER)
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--adapter", type=_FOLDER, help="Write this adapter of the base, in F32, for llama.cpp's --lora.")
@click.option(
    "--type",
    "type_",
    type=click.Choice(["f32", "f16", "bf16", "q8_0", "q4_0"]),
    default="f16",
    show_default=True,
    help="Of matrices; vectors are F32.",
)
def gguf(base: Path, out: Path, adapter: Path | None, type_: str) -> None:
    """Writes a base or merged weights, or an adapter beside its base, as the GGUF file OUT, for llama.cpp.

    Merged weights lie in the folder that `loradeck job show` names. What llama.cpp would compute otherwise is refused.
    """
    if out.exists():
        fail(AgentError("exists", "the file is there already", str(out), "name another one, or remove it"), EXIT_FAILED)
    module = [sys.executable, "-m", "loradeck_agent.executors.merging.gguf_export"]
    words = [*module, str(base), str(out), type_, *([str(adapter)] if adapter is not None else [])]
    sys.exit(subprocess.run(words, check=False, umask=0o077).returncode)  # torch is for processes of their own
