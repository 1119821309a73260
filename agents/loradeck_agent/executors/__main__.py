"""Starts an executor: `python -m loradeck_agent.executors KIND --spec spec.json`."""

import argparse
import importlib
import os
import sys

from loradeck_agent.executors.confinement import confine
from loradeck_agent.executors.protocol import BadSpec, Run, run
from loradeck_agent.host.process import paused

KINDS = ("train", "evaluate", "leak", "judge", "merge", "prove", "generate")


def main() -> int:
    """Command line; the exit status says how the run ended."""
    parser = argparse.ArgumentParser(prog="python -m loradeck_agent.executors", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    if os.environ.get("LORADECK_RANKS") == "srun":  # by the script of jobs/slurm.py; torchrun says it by itself
        for name, said in (("RANK", "PROCID"), ("LOCAL_RANK", "LOCALID"), ("WORLD_SIZE", "NTASKS")):
            os.environ[name] = os.environ[f"SLURM_{said}"]
    options, rest = parser.parse_known_args()
    kind = options.kind

    def work(current: Run) -> dict[str, object]:
        if current.spec.closed and (why := confine(current.spec)):
            if current.spec.confined:
                raise BadSpec("not_confined", f"{why}; leave `confined` under [jobs] out, or take another node")
            sys.stderr.write(f"this executor is not kept out of the agent's folders: {why}\n")
        with paused():
            module = importlib.import_module(f"loradeck_agent.executors.{kind}")
        return dict(getattr(module, kind)(current))

    return run(kind, work, rest)


if __name__ == "__main__":
    sys.exit(main())
