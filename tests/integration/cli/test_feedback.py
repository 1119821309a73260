"""`loradeck feedback` against a real hub: imported, listed and erased."""

from __future__ import annotations

import json

from tests.integration.cli.conftest import Desk
from tests.integration.cli.small_node import SmallNode


def test_feedback_is_imported_listed_and_erased(desk: Desk, tenant: str, node: SmallNode) -> None:
    rows = [
        {"request": "r-1", "kind": "thumb", "value": "down"},
        {"request": "r-2", "kind": "correction", "text": "Ask jo@example.org instead."},
    ]
    file = desk.root / "feedback.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = desk.run("feedback", "import", tenant, file, "--route", "production")
    assert done.returncode == 1
    assert f"{tenant} keeps no feedback" in done.stderr
    assert desk.run("tenant", "data", tenant, "--feedback-days", "30", "--reason", "asked").returncode == 0
    done = desk.run("feedback", "import", tenant, file, "--route", "production")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 rows are kept, 2 of them wait for the answer ledger\n"

    assert desk.run("feedback", "ls", tenant).stdout == "no feedback\n"
    waiting = desk.json("feedback", "ls", tenant, "--waiting")
    assert [(one["request"], one["text"]) for one in waiting] == [("r-1", ""), ("r-2", "Ask [e-mail] instead.")]
    done = desk.run("feedback", "erase", tenant, "--containing", "ASK", "--yes")
    assert done.stdout == "1 rows are removed\n"
    assert desk.run("feedback", "erase", tenant, "--yes").returncode == 2


def test_a_malformed_file_is_refused_with_its_row_and_nothing_is_imported(
    desk: Desk, tenant: str, node: SmallNode
) -> None:
    file = desk.root / "bad.jsonl"
    file.write_text('{"request": "r-1", "kind": "thumb", "value": "up"}\n{"request": "r-2", "kind": "thumb"}\n')
    done = desk.run("feedback", "import", tenant, file, "--route", "production")
    assert done.returncode == 2
    assert "row 2" in done.stderr
    assert "up or down" in done.stderr
