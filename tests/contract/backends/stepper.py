"""An executor without a model, by the real protocol. What it does is the route of its spec.

good: three steps, and a line printed. waits: steps until a file `go` lies in its folder. bad: a wrong spec. stubborn:
as waits, and ignores SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loradeck_agent.executors.protocol import BadSpec, Run, run


def work(current: Run) -> Mapping[str, Any]:
    folder, kind = Path(current.spec.events).parent, current.spec.spec.route  # type: ignore[union-attr]
    print(f"this is {kind}", flush=True)
    (folder / "environment.json").write_text(json.dumps(dict(os.environ)))
    if kind == "bad":
        raise BadSpec("bad_spec", "no such thing")
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    saved = Path(current.spec.checkpoints or folder) / "step"
    step = int(saved.read_text()) if saved.exists() else 0
    if step:
        current.phase(f"goes on after step {step}")
    while (step < 3) if kind == "good" else not (folder / "go").exists():
        step += 1
        current.progress(step, 3)
        saved.write_text(str(step))
        current.check()
        time.sleep(0.02)
    return {"steps": step}


if __name__ == "__main__":
    sys.exit(run("evaluate", work))
