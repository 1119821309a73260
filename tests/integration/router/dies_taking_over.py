"""A router with a fault: it is killed when it was given the right to admit, before it has taken the lock.

python -m tests.integration.router.dies_taking_over --state DIR --listen HOST:PORT --take-over
"""

from __future__ import annotations

import os
import signal
import sys

from loradeck_agent.router.__main__ import main
from loradeck_agent.router.table import Table


def dies(self: Table) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Table.take = dies  # type: ignore[method-assign]
    sys.exit(main())
