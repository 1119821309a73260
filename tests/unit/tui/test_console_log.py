"""How a console reports its end to a terminal that may be gone."""

from __future__ import annotations

import os
import subprocess
import sys

REPORTS_ITS_END = """
import sys
from loradeck.tui.terminal.console_log import report_end
from loradeck.tui.terminal.driver import CountedFile

input()
CountedFile(sys.__stderr__).write("the last frame")
report_end(129, None)
sys.exit(129)
"""


def test_a_console_whose_terminal_is_gone_ends_with_the_status_of_the_signal() -> None:
    ours, terminal = os.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [sys.executable, "-c", REPORTS_ITS_END],
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=terminal,
        env=environment,
    ) as console:
        os.close(terminal)
        os.close(ours)
        console.communicate(b"\n", timeout=60)
    assert console.returncode == 129
