"""Bundles from the command line: from one hub to another that knows nothing of it."""

from __future__ import annotations

from pathlib import Path

from tests.integration.cli.conftest import Desk, write_adapter, write_base

from loradeck.artifacts.bundle import read_bundle, write_bundle

PROVENANCE = (
    *("--source", "a test", "--tier", "public", "--origin", "human"),
    *("--consent", "own", "--licence", "Apache-2.0", "--purpose", "train"),
)


def test_an_adapter_goes_to_a_hub_without_a_network_and_nothing_is_registered_before_all_fits(
    desk: Desk, far: Desk, base: str, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "prompt": "what is asked", "answer": "what is answered"}\n')
    desk.json("tenant", "create", "acme")
    dataset = desk.json("dataset", "add", rows, "--tenant", "acme", "--name", "rows", *PROVENANCE)["digest"]
    folder = write_adapter(tmp_path / "adapter")
    words = ("--tenant", "acme", "--name", "support", "--base", base, "--why", "tests", "--dataset", dataset)
    made = desk.json("adapter", "import", folder, *words)
    key = tmp_path / "key"
    desk.json("adapter", "key", key)
    desk.json("adapter", "sign", "acme", "support", "v1", "--key", key)
    bare, whole = tmp_path / "bare.bundle", tmp_path / "whole.bundle"
    desk.json("bundle", "export", "acme", "v1", bare)
    exported = desk.json("bundle", "export", "acme", "v1", whole, "--datasets")
    assert exported["bytes"] == whole.stat().st_size
    assert desk.refused(2, "exists", "bundle", "export", "acme", "v1", whole)

    problem = far.refused(1, "wrong_base", "bundle", "import", whole)
    assert base[:6] in problem["title"]
    far.json("base", "add", write_base(tmp_path / "base"), "--model-id", "tests/tiny", "--revision", "1")
    far.refused(1, "unknown_tenant", "bundle", "import", whole)
    far.json("tenant", "create", "acme")
    far.refused(1, "unknown_dataset", "bundle", "import", bare)
    far.refused(1, "digest_mismatch", "bundle", "import", whole, "--digest", "f" * 64)
    altered = tmp_path / "altered.bundle"
    altered.write_bytes(whole.read_bytes().replace(b"what is answered", b"what is ANSWERED"))
    far.refused(2, "digest_mismatch", "bundle", "import", altered)
    desk.json("adapter", "key", tmp_path / "other")
    held, forged = tmp_path / "held", tmp_path / "forged.bundle"
    held.mkdir()
    manifest = read_bundle(whole, held)
    (signature,) = manifest.signatures
    claimed = signature.model_copy(update={"public_key": (tmp_path / "other.pub").read_text().strip()})
    write_bundle(forged, manifest.model_copy(update={"signatures": (claimed,)}), held.joinpath)
    far.refused(2, "bad_signature", "bundle", "import", forged)
    altered.write_bytes(whole.read_bytes()[:5000])
    far.refused(2, "truncated_bundle", "bundle", "import", altered)
    assert (far.json("adapter", "ls"), far.json("dataset", "ls")) == ([], [])
    assert not [path for path in (far.root / "state").rglob("*") if len(path.name) == 64], "not even a blob"

    got = far.json("bundle", "import", whole, "--digest", exported["digest"])
    assert (got["digest"], got["release"]) == (made["digest"], made["release"])
    assert [entry["digest"] for entry in far.json("dataset", "ls")] == [dataset]
    assert far.json("bundle", "import", whole)["version"] == 1, "the same again changes nothing"
    assert len(far.json("adapter", "verify", "acme", "support", "v1")) == 1, "the signature came along, and holds"
    far.refused(1, "unknown_adapter", "bundle", "export", "acme", "base", tmp_path / "no.bundle")
