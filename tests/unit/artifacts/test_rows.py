"""Rows and their provenance: what is counted, what is refused, and how a row is found again."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from loradeck.artifacts import BadArtifact
from loradeck.artifacts.rows.barred_rows import Barred, opted_out, row_digest
from loradeck.artifacts.rows.contamination import holding
from loradeck.artifacts.rows.dataset_rows import Held, Task, entry_of, find
from loradeck.schemas.dataset_ledger import Place
from loradeck.schemas.manifest import DatasetManifest, FileEntry, Provenance

HUMAN: dict[str, Any] = {
    "source": "desk",
    "tier": "internal",
    "origin": "human",
    "consent": "own",
    "licence_class": "MIT",
    "purpose": ["train"],
}
GENERATOR = "9" * 64


def row(n: int, **own: Any) -> dict[str, Any]:
    return {"prompt": f"p{n}", "answer": f"a{n}"} | ({"provenance": own} if own else {})


def dataset(
    folder: Path, rows: list[dict[str, Any]], whole: dict[str, Any] = HUMAN, name: str = "t"
) -> tuple[DatasetManifest, dict[str, Path]]:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    files = (FileEntry(path="rows.jsonl", size=1, sha256="0" * 64),)
    provenance = Provenance.model_validate(whole)
    manifest = DatasetManifest(tenant="acme", name=name, rows=len(rows), files=files, provenance=provenance)
    return manifest, {"rows.jsonl": path}


@pytest.mark.parametrize(
    ("rows", "whole", "what"),
    [
        ([row(1)], {k: v for k, v in HUMAN.items() if k != "source"}, "source"),
        ([row(1)], {k: v for k, v in HUMAN.items() if k != "tier"}, "tier"),
        ([row(1), row(2, origin="mixed")], HUMAN, "rows.jsonl, line 2"),
        ([row(1)], HUMAN | {"origin": "mixed"}, "line 1"),
        ([row(1, licence="MIT")], HUMAN, "line 1: licence"),
        ([row(1) | {"provenance": "desk"}], HUMAN, "not a JSON object"),
        ([row(1, generator_release=GENERATOR)], HUMAN, "line 1"),
        ([row(1, synthetic_depth=1)], HUMAN, "line 1"),
        ([row(1, origin="synthetic", generator_release=GENERATOR)], HUMAN, "line 1"),
        ([row(1), row(2, origin="synthetic")], HUMAN, "line 2: synthetic rows say how deep"),
        ([row(1, origin="synthetic")], HUMAN | {"origin": "mixed"}, "line 1: synthetic rows say how deep"),
    ],
)
def test_gaps_and_contradictions_in_a_rows_provenance_are_refused_where_they_are(
    tmp_path: Path, rows: list[dict[str, Any]], whole: dict[str, Any], what: str
) -> None:
    with pytest.raises(BadArtifact) as bad:
        entry_of(*dataset(tmp_path, rows, whole))
    assert bad.value.code == "ledger_incomplete"
    assert what in str(bad.value)


def test_synthetic_rows_without_a_depth_are_refused() -> None:
    with pytest.raises(ValidationError, match="synthetic rows say how deep"):
        Provenance.model_validate(HUMAN | {"origin": "synthetic"})
    assert Provenance.model_validate(HUMAN | {"origin": "synthetic", "synthetic_depth": 0}).synthetic_depth == 0


def test_a_mixed_dataset_counts_rows_by_what_each_says(tmp_path: Path) -> None:
    rows = [
        row(1, origin="human"),
        row(2, origin="synthetic", synthetic_depth=1),
        row(3, origin="synthetic", synthetic_depth=0),
    ]
    entry = entry_of(*dataset(tmp_path, rows, HUMAN | {"origin": "mixed"}))
    assert (entry.human, entry.program, entry.model, entry.deepest) == (1, 1, 1, 1)


def test_many_sources_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    entry = entry_of(*dataset(tmp_path, [row(n, source=f"s{n:02}") for n in range(30)]))
    assert (len(entry.sources), entry.sources[0], entry.distinct_sources) == (20, "s00", 30)


def test_a_row_is_the_same_whatever_its_id_provenance_and_order_of_fields() -> None:
    assert row_digest({"prompt": "p", "answer": "a"}) == row_digest({"answer": "a", "id": "7", "prompt": "p"})
    assert row_digest(row(1)) == row_digest(row(1, source="x")) != row_digest(row(2))


def test_an_erased_row_does_not_come_back_under_another_id(tmp_path: Path) -> None:
    manifest, paths = dataset(tmp_path, [row(1), row(2) | {"id": "new"}])
    assert entry_of(manifest, paths, barred=Barred(rows={row_digest(row(3))})).rows == 2
    with pytest.raises(BadArtifact) as bad:
        entry_of(manifest, paths, barred=Barred(rows={row_digest(row(2))}))
    assert (bad.value.code, bad.value.detail) == ("erased_row", "rows.jsonl, line 2")


@pytest.mark.parametrize(
    ("own", "barred", "code"),
    [
        ({"Diagnosis": "flu"}, {"columns": ("diag*",)}, "regulated_column"),
        ({"meta": [{"ssn": "-"}]}, {"columns": ("ssn",)}, "regulated_column"),
        ({"provenance": {"source": "EHR.visits"}}, {"sources": ("ehr.*",)}, "regulated_source"),
    ],
)
def test_regulated_rows_are_refused_where_they_are(
    tmp_path: Path, own: dict[str, Any], barred: dict[str, Any], code: str
) -> None:
    manifest, paths = dataset(tmp_path, [row(1), row(2) | own])
    with pytest.raises(BadArtifact) as refused:
        entry_of(manifest, paths, barred=Barred.model_validate(barred))
    assert (refused.value.code, "line 2" in str(refused.value)) == (code, True)
    assert entry_of(manifest, paths, barred=Barred(sources=("ehr.*",), assessed=("ehr.visits",))).rows == 2


def test_rows_are_found_by_digest_and_by_text_in_every_dataset(tmp_path: Path) -> None:
    one, two = dataset(tmp_path, [row(1), row(2)], name="one"), dataset(tmp_path, [row(2), row(3)], name="two")
    held = tuple(Held(digest=manifest.digest, paths=paths) for manifest, paths in (one, two))
    found = find(Task(do="find", datasets=held, rows=(row_digest(row(2)),)))
    assert [(p.dataset, p.where) for p in found] == [
        (one[0].digest, "rows.jsonl, line 2"),
        (two[0].digest, "rows.jsonl, line 1"),
    ]
    nested = dataset(tmp_path, [{"messages": [{"role": "user", "content": "I am Ann"}], "n": 4711}], name="three")
    held = (*held, Held(digest=nested[0].digest, paths=nested[1]))
    for text, places in (("ann", 1), ("4711", 1), ("content", 0), ("Bob", 0)):
        assert len(find(Task(do="find", datasets=held, containing=text))) == places, text


LONG = "José Núñez of the third floor asks where the parcel with the blue lamp is that was to come on Monday already"


def asked(folder: Path, *texts: str, **wanted: Any) -> list[tuple[str, bool]]:
    """The lines that a search finds, and whether each is only nearly the same."""
    manifest, paths = dataset(folder, [{"prompt": text, "answer": "soon"} for text in texts])
    held = (Held(digest=manifest.digest, paths=paths),)
    found: list[Place] = find(Task.model_validate({"do": "find", "datasets": held, **wanted}))
    return [(place.where.rpartition(" ")[2], place.alike) for place in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (unicodedata.normalize("NFC", "josé núñez"), True),
        (unicodedata.normalize("NFD", "JOSÉ NÚÑEZ"), True),
        ("Jose Nunez", True),
        ("Jos\u200bé Núñez", True),
        ("José-Núñez", True),
        ("osé Nú", True),
        ("José Pérez", False),
        ("...", False),
    ],
)
def test_a_text_is_found_whatever_its_form_of_characters_case_and_signs(tmp_path: Path, text: str, found: bool) -> None:
    for form in ("NFC", "NFD"):
        lines = asked(tmp_path, unicodedata.normalize(form, LONG), "something else", containing=text)
        assert lines == ([("1", False)] if found else []), form


def test_rows_nearly_the_same_as_a_found_one_are_named_as_such(tmp_path: Path) -> None:
    texts = [LONG, LONG.upper() + "!", LONG.replace("already", "yet"), LONG.replace("lamp", "chair"), "José who?"]
    assert asked(tmp_path, *texts, rows=[row_digest({"prompt": LONG, "answer": "soon"})]) == [
        ("1", False),
        ("2", True),
        ("3", True),  # one word of twenty-two, at the end; in the middle it takes three triples, and so an eighth
    ]
    assert asked(tmp_path, *texts, containing="parcel") == [(str(line), False) for line in range(1, 5)]


@pytest.mark.parametrize(
    ("listed", "text", "refused"),
    [
        ("ann@example.org", "write to Ann@Example.org, please", True),
        ("José Núñez", unicodedata.normalize("NFD", "I am JOSÉ NÚÑEZ."), True),
        ("customer 47110815", "of customer 47110815?", True),
        ("ann@example.org", "hann@example.org", False),
        ("José Núñez", "José and Núñez", False),
        ("José Núñez", "_José Núñez_, JOSÉ_NÚÑEZ", True),
        ("José Núñez", '{"to": "\\u004aos\\u00e9\\nN\\u00fa\\u00f1ez"}', True),
        ("José Núñez", json.dumps(json.dumps({"to": json.dumps({"name": "José Núñez"})})), True),
        ("folder new york", r"C:\folder\new york", True),
        ("José Núñez", r"\ud83d\ude00 José \udc00 Núñez", True),
    ],
)
def test_rows_of_people_who_opted_out_are_refused_with_all_their_lines(
    tmp_path: Path, listed: str, text: str, refused: bool
) -> None:
    manifest, paths = dataset(tmp_path, [row(1), {"prompt": text, "answer": "a"}, {"prompt": "p", "answer": [text]}])
    barred = Barred(tenant="acme", people=frozenset([opted_out("acme", listed), opted_out("acme", "somebody else")]))
    assert entry_of(manifest, paths, barred=barred.model_copy(update={"tenant": "bolt"})).rows == 3
    if not refused:
        assert entry_of(manifest, paths, barred=barred).rows == 3
        return
    with pytest.raises(BadArtifact, match="2 rows") as error:
        entry_of(manifest, paths, barred=barred)
    assert (error.value.code, "line 2; rows.jsonl, line 3" in str(error.value)) == ("opted_out", True)
    assert listed not in barred.model_dump_json()


def test_a_person_who_opted_out_is_found_in_the_name_of_a_field() -> None:
    barred = Barred(tenant="acme", people=frozenset([opted_out("acme", "Ann Meyer")]))
    assert barred.opted_out({"prompt": "who comes?", "answer": {"Ann Meyer": "yes"}})
    assert not barred.opted_out({"prompt": "who comes?", "answer": {"Ann": "yes", "Meyer": "no"}})
    assert barred.opted_out({"prompt": "who comes?", "answer": {r"\u0041nn Meyer": "yes"}})


def test_a_search_for_an_erasure_reads_what_is_escaped_in_strings_of_json(tmp_path: Path) -> None:
    assert asked(tmp_path, json.dumps({"to": "José Núñez"}), "nobody", containing="José Núñez") == [("1", False)]


def test_an_opt_out_too_short_to_mean_one_person_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 5"):
        opted_out("acme", "Ann.")


def test_a_list_of_words_finds_them_whole_and_signs_anywhere_and_nothing_in_an_empty_text() -> None:
    holds = holding(["Bad word", "\N{REVERSED HAND WITH MIDDLE FINGER EXTENDED}"])
    found = ["a BAD, word!", "so\N{REVERSED HAND WITH MIDDLE FINGER EXTENDED}"]
    assert ([holds(one) for one in found], [holds(one) for one in ("", "...", "bad words")]) == (
        [True, True],
        [False, False, False],
    )
