from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.compiler import shared_library

HERE = Path(__file__).parent

Library = Callable[..., Path]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Compiles stub.c, once for each set of flags; its folder, for LD_LIBRARY_PATH."""
    made: dict[tuple[str, ...], Path] = {}

    def compiled(*flags: str) -> Path:
        if flags not in made:
            folder = tmp_path_factory.mktemp("nvml")
            shared_library(HERE / "stub.c", folder / "libnvidia-ml.so.1", "-Wl,-soname,libnvidia-ml.so.1", *flags)
            made[flags] = folder
        return made[flags]

    return compiled


class Stub:
    """What the library is told to do, through the file whose words it reads at each call."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "words"
        self._stuck = folder / "words.stuck"
        self.says("")

    def says(self, words: str) -> None:
        """Replaces the words at once: the library never reads half of them."""
        self._stuck.unlink(missing_ok=True)
        staged = self.file.with_suffix(".new")
        staged.write_text(words)
        staged.rename(self.file)

    def holds_a_caller(self) -> bool:
        """Whether a call has gone in, since the words were set, and will not come out."""
        return self._stuck.exists()


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    return Stub(tmp_path)


@pytest.fixture
def sampler(library: Library, stub: Stub) -> Callable[..., list[str]]:
    """The sampler's command, with the stub found as the real library is: by the loader, before exec."""

    def command(*flags: str, present: bool = True) -> list[str]:
        folder = library(*flags) if present else stub.file.parent
        env = [f"LD_LIBRARY_PATH={folder}", f"NVML_STUB={stub.file}"]
        return ["/usr/bin/env", *env, sys.executable, "-m", "loradeck_agent.telemetry.sampler"]

    return command
