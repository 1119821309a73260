"""The command that checks, without a hub, whether adapter, base, chat template and engine fit together: for CI."""

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from loradeck.artifacts import BadArtifact, base_manifest
from loradeck.artifacts.adapters import MANIFEST, verify_adapter
from loradeck.artifacts.lora_config import CONFIG, read_config
from loradeck.cli.commands.adapter import described
from loradeck.cli.shared.exits import Exit, misused, refused
from loradeck.cli.shared.files import checked, json_of, text_of
from loradeck.cli.shared.options import expected_errors, json_option, wants_json
from loradeck.cli.shared.output import Output
from loradeck.client.blobs import sha256_of
from loradeck.rules.serving.combination import (
    AdapterFacts,
    BaseFacts,
    Compared,
    EngineFacts,
    Fit,
    compared,
    verdict,
)
from loradeck.schemas.manifest import AdapterManifest, BaseManifest

_SHORT = {"-q": "quantization", "-tp": "tensor-parallel-size"}


@click.command()
@click.argument("adapter", metavar="ADAPTER", type=click.Path(path_type=Path))
@click.option("--base", required=True, metavar="DIR", type=click.Path(path_type=Path), help="The base's folder.")
@click.option("--model-id", help="Name of the base, such as org/model; from DIR.manifest.json by default.")
@click.option("--revision", help="Revision of the base; from DIR.manifest.json by default.")
@click.option(
    "--chat-template", metavar="FILE|SHA256", help="Template that the adapter was trained for; by default its own."
)
@click.option("--vllm", metavar="VERSION", help="Version of the vLLM that will serve it.")
@click.option("--engine-args", metavar="TEXT", help="Flags of that vLLM, as one text.")
@click.option("--strict", is_flag=True, help="What is not known is refused, too.")
@json_option
@click.pass_context
def check(ctx: click.Context, /, adapter: Path, base: Path, *, strict: bool, **given: str | None) -> None:
    """Check that adapter, base, chat template and engine fit together; asks no hub.

    MATCH is exit 0. What does not fit is exit 1, and so is what is not known, with --strict.
    """
    with expected_errors(as_json=wants_json(ctx)):
        found = _found(adapter, base, given)
        out, whole = Output(as_json=wants_json(ctx)), verdict(found)
        out.json({"verdict": whole.value, "checks": [asdict(one) for one in found]})
        for one in found:
            line = f"{one.fit.value:9} {one.what}: {one.detail}" + (f"; {one.fix}" if one.fix else "")
            (out.alarm if one.fit is Fit.MISMATCH else out.say)(line)
        if whole is Fit.MISMATCH or (strict and whole is Fit.UNKNOWN):
            wrong = [one for one in found if one.fit is Fit.MISMATCH] or [one for one in found if one.fit is whole]
            if out.as_json:
                raise click.exceptions.Exit(Exit.REFUSED)
            raise refused(
                "these do not fit" if whole is Fit.MISMATCH else "whether these fit is not known",
                where=", ".join(one.what for one in wrong),
                fix=wrong[0].fix,
                code="combination",
            )
        out.say("MATCH" if whole is Fit.MATCH else "MATCH in all that is known")


def _found(adapter: Path, base: Path, given: Mapping[str, str | None]) -> list[Compared]:
    """Reads the files and compares what they say.

    Raises: CliError or BadArtifact: a file cannot be read, or is not what it is called.
    """
    config = read_config(adapter / CONFIG) if (adapter / CONFIG).is_file() else None
    if config is None:
        raise misused(f"{CONFIG} is missing", where=str(adapter), fix="name the folder that peft saved")
    known = _base(base, given)
    stated = (adapter / MANIFEST).is_file()
    files = {"tenant": "check", "name": "check", "base": known.digest or "0" * 64, "decision": {"why_weights": "-"}}
    try:
        manifest = described(adapter, {} if stated else files)
        verify_adapter(adapter, manifest, base, beside=_beside(adapter, manifest))
    except BadArtifact as error:
        return [Compared(what="files", fit=Fit.MISMATCH, detail=f"{error.title}: {error.detail}", fix=error.fix)]
    says = "its hashes are its manifest's, and its tensors fit the base" if stated else "its tensors fit the base"
    template = given["chat_template"]
    facts = AdapterFacts(
        rank=manifest.rank,
        modules=frozenset(manifest.target_modules),
        dora=manifest.dora,
        base=manifest.base if stated else None,
        base_name=_text(config, "base_model_name_or_path"),
        revision=_text(config, "revision"),
        template=_template_given(template) if template else _template_of(adapter),
    )
    engine = None
    if given["vllm"] or given["engine_args"]:
        flags = _flags(given["engine_args"] or "--enable-lora")
        own = flags.get("chat-template")
        engine = EngineFacts(version=given["vllm"], flags=flags, template=_template_given(own[0]) if own else None)
    return [Compared(what="files", fit=Fit.MATCH, detail=says), *compared(facts, known, engine)]


def _base(folder: Path, given: Mapping[str, str | None]) -> BaseFacts:
    beside = folder.with_name(folder.name + ".manifest.json")
    known = checked(BaseManifest, json_of(beside), where=str(beside)) if beside.is_file() else None
    digest: str | None
    try:
        digest = base_manifest(folder, "-", "-").digest
    except BadArtifact:
        if not (folder / "config.json").is_file():
            raise
        digest = _without_weights(folder, known)
    return BaseFacts(
        digest=digest,
        name=given["model_id"] or (known.model_id if known is not None else None),
        revision=given["revision"] or (known.revision if known is not None else None),
        template=_template_of(folder),
    )


def _without_weights(folder: Path, known: BaseManifest | None) -> str | None:
    """The digest of a base of which CI has the small files alone: its manifest's, if those are the ones it lists.

    Raises: CliError: `combination`: one of them is another.
    """
    for entry in known.files if known is not None else ():
        path = folder / entry.path
        if path.is_file() and sha256_of(path)[0] != entry.sha256:
            fix = "take file and manifest from the same revision of the base"
            raise refused("a file of the base is not its manifest's", where=str(path), fix=fix, code="combination")
    return known.digest if known is not None else None


def _beside(adapter: Path, manifest: AdapterManifest) -> set[str]:
    listed = {entry.path for entry in manifest.files}
    return {path.relative_to(adapter).as_posix() for path in adapter.rglob("*") if path.is_file()} - listed


def _template_of(folder: Path) -> str | None:
    """SHA-256 of the chat template in a folder, by transformers' two places; None: it has none."""
    if (folder / "chat_template.jinja").is_file():
        return _sha256(text_of(folder / "chat_template.jinja"))
    config = json_of(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    text = config.get("chat_template") if isinstance(config, dict) else None
    return _sha256(text) if isinstance(text, str) else None


def _template_given(text: str) -> str:
    return text if len(text) == 64 and set(text) <= set("0123456789abcdef") else _sha256(text_of(Path(text)))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _text(config: Mapping[str, Any], name: str) -> str | None:
    value = config.get(name)
    return value if isinstance(value, str) and value else None


def _flags(text: str) -> dict[str, tuple[str, ...]]:
    """Flags of a command line with their values: `--max-lora-rank 64 --enable-lora` or `--max-lora-rank=64`."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise misused("the flags cannot be read", where=f"--engine-args: {error}", fix="quote it as one text") from None
    found: dict[str, tuple[str, ...]] = {}
    name: str | None = None
    for word in words:
        if word.startswith("--") or word in _SHORT:
            flag, _, value = word.partition("=")
            name = _SHORT.get(flag) or flag.removeprefix("--").replace("_", "-")
            found[name] = (value,) if value else ()
        elif name is not None:
            found[name] = (*found[name], word)
    return found
