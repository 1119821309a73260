"""Combinations: whether an adapter fits a base, a chat template and an engine, by what their files and flags say."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from loradeck.rules.serving.vram import RANKS
from loradeck.schemas.ids import short

TESTED = "0.32"
"""The version of vLLM that Loradeck is tested with; another one is not known."""

DEFAULT_RANK = 16
"""vLLM's --max-lora-rank where none is given."""


class Fit(StrEnum):
    """Whether two parts fit: `UNKNOWN` where one of them does not say enough."""

    MATCH = "match"
    MISMATCH = "mismatch"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What was found of one pair of parts, and what to do where it does not fit."""

    what: str
    fit: Fit
    detail: str
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class AdapterFacts:
    """An adapter as its files say. `base`: digest of its base by its manifest; None: it has no manifest.

    `base_name`, which may be a path, and `revision` are those of its base by peft's configuration. `template`: SHA-256
    of the chat template that it was trained for, if that is known.
    """

    rank: int
    modules: frozenset[str]
    dora: bool = False
    base: str | None = None
    base_name: str | None = None
    revision: str | None = None
    template: str | None = None


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """A base: its digest (None where its weights are not at hand), name and revision, and its template's SHA-256."""

    digest: str | None = None
    name: str | None = None
    revision: str | None = None
    template: str | None = None


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """A vLLM: its version, if that is known, its flags, and the SHA-256 of the template that it was given."""

    version: str | None = None
    flags: Mapping[str, tuple[str, ...]]
    template: str | None = None


def compared(adapter: AdapterFacts, base: BaseFacts, engine: EngineFacts | None) -> list[Compared]:
    """Compares an adapter with a base, and both with an engine where one is named."""
    found = [_bases(adapter, base), _revisions(adapter, base), _templates("template", adapter.template, base.template)]
    if engine is not None:
        found += [*_engine(adapter, engine), *_engine_base(base, engine)]
    return found


def verdict(found: Collection[Compared]) -> Fit:
    """Sums all comparisons up: one mismatch is a mismatch, and without any an unknown is unknown."""
    fits = {one.fit for one in found}
    return Fit.MISMATCH if Fit.MISMATCH in fits else Fit.UNKNOWN if Fit.UNKNOWN in fits else Fit.MATCH


def _bases(adapter: AdapterFacts, base: BaseFacts) -> Compared:
    if adapter.base is not None and base.digest is not None:
        if adapter.base == base.digest:
            return _match("base", f"both say {short(base.digest)}")
        detail = f"the adapter was trained on {short(adapter.base)}, these files are {short(base.digest)}"
        return _mismatch("base", detail, "serve it on the base that its manifest names, or train it on this one")
    if adapter.base_name is None or base.name is None:
        fix = "train with a job, whose manifest names the base's digest, or name the base with --model-id"
        return _unknown("base", "nothing says which base the adapter was trained on", fix)
    ours, theirs = (name.rstrip("/").rpartition("/")[2].casefold() for name in (adapter.base_name, base.name))
    if ours != theirs:
        detail = f"the adapter's configuration names {adapter.base_name}, the base is {base.name}"
        return _mismatch("base", detail, "serve it on the base that it was trained on")
    return _match("base", f"both say {base.name}, by name alone")


def _revisions(adapter: AdapterFacts, base: BaseFacts) -> Compared:
    if adapter.base is not None and adapter.base == base.digest:
        return _match("revision", "the base's files are those that it was trained on")
    if adapter.revision is None or base.revision is None:
        return _unknown("revision", "adapter or base names no revision", "save the revision with the adapter")
    if adapter.revision != base.revision:
        detail = f"the adapter was trained on {adapter.revision}, the base is {base.revision}"
        return _mismatch("revision", detail, "pin the base to the revision that the adapter names")
    return _match("revision", adapter.revision)


def _templates(what: str, one: str | None, other: str | None) -> Compared:
    if one is None or other is None:
        return _unknown(what, "one of the two chat templates is not known", "give --chat-template")
    if one != other:
        detail = f"{short(one)}, not {short(other)}"
        return _mismatch(what, detail, "serve with the chat template that the rows were written for")
    return _match(what, short(one))


def _engine(adapter: AdapterFacts, engine: EngineFacts) -> list[Compared]:
    found = []
    if engine.version is None:
        found.append(_unknown("engine", "its version is not known", "give --vllm VERSION"))
    elif engine.version == TESTED or engine.version.startswith(f"{TESTED}."):
        found.append(_match("engine", f"vLLM {engine.version}"))
    else:
        found.append(_unknown("engine", f"vLLM {engine.version} was not tested, {TESTED} was", f"run vLLM {TESTED}"))
    if "enable-lora" not in engine.flags:
        found.append(_mismatch("lora", "it is started without --enable-lora", "add --enable-lora"))
    if adapter.dora:
        found.append(_mismatch("method", "it is DoRA, which vLLM does not serve", "merge it: loradeck job merge"))
    limit = _number(engine.flags.get("max-lora-rank"), DEFAULT_RANK)
    enough = next((rank for rank in RANKS if rank >= adapter.rank), None)
    if limit not in RANKS:
        known = ", ".join(map(str, RANKS))
        found.append(_mismatch("rank", f"vLLM takes no --max-lora-rank {limit}", f"one of {known}"))
    elif adapter.rank <= limit:
        found.append(_match("rank", f"{adapter.rank} of at most {limit}"))
    else:
        fix = f"start it with --max-lora-rank {enough}" if enough else f"vLLM takes ranks up to {RANKS[-1]}"
        found.append(_mismatch("rank", f"the adapter's is {adapter.rank}, the engine takes up to {limit}", fix))
    laid_out = engine.flags.get("lora-target-modules", ())
    missing = sorted(name for name in adapter.modules if laid_out and name.rpartition(".")[2] not in laid_out)
    if missing:
        detail = f"{', '.join(missing)} not among --lora-target-modules"
        found.append(_mismatch("modules", detail, "name them there, or leave the flag out"))
    else:
        found.append(_match("modules", ", ".join(sorted(adapter.modules))))
    return found


def _engine_base(base: BaseFacts, engine: EngineFacts) -> list[Compared]:
    found = []
    for flag in ("revision", "tokenizer-revision"):
        named = engine.flags.get(flag)
        if named and base.revision is not None:
            same = named[0] == base.revision
            detail = named[0] if same else f"--{flag} {named[0]}, the base is {base.revision}"
            made = _match(flag, detail) if same else _mismatch(flag, detail, f"start it with --{flag} {base.revision}")
            found.append(made)
    if "chat-template" in engine.flags:
        found.append(_templates("engine template", engine.template, base.template))
    return found


def _number(given: tuple[str, ...] | None, otherwise: int) -> int:
    if not given:
        return otherwise
    return int(given[0]) if given[0].isdecimal() else -1


def _match(what: str, detail: str) -> Compared:
    return Compared(what=what, fit=Fit.MATCH, detail=detail)


def _mismatch(what: str, detail: str, fix: str) -> Compared:
    return Compared(what=what, fit=Fit.MISMATCH, detail=detail, fix=fix)


def _unknown(what: str, detail: str, fix: str) -> Compared:
    return Compared(what=what, fit=Fit.UNKNOWN, detail=detail, fix=fix)
