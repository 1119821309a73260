"""The wire types are what every other part may import, so they import none of them."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import importlib, json, pkgutil, sys
import loradeck.schemas
for module in pkgutil.iter_modules(loradeck.schemas.__path__, "loradeck.schemas."):
    importlib.import_module(module.name)
print(json.dumps(sorted(sys.modules)))
"""


def test_schemas_import_nothing_of_ours_and_nothing_heavy() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    modules = set(json.loads(run.stdout))
    assert "loradeck.schemas.link" in modules
    ours = {m for m in modules if m.split(".")[0] in ("loradeck", "loradeck_agent")}
    assert {m for m in ours if m != "loradeck" and not m.startswith("loradeck.schemas")} == set()
    heavy = {"torch", "textual", "fastapi", "aiohttp", "httpx", "sqlite_utils", "pynvml"}
    assert modules & heavy == set()
