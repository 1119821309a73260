"""Which build of torch set-up takes: that for CPU where no NVIDIA GPU is seen, a tenth of what the one for CUDA is.

    python scripts/torch_build.py plan                # one line: which build, and what is to be downloaded with it
    BIN/python scripts/torch_build.py install         # torch alone, into the environment of the Python that runs it
    python scripts/torch_build.py pages torch ...     # pip's options for these packages' pages of the index

TORCH=cpu or TORCH=cuda chooses the build. TORCH_INDEX is where builds for CPU come from: an index as pip knows it, or a
folder of wheels. Where it gives no answer, torch comes from what lies on the machine already (installed, or in a folder
that pip is configured to look into), else from PyPI with CUDA, and one line says which. It needs Python's own library
only, since it runs before any install.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shutil
import ssl
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.request
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

ROOT = Path(__file__).parents[1]
SIZES = ROOT / "docs" / "sizes.json"
PYTORCH = "https://download.pytorch.org/whl/cpu"
BUILDS = {"cpu": "CPU", "cuda": "CUDA"}


def is_gpu_seen(devices: Path = Path("/dev")) -> bool:
    """Whether NVIDIA's driver is here: its program in PATH, or its devices."""
    return shutil.which("nvidia-smi") is not None or any(devices.glob("nvidia*"))


def chosen_build() -> str:
    """The build that TORCH names, or that fits the machine: "cpu" or "cuda".

    Raises:
        SystemExit: TORCH names neither.
    """
    build = os.environ.get("TORCH") or ("cuda" if is_gpu_seen() else "cpu")
    if build not in BUILDS:
        raise SystemExit(f"TORCH is {build!r}: set it to cpu or cuda, or to nothing")
    return build


def requirement(project: Path = ROOT / "pyproject.toml") -> str:
    """The range of torch that the package's extra `train` names."""
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (torch,) = [entry for entry in extras["train"] if re.match(r"torch\s*[<>=!~]", entry)]
    return str(torch)


def measured(build: str, what: str) -> str:
    """What set-up with a build has to "download", or has on "disk" then; empty where that was never measured."""
    sizes = json.loads(SIZES.read_text(encoding="utf-8")).get(build, {})
    if what not in sizes:
        return ""
    megabytes = sizes[what] / 1e6
    return f", {megabytes:.0f} MB" if megabytes < 1000 else f", {megabytes / 1000:.1f} GB"


def plan() -> str:
    """What set-up is about to do, in one line."""
    build = chosen_build()
    seen = "an NVIDIA GPU is seen" if is_gpu_seen() else "no NVIDIA GPU is seen"
    download, disk = measured(build, "download"), measured(build, "disk")
    return (
        f"Setting up with torch for {BUILDS[build]} ({'as TORCH says' if os.environ.get('TORCH') else seen})"
        + (download and f"{download} to download")
        + (disk and f"{disk} on disk")
    )


class Index:
    """Where builds for CPU come from: the address of an index, or a folder of wheels."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.is_folder = "://" not in address

    def page(self, package: str) -> str:
        """Where pip finds a package's wheels."""
        return self.address if self.is_folder else f"{self.address}/{package}/"

    def __str__(self) -> str:
        """The address without the password that it may have."""
        return self.address if self.is_folder else _without_password(self.address)

    def silence(self, seconds: float) -> str:
        """Why it gives no answer within a time, in words that follow its name; empty where it gives one.

        The time is for all of it: looking up the name, a proxy, TLS and the first byte of an answer.
        """
        if self.is_folder:
            return "" if Path(self.address).is_dir() else "is no folder"
        # A timeout of a socket bounds each of its waits, and a look-up of a name has none. So another thread waits.
        answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        ask = threading.Thread(target=lambda: answers.put(_refusal(self.page("torch"), seconds)), daemon=True)
        ask.start()
        try:
            return answers.get(timeout=seconds)
        except queue.Empty:
            return f"did not answer within {seconds:g} s"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _refusal(url: str, seconds: float) -> str:
    # Whether the certificate and the password are good is pip's to find out, which has its own of both: nothing of the
    # answer is used here.
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(_without_password(url), timeout=seconds, context=unverified) as answer:
            answer.read(1)
    except urllib.error.HTTPError as error:
        return "" if error.code == 401 else f"answered {error.code} {error.reason}"
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"did not answer ({getattr(reason, 'strerror', None) or reason})"
    return ""


def _pip(*words: str, is_loud: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "install", "--quiet", *words]
    return subprocess.run(command, check=False, text=True, capture_output=not is_loud)


def install_for_cpu(index: Index, seconds: float) -> int:
    """Installs torch from an index, or from elsewhere where that gives none within a time, with a line that says so.

    Returns pip's exit status.
    """
    torch_range = requirement()
    why = index.silence(seconds)
    # The index is given as a page, so that pip asks no other one. What torch needs comes with the other packages, from
    # where these come: the index has old ones of them, and could stall for each.
    pages = [] if why else ["--find-links", index.page("torch")]
    result = _pip("--no-deps", "--no-index", "--timeout", "15", *pages, torch_range, is_loud=False)
    if result.returncode == 0:
        if why:
            version = metadata.version("torch")
            sys.stdout.write(f"{index} {why}: torch {version} comes from what lies on this machine\n")
        return 0
    if not why:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")] or ["ERROR: pip failed"]
        why = f"gave no {torch_range} ({errors[-1].removeprefix('ERROR: ')})"
    download = measured("cuda", "download")
    sys.stdout.write(f"{index} {why}: torch comes from PyPI, with CUDA{download and f'{download} to download'}\n")
    sys.stdout.flush()
    return _pip(torch_range).returncode


def main() -> None:
    """Runs `plan`, `install` or `pages`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wait", type=float, default=5, help="seconds that the index has for its answer, in all (5)")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("plan")
    actions.add_parser("install")
    actions.add_parser("pages").add_argument("packages", nargs="+")
    arguments = parser.parse_args()
    index = Index(os.environ.get("TORCH_INDEX") or PYTORCH)
    if arguments.action == "plan":
        sys.stdout.write(plan() + "\n")
    elif arguments.action == "pages":
        why = index.silence(arguments.wait)
        if why:
            names = ", ".join(arguments.packages)
            sys.stderr.write(f"{index} {why}: pip looks for {names} only where it is configured to\n")
        else:
            sys.stdout.write(" ".join(f"--find-links={index.page(package)}" for package in arguments.packages) + "\n")
    elif chosen_build() == "cpu":
        sys.exit(install_for_cpu(index, arguments.wait))
    else:
        sys.exit(_pip(requirement()).returncode)


if __name__ == "__main__":
    main()
