"""Bundles from the command line: from one hub to another that knows nothing of it."""

from __future__ import annotations

import stat
from pathlib import Path

from tests.fakes.handmade_gguf import write_gguf
from tests.integration.cli.conftest import Desk, write_adapter, write_base

from loradeck.artifacts import scan
from loradeck.artifacts.bundle import read_bundle, write_bundle

PROVENANCE = (
    "--source",
    "a test",
    "--tier",
    "public",
    "--origin",
    "human",
    "--consent",
    "own",
    "--licence",
    "Apache-2.0",
    "--purpose",
    "train",
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


def test_a_quantized_merge_goes_along_where_it_is_of_the_release_and_is_kept_in_a_folder(
    desk: Desk, far: Desk, base: str, tmp_path: Path
) -> None:
    desk.json("tenant", "create", "globex")
    folder = write_adapter(tmp_path / "adapter", fill=2)
    words = ("--tenant", "globex", "--name", "support", "--base", base, "--why", "tests")
    desk.json("adapter", "import", folder, *words)
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_bytes(b"merged")
    merged = desk.json("base", "add", weights, "--model-id", "globex/merged", "--revision", "1")["digest"]
    gguf, out = write_gguf(tmp_path / "merged.gguf", merged), tmp_path / "v1.bundle"
    export = ("bundle", "export", "globex", "v1", out, "--gguf")
    problem = desk.refused(1, "not_merged", *export, gguf)
    assert problem["title"].startswith(f"merged.gguf was written from {merged[:12]}")
    desk.json("release", "add", "globex", "v1", "--merged", "globex/merged")
    desk.refused(1, "not_merged", *export, write_gguf(tmp_path / "base.gguf", base))
    desk.refused(2, "bad_gguf", *export, folder / "adapter_model.safetensors")
    assert not out.exists()
    exported = desk.json(*export, gguf)
    assert exported["bytes"] == out.stat().st_size > gguf.stat().st_size

    far.json("base", "add", write_base(tmp_path / "base"), "--model-id", "tests/tiny", "--revision", "1")
    far.json("tenant", "create", "globex")
    kept, held, altered = tmp_path / "kept", tmp_path / "held", tmp_path / "altered.bundle"
    kept.mkdir()
    held.mkdir()
    whole = out.read_bytes()
    at = whole.index(b"GGUF") + gguf.stat().st_size - 40
    altered.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    far.refused(2, "digest_mismatch", "bundle", "import", altered, "--gguf", kept)
    altered.write_bytes(whole[: whole.index(b"GGUF") - 512])
    far.refused(2, "truncated_bundle", "bundle", "import", altered, "--gguf", kept)
    manifest = read_bundle(out, held)
    (one,) = manifest.gguf
    assert (one.release.merged, one.type, one.file.path) == (merged, "q8_0", "globex-v1m-q8_0.gguf")
    (tmp_path / "strange").mkdir()
    strange = write_gguf(tmp_path / "strange" / "x.gguf", "f" * 64)
    (entry,) = scan(strange.parent)
    strange.rename(held / entry.sha256)
    claimed = one.model_copy(update={"file": entry})
    forged = tmp_path / "forged.bundle"
    write_bundle(forged, manifest.model_copy(update={"gguf": (claimed,)}), held.joinpath)
    far.refused(2, "bad_gguf", "bundle", "import", forged, "--gguf", kept)
    target = kept / one.file.path
    target.write_text("another file")
    far.refused(2, "exists", "bundle", "import", out, "--gguf", kept)
    assert [path.read_text() for path in kept.iterdir()] == ["another file"]
    second = write_gguf(tmp_path / "second.gguf", merged, "f16")
    desk.json("bundle", "export", "globex", "v1", tmp_path / "two.bundle", "--gguf", second, "--gguf", gguf)
    far.refused(2, "exists", "bundle", "import", tmp_path / "two.bundle", "--gguf", kept)
    assert list(kept.iterdir()) == [target], "nor the file before it"
    target.unlink()
    assert far.json("adapter", "ls") == [], "nothing was registered by what was refused"

    said = far.run("bundle", "import", out, "--digest", exported["digest"]).stdout
    assert f"{one.file.path} was checked and not kept: --gguf FOLDER" in said
    for _ in range(2):
        assert far.json("bundle", "import", out, "--gguf", kept)["version"] == 1
        assert [path.name for path in kept.iterdir()] == [one.file.path]
        assert target.read_bytes() == gguf.read_bytes()
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert not list((far.root / "state").rglob(one.file.sha256)), "the hub has no use for it"
