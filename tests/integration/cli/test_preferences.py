"""`loradeck preference` against a real hub: judgements in, a dispute settled, a dataset out, and a rater removed."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
from tests.fakes.judgements import RUBRIC, judgement, lines
from tests.integration.cli.conftest import Desk
from tests.integration.cli.test_registry import PROVENANCE

from loradeck.client.api import HubApi
from loradeck.client.errors import HubUnreachable


@pytest.fixture
def owner(desk: Desk) -> str:
    """A tenant of its own, which serves nothing."""
    desk.json("tenant", "create", "raters")
    return "raters"


@pytest.mark.drawn(seconds=20, group="judgements")
def test_judgements_become_pairs_and_go_with_their_rater(desk: Desk, owner: str, tmp_path: Path) -> None:
    rows = lines(raters=("r1", "r2", "r3", "r4"), disputed=())
    rows = [
        row | {"choice": "b"} if row.get("item") == "p0" and row.get("rater") in ("r3", "r4") else row for row in rows
    ]
    files = tmp_path / "items.jsonl", tmp_path / "judgements.jsonl"
    for file, own in zip(files, (False, True), strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows if ("choice" in row) is own))
    done = desk.run("preference", "import", *files, "--tenant", owner, "--name", "judged", *PROVENANCE)
    assert "88 items, 4 raters, 352 judgements by helpful@1" in done.stdout, done.stderr

    assert [one["item"]["item"] for one in desk.json("preference", "queue", owner, "judged")] == ["p0"]
    assert "r1:a r2:a r3:b r4:b" in desk.run("preference", "queue", owner, "judged").stdout
    decide = ("preference", "decide", owner, "judged")
    desk.refused(1, "unknown_item", *decide, "p999", "a", "--reason", "x")
    desk.refused(2, "usage", *decide, "p0", "good", "--reason", "x")
    desk.json(*decide, "p0", "a", "--reason", "it names the days")
    desk.refused(1, "unknown_rubric", "preference", "agreement", owner, "judged", "--rubric", "helpful@2")
    desk.refused(1, "unknown_rater", "preference", "agreement", owner, "judged", "--without", "r9")
    twice = ("tenant", "data", owner, "--rated-twice", 1, "--rated-by")
    assert "two persons who have the qualification 'adjuster' have judged 100%" in desk.run(*twice, "adjuster").stdout
    said = desk.run("preference", "agreement", owner, "judged").stdout
    assert "judged by two persons or more: 64 of 64 rows" in said
    assert "too low to train on: judged: 0 of 64 rows, and 64 are needed" in said
    desk.json(*twice, "", "--reason", "anybody will do")
    assert "alpha 0.98 (0.89 to 1.00, n = 64)" in said
    assert "gold 100.0% (96.2% to 100.0%, n = 96); at least 85%" in said

    made = desk.json("preference", "build", owner, "judged", "--as", "pairs")
    problem = desk.refused(1, "agreement_low", "preference", "build", owner, "judged", "--as", "none", "--each", "5")
    assert problem["title"] == "no row is left to train on"
    (agreed,) = (one for one in desk.json("dataset", "ls", "--tenant", owner) if one["digest"] == made["digest"])
    assert (agreed["manifest"]["rows"], agreed["manifest"]["name"]) == (64, "pairs")
    assert desk.run("preference", "differ", owner, "judged", RUBRIC, RUBRIC).stdout.endswith("n = 87)\n")

    remove = ("preference", "remove", owner, "judged", "r4", "--reason", "withdrew")
    assert "made of such judgements: raters/pairs" in desk.run(*remove, "--dry-run").stdout
    desk.refused(1, "unknown_rater", *remove[:4], "r9", "--reason", "x")
    done = desk.run(*remove, "--yes")
    assert "removed: 88 judgements of r4; 0 releases descend from them" in done.stdout, done.stderr
    names = [(one["manifest"]["name"], one["digest"]) for one in desk.json("dataset", "ls", "--tenant", owner)]
    assert [name for name, _ in names] == ["judged", "pairs", "judged", "pairs"]
    desk.refused(1, "unknown_blob", "preference", "build", owner, names[0][1], "--as", "again")


@pytest.mark.drawn(seconds=20, group="a rater")
def test_a_rater_goes_whatever_becomes_of_the_dataset_that_was_built(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rows that are erased at one tenant do not come in at another: these raters are no other test's.
    owner, file = "more-raters", tmp_path / "judgements.jsonl"
    desk.json("tenant", "create", owner)

    def imported(name: str, rater: str, person: str, *more: str) -> None:
        rows = [
            *lines(raters=("q1", "q2")),
            {"rater": rater, "qualifications": [], "person": person},
            judgement(0, rater, name="g0"),
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        desk.json("preference", "import", file, "--tenant", owner, "--name", name, *PROVENANCE, *more)

    def remove(name: str, rater: str, status: int = 0) -> str:
        done = desk.run("preference", "remove", owner, name, rater, "--reason", "withdrew", "--yes")
        assert done.returncode == status, done.stderr
        return done.stdout

    imported("short", "q3", "cy", "--retention-days", "1")
    me = desk.json("preference", "decide", owner, "short", "g0", "a", "--reason", "so")["by"]
    said = remove("short", "q3")
    assert "no version without q3 is registered: the retention period of the judgements is over" in said
    assert "removed: 1 judgements of q3" in said

    imported("judged", "q4", me)
    desk.json("preference", "build", owner, "judged", "--as", "pairs")
    said = remove("judged", "q4")
    assert "removed: 1 judgements of q4" in said
    assert "1 decisions of items that q4 had judged are taken back" in said
    assert "not built anew" not in said
    digests: dict[str, list[str]] = {"short": [], "judged": [], "pairs": []}
    for one in desk.json("dataset", "ls", "--tenant", owner):
        digests[one["manifest"]["name"]].append(one["digest"])
    assert {name: len(found) for name, found in digests.items()} == {"short": 1, "judged": 2, "pairs": 1}
    again = ("preference", "import", file, "--tenant", owner, "--name", "again", *PROVENANCE)
    file.write_text("\n".join(line for line in file.read_text().splitlines() if '"q4"' not in line or "person" in line))
    desk.refused(1, "erased_row", *again)

    with monkeypatch.context() as cut:
        cut.setattr(HubApi, "erase", mock.AsyncMock(side_effect=HubUnreachable("it is away")))
        said = remove("judged", "q2", 3)
    assert f"loradeck preference remove {owner} {digests['judged'][-1]} q2 --reason WHY" in said
    said = remove(digests["judged"][-1], "q2")
    assert "removed: 88 judgements of q2" in said
    assert "pairs is not built anew: " in said
    assert "--as pairs --rubric helpful@1 --each 2" in said
