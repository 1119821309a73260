"""A router with a fault: it cuts no answer, and says truly that it still answers.

python -m tests.integration.router.does_not_cut --state DIR --listen HOST:PORT
"""

from __future__ import annotations

import sys

from loradeck_agent.router.__main__ import main
from loradeck_agent.router.admission import Admission

if __name__ == "__main__":
    Admission.cut = lambda self, key, stays: None  # type: ignore[method-assign]
    sys.exit(main())
