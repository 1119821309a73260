"""The small word model, made once a session; fleets are made by the tests that need them."""

from __future__ import annotations

import pytest
from tests.fleet import Material, make_material


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return make_material(tmp_path_factory.mktemp("material"))
