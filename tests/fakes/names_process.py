"""A process in the place of the one with models of names: it finds Ann Lee, or does what it is told."""

from __future__ import annotations

import sys
from pathlib import Path

from loradeck.schemas.dataset_ledger import NameModels

ANSWERS = """
log = open(__file__ + ".log", "a")
for line in sys.stdin:
    batch = json.loads(line)
    log.write(f"{batch['language']} {len(batch['texts'])} {sum(map(len, batch['texts']))}\\n")
    log.flush()
    found = [[m.span() for m in re.finditer("Ann Lee", text)] for text in batch["texts"]]
    print(json.dumps({"found": found}), flush=True)
"""


def name_models(folder: Path, then: str = ANSWERS) -> NameModels:
    """Models of English whose interpreter is a script in a folder, which loads them and does `then`."""
    script = folder / "python"
    script.write_text(
        f"#!{sys.executable}\nimport json, re, sys\nmodels = json.loads(sys.stdin.readline())['models']\n"
        "print(json.dumps({'loaded': {m['language']: m['model'] for m in models}}), flush=True)\n" + then
    )
    script.chmod(0o700)
    one = {"language": "en", "model": "english"}
    return NameModels.model_validate({"python": str(script), "models": [one]})
