"""Names are looked for by a process of its own, batch by batch, by the model of a row's language."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.fakes.names_process import name_models
from tests.unit.artifacts.test_rows import dataset, row

from loradeck.artifacts.errors import BadArtifact
from loradeck.artifacts.rows.dataset_rows import reading_of
from loradeck.artifacts.rows.name_search import CHARACTERS, TEXTS, NameSearch
from loradeck.artifacts.rows.names_worker import digest_of
from loradeck.artifacts.rows.pseudonyms import Pseudonyms
from loradeck.cli import cli
from loradeck.schemas.dataset_ledger import NameModels

ENGLISH = "and it is what we have for you on the way to the shop"
GERMAN = "und das ist nicht die Antwort, auf die wir mit dem Team warten"


def test_a_row_is_searched_by_the_model_of_its_language(tmp_path: Path) -> None:
    rows = [{"a": "Ann Lee", "b": [ENGLISH, 4711]}, {"a": f"Ann Lee {GERMAN}"}, {"a": "Ann Lee"}, {"a": 12}]
    with NameSearch(name_models(tmp_path)) as search:
        found = search.in_rows(rows)
    assert found == [{"Ann Lee": [(0, 7)]}, {}, {"Ann Lee": [(0, 7)]}, {}]
    assert search.not_looked_for() == [
        "names in 1 rows in de",
        "names in 1 rows whose language is not recognised, but for what these models find",
    ]


def test_batches_are_bounded_and_a_long_text_is_searched_in_pieces(tmp_path: Path) -> None:
    long = f"{ENGLISH} ".ljust(CHARACTERS + 10) + "Ann Lee"
    with NameSearch(name_models(tmp_path)) as search:
        *_, last = search.in_rows([*({"a": f"{ENGLISH} {n}"} for n in range(TEXTS + 6)), {"a": long}])
    assert last == {long: [(CHARACTERS + 10, CHARACTERS + 17)]}
    batches = [line.split() for line in (tmp_path / "python.log").read_text().splitlines()]
    assert [(language, int(texts)) for language, texts, _ in batches] == [("en", n) for n in (TEXTS, 6, 1, 1)]
    assert max(int(characters) for *_, characters in batches) <= CHARACTERS


def test_a_scan_counts_rows_with_names_and_says_by_which_model(tmp_path: Path) -> None:
    rows = [row(1), row(2) | {"prompt": f"Ann Lee {ENGLISH}"}, row(3) | {"prompt": GERMAN}]
    scan = reading_of(*dataset(tmp_path, rows), names=name_models(tmp_path)).scan
    assert [(found.kind, found.where) for found in scan.findings] == [("name", ("rows.jsonl, line 2",))]
    assert scan.looked_for[-1] == "names in en, by english"
    assert "names in 1 rows in de" in scan.not_looked_for
    assert "names" not in scan.not_looked_for


def test_a_name_has_one_pseudonym_in_all_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"Ann Lee {ENGLISH}", "answer": "Ann Lee has asthma"}, {"prompt": "Ann Lee"}]
    pseudonyms = Pseudonyms(b"k" * 32, "acme")
    with NameSearch(name_models(tmp_path)) as search:
        first, second = (pseudonyms.row(row, found) for row, found in zip(rows, search.in_rows(rows), strict=True))
    assert first["prompt"] == f"{second['prompt']} {ENGLISH}"
    assert first["answer"].startswith(f"{second['prompt']} has [illness ")
    assert pseudonyms.made == {"name": 3, "illness": 1}


HANGS = "import os; os.fork(); sys.stdin.readline(); print('{', end='', flush=True); os.read(os.pipe()[0], 1)"


@pytest.mark.parametrize("then", ["", "print('{}')", "sys.stdin.readline()", HANGS])
def test_a_process_that_ends_or_hangs_is_a_fault_and_not_an_empty_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    monkeypatch.setattr("loradeck.artifacts.rows.name_search.BATCH_S", 0.5)
    with NameSearch(name_models(tmp_path, then)) as search, pytest.raises(BadArtifact) as ended:
        search.in_rows([{"a": ENGLISH}])
    assert ended.value.code == "names_unavailable"


def test_a_model_with_other_files_than_were_named_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "__pycache__").mkdir(parents=True)
    (own / "meta.json").write_text("{}")
    digest = digest_of(own)
    (own / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert digest_of(own) == digest

    def refused(model: str, sha256: str | None) -> str:
        one = {"language": "en", "model": model, "sha256": sha256}
        with pytest.raises(BadArtifact) as fault, NameSearch(NameModels.model_validate({"models": [one]})):
            pass
        assert fault.value.fix
        return fault.value.code

    assert refused(str(own), "a" * 64) == "model_differs"
    assert refused("no_such_model", None) == "names_unavailable"
    assert refused(str(tmp_path / "away"), digest) == "names_unavailable"
    (own / "ner").symlink_to(tmp_path)
    assert (digest_of(own), refused(str(own), "a" * 64)) == (digest, "names_unavailable")


def test_models_that_cannot_be_meant_are_refused() -> None:
    one = {"language": "en", "model": "english"}
    for wrong in ([one, one], [one | {"language": "xx"}], [one | {"model": "/srv/own"}], []):
        with pytest.raises(ValueError, match=r"."):
            NameModels.model_validate(json.loads(json.dumps({"models": wrong})))


def test_a_hub_does_not_start_on_a_file_of_models_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "names.toml").write_text('[[models]]\nlanguage = "en"\nmodel = "/srv/own"\n')
    done = CliRunner().invoke(cli, ["hub", "--data", str(tmp_path / "hub"), "--names", str(tmp_path / "names.toml")])
    assert done.exit_code == 2
    assert "a folder is named with the sha256 of its files" in done.output
    assert not (tmp_path / "hub").exists()
