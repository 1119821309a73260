"""Scanners, near copies and signatures are imported where they run: never by a hub or an agent that answers others."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("detect_secrets", "datasketch", "model_signing", "sigstore", "cryptography", "scipy", "torch")


def test_hub_and_agent_import_no_scanner_and_no_signer() -> None:
    code = (
        "import sys, loradeck.hub.server, loradeck_agent.daemon\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
