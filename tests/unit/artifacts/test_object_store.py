"""The probe of an object store: one that lies is refused with the reason, before anything is kept in it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tests.fakes.lying_store import LIES, lying_store

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.blobs import objects
from loradeck.artifacts.blobs.folder import open_blobs
from loradeck.artifacts.blobs.objects import opened, probe

REASONS = dict(zip(LIES, ("only creates", "older version", "other bytes", "still there", "versions"), strict=True))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-hub",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)


def test_an_honest_store_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    with lying_store("") as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        probe(opened("s3://bucket/prefix"))


def test_every_object_asks_for_the_encryption_at_the_store_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encrypted = dict[str, tuple[str, str]]()
    monkeypatch.setenv("AWS_SERVER_SIDE_ENCRYPTION", "aws:kms")
    monkeypatch.setenv("AWS_SSE_KMS_KEY_ID", "arn:aws:kms:eu-1:1:key/a")
    with lying_store("", encrypted) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        (sent := tmp_path / "sent").write_bytes(b"weights")
        open_blobs("s3://bucket/prefix", tmp_path)._keep(sent, "0" * 64)
    assert len(encrypted) == 3, "the probe's small one and the one in parts, and what is kept"
    assert {*encrypted.values()} == {("aws:kms", "arn:aws:kms:eu-1:1:key/a")}


def test_a_way_to_encrypt_that_no_store_knows_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SERVER_SIDE_ENCRYPTION", "aws:kmss")
    with pytest.raises(BadArtifact) as caught:
        opened("s3://bucket/prefix")
    assert caught.value.code == "bad_store"
    assert "aws:kmss" in caught.value.detail


@pytest.mark.parametrize("lie", LIES)
def test_a_store_that_lies_is_refused_with_the_reason(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with lying_store(lie) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(BadArtifact) as caught:
            probe(opened("s3://bucket/prefix"))
    assert caught.value.code == "store_lies"
    assert REASONS[lie] in caught.value.detail


def test_a_store_that_does_not_answer_is_probed_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(objects, "opened", lambda url, retry_s=0.0: opened(url, retry_s=0.1))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        blobs = open_blobs("s3://bucket/prefix", tmp_path)
        with blobs.receive("0" * 64) as incoming, pytest.raises(BadArtifact) as caught:
            blobs._keep(incoming.path, "0" * 64)
    assert caught.value.code == "store_unavailable"
    assert "secret-of-the-hub" not in caught.value.sentence


@pytest.mark.parametrize(
    "url",
    ["s3://", "https://bucket/x", "s3://key:secret@bucket", "s3://bucket?key=secret", "/tmp"],
)
def test_an_address_that_is_none_or_holds_credentials_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BadArtifact) as caught:
        opened(url)
    assert caught.value.code == "bad_store"
    assert "secret" not in caught.value.sentence
