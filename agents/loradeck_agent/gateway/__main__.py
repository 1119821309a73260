"""`python -m loradeck_agent.gateway`: what `loradeck-agent gateway` becomes, until SIGTERM.

Exit status: 0 stopped on request; 1 the folder or a listener cannot be used, with the reason on stderr.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

import uvloop

from loradeck.schemas.fault import Fault
from loradeck_agent.gateway.serve import serve
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.process import allow_open_files, log_to_stderr


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a gateway from its command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loradeck_agent.gateway", description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--metrics", metavar="HOST:PORT")
    parser.add_argument("--log-level", default="info")
    options = parser.parse_args(argv)
    log_to_stderr(options.log_level)
    allow_open_files()
    try:
        uvloop.run(serve(AgentConfig.load(options.config), options.metrics))
    except (Fault, OSError) as fault:
        logging.getLogger("loradeck_agent.gateway").error("%s", fault)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
