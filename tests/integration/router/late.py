"""A router with a fault: it acknowledges a flip and makes it 100 ms later. What watches routers must notice.

python -m tests.integration.router.late --state DIR --listen HOST:PORT
"""

from __future__ import annotations

import asyncio
import sys

from loradeck.schemas.ids import PointerKey
from loradeck_agent.router import serve
from loradeck_agent.router.__main__ import main
from loradeck_agent.router.switch import Switch

LATE_S = 0.1


class LateSwitch(Switch):
    def _recompile(self, key: PointerKey) -> None:
        asyncio.get_running_loop().call_later(LATE_S, super()._recompile, key)


if __name__ == "__main__":
    serve.Switch = LateSwitch  # type: ignore[misc]
    sys.exit(main())
