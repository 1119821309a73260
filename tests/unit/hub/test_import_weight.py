"""What is large is imported where it is needed: never by a hub or an agent that answers others."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCANNERS = ("detect_secrets", "datasketch")
SIGNERS = ("model_signing", "sigstore", "cryptography", "joserfc")

HEAVY = (*SCANNERS, *SIGNERS, "torch", "scipy", "pandas", "pyarrow", "numpy")


@pytest.mark.parametrize("program", ["loradeck.hub.server", "loradeck_agent.daemon", "loradeck.client.sign_in"])
def test_hub_and_agent_import_no_scanner_no_signer_and_nothing_that_computes(program: str) -> None:
    code = f"import sys, {program}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_program_that_has_a_hub_in_it_can_still_import_what_the_hub_does_not() -> None:
    code = "import loradeck.hub.server, numpy, pandas; print(numpy.zeros(2).sum(), len(pandas.Series([1, 2])))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0.0 2"
