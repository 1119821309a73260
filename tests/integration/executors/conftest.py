"""Executors on the tiny base."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.executors.running import Bench


@pytest.fixture
def bench(tiny_base: Path, tmp_path: Path) -> Bench:
    return Bench(tiny_base, tmp_path)
