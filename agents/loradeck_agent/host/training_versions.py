"""Finds the versions that training here rests on without importing the libraries: an agent has no memory for torch."""

import re
import sys
from pathlib import Path

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")

_DRIVER = Path("/proc/driver/nvidia/version")
_INSTALLED = re.compile(rf"({'|'.join(LIBRARIES)})-([^-]+)\.dist-info")


def training_versions() -> dict[str, str]:
    """Versions of the libraries that training uses, as they are installed here, and of the NVIDIA driver, by name."""
    found: dict[str, str] = {}
    for folder in map(Path, sys.path):
        names = (match for path in folder.glob("*.dist-info") if (match := _INSTALLED.fullmatch(path.name)))
        for match in names:
            found.setdefault(match[1], match[2])
    try:
        driver = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _DRIVER.read_text(encoding="utf-8"))
    except OSError:
        driver = None
    return found | ({"driver": driver[1]} if driver else {})
