"""Which build of torch set-up takes, and from where: a real pip, with indexes that answer, refuse or stay silent."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from scripts.torch_build import ROOT, is_gpu_seen, requirement

SCRIPT = ROOT / "scripts" / "torch_build.py"
SECONDS = 0.3
"""What an index that gives no answer has for one. One that answers has a minute, since other tests share the cores."""


def wheel(folder: Path, version: str, *needs: str, name: str = "torch") -> None:
    """A wheel that pip installs, and that has nothing in it but its name."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}/__init__.py", "")
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {version}",
            *(f"Requires-Dist: {one}" for one in needs),
        ]
        file.writestr(f"{about}/METADATA", "\n".join(lines) + "\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")


class Pages(SimpleHTTPRequestHandler):
    """Serves folders as pages of links, as an index does."""

    def log_message(self, *words: object) -> None:
        """Nothing is printed for a request: the server keeps its path."""
        assert isinstance(self.server, Server)
        self.server.asked.append(self.path)


class Server(ThreadingHTTPServer):
    """An index on this machine."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Pages, directory=str(folder)))
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def pypi(tmp_path: Path) -> Iterator[Server]:
    """What pip asks where it is told nothing else: it has the build for CUDA, which is the newest."""
    wheel(tmp_path / "pypi" / "torch", "2.99.1")
    with served(tmp_path / "pypi") as server:
        yield server


@pytest.fixture
def pytorch(tmp_path: Path) -> Iterator[Server]:
    """An index of builds for CPU: what they need is not there, and it has one that is out of the range."""
    wheel(tmp_path / "pytorch" / "torch", "2.99.0+cpu", "filelock")
    wheel(tmp_path / "pytorch" / "torch", "3.0.0+cpu")
    with served(tmp_path / "pytorch") as server:
        yield server


class SetUp:
    """Runs the script with a pip that is configured by the test alone, and installs into a folder."""

    def __init__(self, folder: Path, pypi: Server) -> None:
        self.site = folder / "site"
        kept = {name: text for name, text in os.environ.items() if not re.match(r"(?i)pip_|torch|.*_proxy$", name)}
        self.environment = kept | {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": pypi.address,
            "PIP_TARGET": str(self.site),
            "PYTHONPATH": str(self.site),
            "HOME": str(folder),
            "TORCH": "cpu",
        }

    def __call__(self, *words: str, wait: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), "--wait", str(wait), *words]
        return subprocess.run(command, env=self.environment | environment, text=True, capture_output=True, check=False)

    def installed(self) -> list[str]:
        return sorted(path.name.removesuffix(".dist-info") for path in self.site.glob("*.dist-info"))


@pytest.fixture
def set_up(tmp_path: Path, pypi: Server) -> SetUp:
    return SetUp(tmp_path, pypi)


def is_one_line(said: str, beginning: str, end: str) -> bool:
    return said.count("\n") == 1 and said.startswith(beginning) and said.rstrip("\n").endswith(end)


def test_the_range_is_the_one_of_the_package() -> None:
    wanted = Requirement(requirement())
    assert wanted.name == "torch"
    assert "2.99.0+cpu" in wanted.specifier
    assert "3.0.0+cpu" not in wanted.specifier


def test_a_gpu_is_seen_by_the_drivers_program_or_its_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "dev").mkdir()
    assert not is_gpu_seen(tmp_path / "dev")
    (tmp_path / "dev" / "nvidia0").touch()
    assert is_gpu_seen(tmp_path / "dev")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").touch(0o755)
    assert is_gpu_seen(tmp_path / "none")


@pytest.mark.parametrize(("build", "words"), [("cpu", "torch for CPU"), ("cuda", "torch for CUDA")])
def test_the_plan_names_the_build_that_was_chosen(set_up: SetUp, build: str, words: str) -> None:
    said = set_up("plan", TORCH=build)
    assert said.stdout.startswith(f"Setting up with {words} (as TORCH says)")
    assert set_up("plan", TORCH="gpu").returncode == 1


def test_the_build_for_cpu_comes_from_the_index_alone_without_what_it_needs(
    set_up: SetUp, pytorch: Server, pypi: Server
) -> None:
    done = set_up("install", TORCH_INDEX=pytorch.address)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert set_up.installed() == ["torch-2.99.0+cpu"]
    assert pypi.asked == []
    assert {path.split("/")[1] for path in pytorch.asked} == {"torch"}


def test_a_folder_of_wheels_is_an_index_too(set_up: SetUp, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "2.99.0+cpu")
    assert set_up("install", TORCH_INDEX=str(tmp_path / "wheels")).stdout == ""
    assert set_up.installed() == ["torch-2.99.0+cpu"]


def test_the_build_for_cuda_comes_from_where_pip_takes_all_packages(set_up: SetUp, pytorch: Server) -> None:
    assert set_up("install", TORCH="cuda", TORCH_INDEX=pytorch.address).stdout == ""
    assert set_up.installed() == ["torch-2.99.1"]
    assert pytorch.asked == []


@contextmanager
def silent(dripping: bytes = b"") -> Iterator[str]:
    """The host and port of a server that takes connections and never answers, but for a byte every now and then."""
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            while not ended.wait(SECONDS / 6):
                try:
                    connection.sendall(dripping)
                except OSError:
                    return

    def serve() -> None:
        while True:
            connection, _ = listening.accept()
            if ended.is_set():
                return connection.close()
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = "{}:{}".format(*listening.getsockname())
        thread = threading.Thread(target=serve)
        thread.start()
        yield address
        ended.set()
        socket.create_connection(listening.getsockname()).close()
        thread.join()


def test_a_silent_index_costs_its_time_and_one_line(set_up: SetUp) -> None:
    with silent() as address:
        done = set_up("install", wait=SECONDS, TORCH_INDEX=f"http://{address}/whl/cpu/")
    begins = f"http://{address}/whl/cpu did not answer within {SECONDS} s: torch comes from PyPI, with CUDA"
    assert is_one_line(done.stdout, begins, "to download")
    assert (done.returncode, done.stderr, set_up.installed()) == (0, "", ["torch-2.99.1"])


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("dripping", [b"", b"H"])
def test_an_index_is_silent_where_it_never_ends_its_first_line_or_its_part_of_tls(
    set_up: SetUp, scheme: str, dripping: bytes
) -> None:
    with silent(dripping) as address:
        done = set_up("pages", "torch", wait=SECONDS, TORCH_INDEX=f"{scheme}://{address}")
    why = "did not answer" if dripping and scheme == "https" else f"did not answer within {SECONDS} s: "
    assert is_one_line(done.stderr, f"{scheme}://{address} {why}", "where it is configured to")
    assert done.stdout == ""


def test_a_silent_proxy_is_as_a_silent_index(set_up: SetUp) -> None:
    with silent() as address:
        proxy = {"https_proxy": f"http://{address}"}
        done = set_up("pages", "torch", wait=SECONDS, TORCH_INDEX="https://index.invalid", **proxy)
    begins = f"https://index.invalid did not answer within {SECONDS} s: "
    assert is_one_line(done.stderr, begins, "where it is configured to")


def test_an_index_that_refuses_or_has_no_torch_is_named_without_its_password(set_up: SetUp, pypi: Server) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        refused = set_up("pages", "torch", TORCH_INDEX=f"http://who:secret@127.0.0.1:{port}")
    assert refused.stderr.startswith(f"http://127.0.0.1:{port} did not answer (Connection refused): ")
    missing = set_up("pages", "torch", TORCH_INDEX=f"{pypi.address}/none")
    assert missing.stderr.startswith(f"{pypi.address}/none answered 404 File not found: ")
    folder = set_up("pages", "torch", TORCH_INDEX="/nowhere")
    assert folder.stderr.startswith("/nowhere is no folder: ")


def test_an_index_without_a_build_in_the_range_is_named_with_what_pip_found(set_up: SetUp, tmp_path: Path) -> None:
    wheel(tmp_path / "old" / "torch", "1.0.0+cpu")
    with served(tmp_path / "old") as index:
        done = set_up("install", TORCH_INDEX=index.address)
    assert is_one_line(done.stdout, f"{index.address} gave no {requirement()} (", "to download")
    assert set_up.installed() == ["torch-2.99.1"]


def test_where_the_index_is_silent_a_torch_that_lies_on_the_machine_is_taken(
    set_up: SetUp, tmp_path: Path, pypi: Server
) -> None:
    wheel(tmp_path / "wheels", "2.98.0+cpu")
    with silent() as address:
        done = set_up("install", wait=SECONDS, TORCH_INDEX=f"http://{address}", PIP_FIND_LINKS=str(tmp_path / "wheels"))
    assert is_one_line(
        done.stdout, f"http://{address} did not answer", "torch 2.98.0+cpu comes from what lies on this machine"
    )
    assert set_up.installed() == ["torch-2.98.0+cpu"]
    assert pypi.asked == []


def test_set_up_fails_where_no_torch_is_to_be_had(set_up: SetUp, tmp_path: Path) -> None:
    done = set_up("install", TORCH_INDEX="/nowhere", PIP_INDEX_URL="", PIP_NO_INDEX="1")
    assert done.returncode != 0
    assert "No matching distribution found for torch" in done.stderr
    assert set_up.installed() == []


def test_pages_of_an_index_that_answers_are_options_of_pip(set_up: SetUp, pytorch: Server) -> None:
    pages = set_up("pages", "torch", "torchvision", TORCH_INDEX=pytorch.address)
    links = [f"--find-links={pytorch.address}/{name}/" for name in ("torch", "torchvision")]
    assert (pages.stdout.split(), pages.stderr) == (links, "")
    with silent() as address:
        none = set_up("pages", "torch", "torchvision", wait=SECONDS, TORCH_INDEX=f"http://{address}")
    assert none.stdout == ""
    assert is_one_line(none.stderr, f"http://{address} did not answer within", "where it is configured to")


def test_packages_that_ask_for_a_range_keep_the_build_for_cpu(set_up: SetUp, tmp_path: Path, pytorch: Server) -> None:
    """As set-up goes on, with pip's own index, which has a newer torch for CUDA, and what the build for CPU needs."""
    wheel(tmp_path / "pypi" / "package", "1.0", requirement(), name="package")
    wheel(tmp_path / "pypi" / "filelock", "3.0", name="filelock")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    del set_up.environment["PIP_TARGET"], set_up.environment["PYTHONPATH"]
    environment = set_up.environment | {"TORCH_INDEX": pytorch.address, "PIP_PYTHON": str(tmp_path / "venv")}
    for words in ([str(SCRIPT), "install"], ["-m", "pip", "install", "--quiet", "package"]):
        subprocess.run([sys.executable, *words], env=environment, check=True)
    words = [sys.executable, "-m", "pip", "freeze"]
    frozen = subprocess.run(words, env=environment, check=True, text=True, capture_output=True).stdout
    assert frozen.split() == ["filelock==3.0", "package==1.0", "torch==2.99.0+cpu"]
