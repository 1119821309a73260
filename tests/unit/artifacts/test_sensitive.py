"""What has the form of personal data or of a secret is found, and what only looks like it is not."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.artifacts.test_rows import dataset, row

from loradeck.artifacts.rows.barred_rows import texts_in
from loradeck.artifacts.rows.dataset_rows import reading_of
from loradeck.artifacts.rows.personal_data import (
    ADDRESS,
    BIRTH,
    ILLNESS,
    Span,
    addresses,
    births,
    iban,
    illnesses,
    kinds_in,
    luhn,
    one_form,
    personal,
    redacted,
    replaced,
    secrets,
)

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to ann.lee+desk@mail.example.org.", {"e-mail"}),
        ("user@localhost, a@b, and 3 @ 4 a piece", set()),
        ("call +49 (0)30 901820 today", {"phone"}),
        ("call 212-555-0187 or (212) 555-0187", {"phone"}),
        ("order 2125550187, version 1.2.3, 2026-11-26 05:19:03, +5 points", set()),
        ("card 4111 1111 1111 1111", {"payment card"}),
        ("card 4111-1111-1111-1112", set()),
        ("IBAN DE89 3704 0044 0532 0130 00 is mine", {"IBAN"}),
        ("GB82WEST12345698765432", {"IBAN"}),
        ("DE89 3704 0044 0532 0130 01, AB12 of shelf 4", set()),
        ("ssn 078-05-1120", {"US social security number"}),
        ("part 000-12-3456, 912-12-3456", set()),
    ],
)
def test_personal_data_is_told_by_its_form_and_check_digits(text: str, kinds: set[str]) -> None:
    assert personal(text) == kinds


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to ann.lee+desk@mail.example.org.", "write to [e-mail]"),
        ("mail ann@example.org_x now", "mail [e-mail] now"),
        ("an address with an umlaut: jürgen@müller.example", "an address with an umlaut: [e-mail]"),
        ("call +49 (0)30 901820 or (212) 555-0187", "call [number] or [number]"),
        ("card 4111 1111 1111 1111, wrong 4111-1111-1111-1112", "card [number], wrong [number]"),
        ("wide ４１１１ １１１１ １１１１ １１１１", "wide [number]"),
        ("hidden 4111\u200b1111\u200b1111\u200b1111", "hidden [number]"),
        ("ssn 078-05-1120", "ssn [number]"),
        ("IBAN DE89 3704 0044 0532 0130 00", "IBAN [IBAN]"),
        ("GB82WEST12345698765432 is mine", "[IBAN] is mine"),
        ("key AKIAIOSFODNN7EXAMPLQ", "key [key]"),
        ("use sk-0123456789abcdef0123 please", "use [key] please"),
        ("Authorization: Bearer abcdef0123456789", "Authorization: [key]"),
        ("x\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\ny", "x\n[key]\ny"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE is cut off", "[key]"),
        ('my password is hunter2, {"api_key": "abc123"}', 'my password [secret] {"api_key [secret]"}'),
        ("digest " + "0a" * 32, "digest [key]"),
        ("order 21255501, version 1.2.3, 2026-11-26 05:19:03, +5 points", None),
        ("a risk-management-plan-for-everybody, and donaudampfschifffahrtsgesellschaft", None),
    ],
)
def test_a_text_is_left_without_what_is_personal_or_secret(text: str, left: str | None) -> None:
    assert redacted(text) == (text if left is None else left)


@pytest.mark.parametrize(
    ("find", "marked"),
    [
        (births, "DOB: <12/05/1985>, ordered on 03/04/2020"),
        (births, "She was born on <May 12th, 1985>, and her shop opened in June 2015."),
        (births, "generiert am 12.05.1985; the order of 12 May 1985; stubborn on 12 May 1985"),
        (births, "<昭和60年5月12日>生まれ"),
        (addresses, "to <7b Old Mill Lane, Leeds LS14 4DT> please"),
        (addresses, "<1600 Elm Street, Springfield, IL 62704>"),
        (addresses, "<Hauptstr. 5, 50667 Köln>, und <Am Ring 3a, 10115 Berlin>"),
        (addresses, "Meine Straße 5 Minuten entlang; 24 miles of road"),
        (addresses, "ご住所は〒<105-0014 東京都港区芝3丁目12番>です"),
        (illnesses, "He has <ASTHMA> and Type 2 <diabetes>"),
        (illnesses, "Sie hat eine <Lungenentzündung>; <dépression>"),
        (illnesses, "cold, depressing, żona, goût, がんばる"),
    ],
)
def test_rows_are_searched_for_births_addresses_and_illnesses(find: Callable[[str], list[Span]], marked: str) -> None:
    text = marked.replace("<", "").replace(">", "")
    assert replaced(text, find(text), lambda found: f"<{found}>") == marked
    decomposed = one_form(unicodedata.normalize("NFD", text))
    assert replaced(decomposed, find(decomposed), lambda found: f"<{found}>") == one_form(marked)


def test_no_row_of_the_examples_has_any_of_them() -> None:
    rows = [line for file in EXAMPLES.glob("**/*.jsonl") for line in file.read_text("utf-8").splitlines()]
    assert len(rows) > 1000
    assert not [row for row in rows if kinds_in(texts_in(json.loads(row)), None) & {ADDRESS, BIRTH, ILLNESS}]


@pytest.mark.parametrize(
    "text",
    [
        "1 " + "Ab " * 20_000,
        "born 1 " * 8_000,
        "1 rue a " * 7_000,
        "a" * 60_000,
        "%" * 60_000,
        "1 " * 30_000,
        "a.b@" * 15_000,
        "-----BEGIN A" * 5_000,
        "1 " + "A-" * 30_000,
        "1 " + "A.-" * 20_000,
    ],
)
def test_no_text_takes_long_to_redact(text: str) -> None:
    began = time.process_time()
    redacted(text)
    illnesses(text)
    assert time.process_time() - began < 1.5, "the checker gives a text two seconds"


def test_secrets_are_found_anywhere_in_a_long_line_and_a_hostile_one_takes_no_minutes() -> None:
    context, detect, _ = secrets()
    assert detect is not None
    began = time.process_time()
    with context:
        assert detect("eyJ" * 40_000) == set()
        for at in (0, 4090, 8185, 12_000):
            assert detect("x " * (at // 2) + "AKIAIOSFODNN7EXAMPLQ" + " x" * 3000) == {"AWS Access Key"}
    assert time.process_time() - began < 20


def test_one_wrong_digit_breaks_a_check() -> None:
    assert luhn("4111111111111111")
    assert not any(luhn(f"411111111111111{n}") for n in range(10) if n != 1)
    assert iban("DE89370400440532013000")
    assert not any(iban(f"DE8937040044053201300{n}") for n in range(1, 10))


def test_a_scan_says_where_and_never_what_and_what_it_did_not_look_for(tmp_path: Path) -> None:
    rows = [row(1), {"messages": [{"role": "user", "content": "key AKIAIOSFODNN7EXAMPLQ"}]}, row(1) | {"id": "x"}]
    rows += [{"prompt": "I am ann@example.org", "answer": "-----BEGIN RSA PRIVATE KEY-----", "id": "bob@example.org"}]
    scan = reading_of(*dataset(tmp_path, rows)).scan
    found = {f.kind: f.where for f in scan.findings}
    assert found == {
        "AWS Access Key": ("rows.jsonl, line 2",),
        "Private Key": ("rows.jsonl, line 4",),
        "e-mail": ("rows.jsonl, line 4",),
    }
    assert (scan.rows, scan.duplicates) == (4, 1)
    assert "names" in scan.not_looked_for
    assert scan.secrets.startswith("detect-secrets 1.")
    assert not [word for word in ("AKIA", "ann@") if word in json.dumps(scan.model_dump(mode="json"))]


def test_without_the_package_a_scan_says_that_nothing_looked_for_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "detect_secrets.core.scan", None)
    scan = reading_of(*dataset(tmp_path, [{"prompt": "AKIAIOSFODNN7EXAMPLQ", "answer": "a"}])).scan
    assert (scan.findings, scan.secrets) == ((), "not looked for: pip install 'loradeck[data]'")
