from __future__ import annotations

import pytest
from tests.fleets.in_process.log import Acme


@pytest.fixture
def acme() -> Acme:
    """acme's production pointer, on which nothing was promoted yet."""
    return Acme()
