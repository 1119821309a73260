"""Executors on the tiny base."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.executors.running import Bench


@pytest.fixture
def bench(tiny_base: Path, tmp_path: Path) -> Iterator[Bench]:
    umask = os.umask(0o022)  # an executor sets its process's own
    os.umask(umask)
    yield Bench(tiny_base, tmp_path)
    os.umask(umask)
