"""`.ci/run`: what fails beside the others has to pass alone, and is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MAKEFILE = """
lint:
\t@echo linted
test:
\t@.venv/bin/python -m pytest -q $(ARGS) tests
test-services:
\t@.venv/bin/python -m pytest -q $(ARGS) services
test-vllm:
\t@.venv/bin/python -m pytest -q $(ARGS) vllm
"""
# The checkout's pytest needs `-n` only, and importing every plugin that is installed takes seconds of each of its runs.
PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
FLAKY = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("n", [1, 2])
def test_passes_the_second_time(n):
    seen = Path(__file__).with_name(f"seen-{n}")
    if not seen.exists():
        seen.touch()
        raise AssertionError
"""
PASSES = "def test_passes():\n    pass\n"
FAILS = "def test_fails():\n    raise AssertionError\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in (".ci", ".venv/bin", "tests", "services", "vllm"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "Makefile").write_text(MAKEFILE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    interpreter = tmp_path / ".venv" / "bin" / "python"
    interpreter.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    for folder in ("tests", "services", "vllm"):
        (tmp_path / folder / f"test_{folder}.py").write_text(PASSES)
    return tmp_path


def run(checkout: Path, after_s: int = 0) -> tuple[int, list[str], str]:
    """Exit status, the tests named as flaky, and all that was printed. `after_s`: what it has taken already."""
    done = subprocess.run(
        [checkout / ".ci" / "run"],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env={**os.environ, **PLUGINS, "SECONDS": str(after_s)},  # bash counts on from there
    )
    flaky = [line.removeprefix("FLAKY ") for line in done.stdout.splitlines() if line.startswith("FLAKY")]
    return done.returncode, flaky, done.stdout + done.stderr


def test_it_passes_and_names_nothing_when_nothing_failed(checkout: Path) -> None:
    status, flaky, printed = run(checkout)
    assert (status, flaky) == (0, []), printed
    assert "linted" in printed


def test_what_passes_alone_is_named_and_does_not_fail_the_run(checkout: Path) -> None:
    (checkout / "tests" / "test_flaky.py").write_text(FLAKY)
    status, flaky, printed = run(checkout)
    names = [f"tests/test_flaky.py::test_passes_the_second_time[{n}]" for n in (1, 2)]
    assert (status, flaky) == (0, names), printed


def test_what_fails_alone_too_fails_the_run(checkout: Path) -> None:
    (checkout / "tests" / "test_broken.py").write_text(FAILS)
    status, flaky, printed = run(checkout)
    assert (status, flaky) == (2, []), printed


def test_a_failure_before_any_test_fails_the_run(checkout: Path) -> None:
    (checkout / "Makefile").write_text(MAKEFILE.replace("tests\n", "nowhere\n"))
    status, flaky, printed = run(checkout)
    assert (status, flaky) == (2, []), printed


def test_on_a_slow_machine_it_leaves_out_the_long_tests_of_vllm_says_so_and_tries_the_contract(checkout: Path) -> None:
    makefile = (checkout / "Makefile").read_text()
    (checkout / "Makefile").write_text(makefile.replace("$(ARGS) vllm", "$(ARGS) contract tests/vllm"))
    (checkout / "contract").mkdir()
    (checkout / "contract" / "test_contract.py").write_text(PASSES)
    (checkout / "tests" / "vllm").mkdir()
    long = checkout / "tests" / "vllm" / "test_long.py"
    long.write_text(PASSES)
    assert "LEFT OUT" not in run(checkout)[2]
    status, _, printed = run(checkout, after_s=3700)
    assert status == 0, printed
    assert "LEFT OUT after 61 minutes: tests/vllm" in printed
    assert "1 passed, 1 deselected" in printed
