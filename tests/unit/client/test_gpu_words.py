"""How console and commands say how a GPU's NVLinks are, and how MIG divides it."""

from __future__ import annotations

import pytest

from loradeck.client import node_words
from loradeck.schemas.telemetry import Gpu, MigInstance, NvLink

WHOLE = NvLink(links=12, up=12, down=0, speed_mbps=26562, errors={"replay": 0, "recovery": 0, "CRC": 3})
HALF = MigInstance(place="0/7/0", uuid="MIG-1", profile="3g.40gb", memory_used=3 << 30, memory_total=40 << 30)


def gpu(**fields: object) -> Gpu:
    return Gpu.model_validate({"index": 0, "uuid": "GPU-0", "name": "a GPU", **fields})


@pytest.mark.parametrize(
    ("links", "says"),
    [
        (None, "NVLink not known"),
        (WHOLE, "NVLink 12 of 12 up at 26.6 GB/s, errors in 5 min: replay 0 recovery 0 CRC 3"),
        (NvLink(links=12, up=11, down=1), "NVLink 11 of 12 up, errors in 5 min: not known"),
        (NvLink(links=1, up=0, down=1, errors={"\x1b[2J": 1}), "NVLink 0 of 1 up, errors in 5 min: ␛[2J 1"),
    ],
)
def test_links_are_said_with_what_is_known_and_what_is_not(links: NvLink | None, says: str) -> None:
    assert node_words.links(gpu(nvlink=links)) == says


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, ["MIG not known"]),
        ({"mig": False}, ["MIG off"]),
        ({"mig": True}, ["MIG on, its instances are not known"]),
        ({"mig": True, "instances": ()}, ["MIG on, without an instance"]),
        (
            {"mig": True, "instances": (HALF, MigInstance(place="0/-/-", uuid="", profile=""))},
            ["MIG 0/7/0 3g.40gb  3.0/40 GB  MIG-1", "MIG 0/-/-   -/- GB  "],
        ),
    ],
)
def test_a_divided_gpu_names_each_instance(fields: dict[str, object], says: list[str]) -> None:
    assert node_words.mig(gpu(**fields)) == says
