"""An artifact on a node: read-only and verified, or not there at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.fakes.handmade_adapters import write_adapter

from loradeck.artifacts import BadArtifact, installing, scan, staging
from loradeck.schemas.manifest import FileEntry


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_adapter(tmp_path / "source")
    (tmp_path / "source" / "sub").mkdir()
    (tmp_path / "source" / "sub" / "notes").write_bytes(b"notes")
    return tmp_path / "source"


Read = Callable[[FileEntry], bytes]


def reading(source: Path) -> Read:
    return lambda entry: (source / entry.path).read_bytes()


def install(files: Sequence[FileEntry], read: Read, folder: Path) -> None:
    with installing(files, folder) as staged:
        for entry in files:
            with staged.file(entry) as file:
                file.write(read(entry))
                file.finish(mode=0o400)


def test_an_installed_folder_is_whole_and_read_only(source: Path, tmp_path: Path) -> None:
    files = scan(source)
    folder = tmp_path / "releases" / "r1"
    install(files, reading(source), folder)
    assert scan(folder) == files
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o500 if path.is_dir() else 0o400)
    assert [path.name for path in folder.parent.iterdir()] == ["r1"]
    assert folder.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("content", "code"), [(b"nodes", "digest_mismatch"), (b"note", "digest_mismatch"), (b"notes!", "too_large")]
)
def test_a_file_that_is_not_the_manifests_installs_nothing(
    content: bytes, code: str, source: Path, tmp_path: Path
) -> None:
    files = scan(source)
    (source / "sub" / "notes").write_bytes(content)
    folder = tmp_path / "releases" / "r1"
    with pytest.raises(BadArtifact) as caught:
        install(files, reading(source), folder)
    assert caught.value.code == code
    assert list(folder.parent.iterdir()) == []


def test_a_path_that_leaves_the_folder_is_refused_even_past_the_schema(source: Path, tmp_path: Path) -> None:
    for path in ("../escaped", "sub/../../escaped", str(tmp_path / "escaped")):
        entry = FileEntry.model_construct(path=path, size=1, sha256="a" * 64)
        with pytest.raises(BadArtifact) as caught:
            install([entry], lambda entry: b"x", tmp_path / "releases" / "r1")
        assert caught.value.code == "path_traversal"
    assert list(tmp_path.glob("**/escaped")) == []
    assert list((tmp_path / "releases").iterdir()) == []


def test_a_file_that_was_not_written_installs_nothing(source: Path, tmp_path: Path) -> None:
    files = scan(source)

    def all_but_the_first() -> None:
        with installing(files, tmp_path / "releases" / "r1") as staged:
            for entry in files[1:]:
                with staged.file(entry) as file:
                    file.write((source / entry.path).read_bytes())
                    file.finish(mode=0o400)

    with pytest.raises(BadArtifact) as caught:
        all_but_the_first()
    assert (caught.value.code, caught.value.detail) == ("manifest_mismatch", f"{files[0].path}: missing")
    assert list((tmp_path / "releases").iterdir()) == []


def test_what_a_killed_install_left_is_cleaned_by_the_next(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "releases" / "r1"
    script = (
        "import os, sys; from pathlib import Path; from loradeck.artifacts import installing, scan\n"
        "files = scan(Path(sys.argv[1]))\n"
        "with installing(files, Path(sys.argv[2])) as staged:\n"
        "    with staged.file(files[0]) as file: file.write((Path(sys.argv[1]) / files[0].path).read_bytes()[:10])\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(source), str(folder)], timeout=60)
    assert killed.returncode == -9
    assert not folder.exists()
    assert len(list(folder.parent.iterdir())) == 1
    with installing(scan(source), folder.with_name("r2")) as other:
        assert other is not None
        install(scan(source), reading(source), folder)
        assert len(list(folder.parent.iterdir())) == 2  # r1, and r2 on its way
        for entry in scan(source):
            with other.file(entry) as file:
                file.write((source / entry.path).read_bytes())
                file.finish(mode=0o400)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["r1", "r2"]


def test_a_read_only_folder_can_be_removed(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "releases" / "r1"
    install(scan(source), reading(source), folder)
    staging.remove(folder)
    assert not folder.exists()
    staging.remove(folder)
    assert os.listdir(folder.parent) == []
