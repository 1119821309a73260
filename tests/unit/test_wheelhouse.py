"""The signed folder of packages: whole as it was signed, or refused with the file that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scripts.wheelhouse import LIST, NotWhole, sign, verify

from loradeck.artifacts.signing import new_key


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    new_key(folder / "key", folder / "key.pub")
    return folder / "key"


@pytest.fixture
def house(tmp_path: Path, key: Path) -> Path:
    folder = tmp_path / "house"
    (folder / "locks").mkdir(parents=True)
    (folder / "one-1.0-py3-none-any.whl").write_bytes(b"one")
    (folder / "locks" / "hub.txt").write_bytes(b"one==1.0")
    assert sign(folder, key) == 2
    return folder


def test_a_folder_as_it_was_signed_verifies_as_often_as_one_likes(house: Path, key: Path) -> None:
    assert [verify(house, key.with_suffix(".pub")) for _ in range(2)] == [2, 2]
    assert sign(house, key) == 2


def change(house: Path) -> None:
    (house / "one-1.0-py3-none-any.whl").write_bytes(b"0ne")


def remove(house: Path) -> None:
    (house / "locks" / "hub.txt").unlink()


def add(house: Path) -> None:
    (house / "one-1.1-py3-none-any.whl").write_bytes(b"one")


def link(house: Path) -> None:
    (house / "locks" / "more.txt").symlink_to("/etc/hostname")


def relist(house: Path) -> None:
    change(house)
    (house / LIST).write_text((house / LIST).read_text().replace("7692c3ad", "00000000"))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (change, "one-1.0-py3-none-any.whl was changed"),
        (remove, "locks/hub.txt is missing"),
        (add, "one-1.1-py3-none-any.whl is in no list"),
        (link, "neither a file nor a folder"),
        (relist, "openssl"),
        (lambda house: (house / "SHA256SUMS.sig").unlink(), "has no SHA256SUMS"),
    ],
)
def test_whatever_is_not_as_it_was_signed_is_refused(
    house: Path, key: Path, harm: Callable[[Path], None], why: str
) -> None:
    harm(house)
    with pytest.raises(NotWhole, match=why):
        verify(house, key.with_suffix(".pub"))


def test_another_key_did_not_sign_it_and_a_key_that_others_read_signs_nothing(
    house: Path, key: Path, tmp_path: Path
) -> None:
    new_key(tmp_path / "other", tmp_path / "other.pub")
    with pytest.raises(NotWhole, match="openssl"):
        verify(house, tmp_path / "other.pub")
    (tmp_path / "other").chmod(0o644)
    with pytest.raises(NotWhole, match="chmod 600"):
        sign(house, tmp_path / "other")
