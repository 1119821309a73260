"""Pseudonyms: the same for the same thing wherever it stands, by tenant and key, and the rest as it was written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from loradeck.artifacts.rows.personal_data import personal
from loradeck.artifacts.rows.pseudonyms import Pseudonyms
from loradeck.cli import cli

KEY = b"k" * 32


def replaced(text: str, key: bytes = KEY, tenant: str = "acme") -> str:
    found: str = Pseudonyms(key, tenant).row({"prompt": text})["prompt"]
    return found


def test_one_thing_has_one_pseudonym_however_it_is_written() -> None:
    assert len({replaced(said) for said in ("ann@example.org", "Ann@Example.org", "ANN@EXAMPLE.ORG")}) == 1
    assert replaced("+49 221 44 55 66 77") == replaced("+49-221-44556677")
    assert re.fullmatch(r"\[e-mail [a-z]{12}\]", replaced("ann@example.org"))


def test_a_key_behind_its_name_is_replaced_once() -> None:
    one, other = (replaced(f"token: sk-abcdefghijkl{digit}") for digit in "12")
    assert re.fullmatch(r"token: \[key [a-z]{12}\]", one)
    assert one != other


def test_another_thing_key_or_tenant_gives_another_pseudonym() -> None:
    others = [
        replaced("bob@example.org"),
        replaced("ann@example.org", b"o" * 32),
        replaced("ann@example.org", tenant="b"),
    ]
    assert len({replaced("ann@example.org"), *others}) == 4


def test_every_text_of_a_row_is_replaced_and_its_provenance_and_plain_texts_stay_as_they_are() -> None:
    row: dict[str, Any] = {
        "id": "ann@example.org",
        "messages": [{"role": "user", "content": "I am ann@example.org ½"}, {"role": "assistant", "content": "½ …"}],
        "n": 12,
        "phones": [4915112345678, True],
        "provenance": {"source": "mail@example.org"},
    }
    pseudonyms = Pseudonyms(KEY, "acme")
    found = pseudonyms.row(row)
    assert found["id"] == replaced("ann@example.org")
    assert found["messages"][0]["content"] == f"I am {found['id']} 1\u20442"
    assert found["messages"][1] == row["messages"][1]
    assert (found["n"], found["provenance"]) == (12, row["provenance"])
    assert found["phones"] == [replaced("4915112345678"), True]
    assert pseudonyms.made == {"e-mail": 2, "number": 1}
    assert not personal(json.dumps(found["messages"]))
    assert pseudonyms.row(found) == found, "nothing is replaced twice"


def test_illnesses_births_and_addresses_get_one_unless_they_are_kept() -> None:
    said = "Born 12.05.1985, 4 Mill Lane, has ASTHMA and diabetes, ordered 03.04.2020."
    whole = Pseudonyms(KEY, "acme")
    found = whole.row({"prompt": said})["prompt"]
    assert whole.made == {"illness": 2, "date of birth": 1, "postal address": 1}
    assert re.sub(" [a-z]{12}]", "]", found) == (
        "Born [date of birth], [postal address], has [illness] and [illness], ordered 03.04.2020."
    )
    assert replaced("asthma") == replaced("Asthma") != replaced("diabetes")
    assert whole.row({"prompt": found})["prompt"] == found, "nothing is replaced twice"
    kept = Pseudonyms(KEY, "acme", frozenset({"illness", "postal address", "date of birth"}))
    assert (kept.row({"prompt": said})["prompt"], kept.made) == (said, {})


def test_the_command_writes_the_same_rows_again_by_the_key_it_made(tmp_path: Path) -> None:
    rows, key = tmp_path / "rows.jsonl", tmp_path / "acme.key"
    rows.write_text('{"prompt": "ann@example.org?", "answer": "Grüße"}\n')

    def run(out: str, *more: str) -> int:
        given = [
            "dataset",
            "redact",
            str(rows),
            "--tenant",
            "acme",
            "--key",
            str(key),
            "--out",
            str(tmp_path / out),
            *more,
        ]
        return CliRunner().invoke(cli, [*given, "--out", str(tmp_path / out)]).exit_code

    assert run("none") != 0, "there is no key"
    assert (run("one", "--new-key"), run("two")) == (0, 0)
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert "Grüße" in (tmp_path / "one").read_text()
    key.chmod(0o644)
    assert run("three") != 0
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize("text", ["password: hunter2x", "Bearer abcdefgh12345678", "DE89370400440532013000"])
def test_keys_and_secrets_get_one_too(text: str) -> None:
    assert re.search(r"\[(?:key|secret|IBAN) [a-z]{12}\]", replaced(text))
