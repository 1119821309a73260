"""Gates at the command line: set from TOML, shown with their figures, reviewed by name, frozen for a time."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from tests.fakes.judgements import lines
from tests.integration.cli.conftest import Desk

from incident.groundwork import GATE_FLAGS, ROUTE_FLAGS, SUITE, TENANT, TICKETS
from loradeck.client.times import MomentError, moment
from loradeck.schemas.attestation import Attestation, AttestationKind, EvaluationReport
from loradeck.schemas.route import RouteConfig

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
    "evaluate",
)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"id": f"i{n}", "prompt": f"p{n}", "answer": "a"}) + "\n" for n in range(5)))
    return file


def test_a_gate_result_is_listed_check_by_check(desk: Desk, tenant: str, rows: Path) -> None:
    suite = desk.json("suite", "add", rows, "--tenant", tenant, "--name", "judge", *PROVENANCE)["digest"]
    assert "no gate results" in desk.run("gate", "ls", tenant).stdout
    desk.json("route", "set", tenant, "--gate-suite", "judge", "--min-exact", "0.8", "--max-drop", "0")
    release = desk.json("adapter", "show", tenant, "words", "v3")["release"]
    items = [{"id": f"i{n}", "answer": "x", "exact": n < 3, "valid": True} for n in range(5)]
    report = EvaluationReport.model_validate(
        {"release": release, "suite": suite, "n": 5, "exact": 3, "valid": 5, "items": items, "seconds": 1.0}
    )
    evaluation = Attestation(
        kind=AttestationKind.EVALUATION, subject=release, tenant=tenant, body=report.model_dump(mode="json"), by=""
    )

    async def attest() -> None:
        async with desk.api() as api:
            await api.attest(evaluation)

    asyncio.run(attest())
    (found,) = desk.json("gate", "ls", tenant, "--route", "production")
    assert (found["kind"], found["subject"], found["body"]["passed"]) == ("gate", release, False)
    shown = desk.run("gate", "ls", tenant).stdout
    assert re.search(r"v3/B\d+ +- +FAILED +exact 60\.0% \(23\.1% to 88\.2%, n = 5\) FAILED, at least 80\.0%", shown), (
        shown
    )
    assert desk.json("gate", "ls", tenant, "--route", "staging") == []


GATE = """
suite = "judge"
min_exact = 0.8
max_drop = 0

[[also]]
suite = "red"
min_exact = 0.75
canaries = true
max_drop = 1.0
"""


def test_a_gate_is_set_from_toml_shown_with_its_figures_and_leaves_other_settings_alone(
    desk: Desk, tenant: str, rows: Path, tmp_path: Path
) -> None:
    for name, more in (("judge", ()), ("red", ("--canary", "i1"))):
        desk.json("suite", "add", rows, "--tenant", tenant, "--name", name, *more, *PROVENANCE)
    before = RouteConfig.model_validate(desk.json("route", "show", tenant, "--settings"))
    desk.refused(2, "no_gate", "gate", "show", tenant)
    file = tmp_path / "gate.toml"
    file.write_text(GATE)
    kept = RouteConfig.model_validate(desk.json("gate", "set", tenant, "--file", file))
    assert kept.gate is not None
    assert [part.min_exact for part in kept.gate.suites] == [0.8, 0.75]
    assert kept.model_copy(update={"gate": before.gate}) == before
    shown = desk.run("gate", "show", tenant).stdout
    assert re.search(r"judge \w{6}: exact at least 80.0%, valid at least 0.0%, drop at most 0.0%\n", shown), shown
    assert re.search(r"red \w{6}: exact at least 75.0%, valid at least 0.0%, every canary\n", shown), shown
    assert "no result yet" in shown
    assert desk.json("gate", "show", tenant)["result"] is None
    release, suites = desk.json("adapter", "show", tenant, "words", "v3")["release"], {}
    for part, right in zip(kept.gate.suites, (5, 4), strict=True):
        items = [{"id": f"i{n}", "answer": "x", "exact": n < right, "valid": True} for n in range(5)]
        suites[part.suite] = {
            "release": release, "suite": part.suite, "n": 5, "exact": right, "valid": 5, "items": items, "seconds": 1.0
        }  # fmt: skip

    async def attest() -> None:
        async with desk.api() as api:
            for body in suites.values():
                await api.attest(
                    Attestation(kind=AttestationKind.EVALUATION, subject=release, tenant=tenant, body=body, by="")
                )

    asyncio.run(attest())
    result = desk.json("gate", "show", tenant, "--release", "v3")["result"]
    assert [check["name"] for check in result["body"]["checks"] if not check["passed"]] == ["imported"]
    assert len(desk.json("gate", "ls", tenant)) == 1, "a verdict before the second suite was scored"
    shown = desk.run("gate", "show", tenant, "--release", "v3").stdout
    assert "passed  red canaries: 100.0% (20.7% to 100.0%, n = 1), at least 100.0%" in shown, shown


@pytest.mark.parametrize(
    ("text", "status", "code", "what"),
    [
        ('suite = "judge"\nmax_drop = 0.05\n', 1, "suite_too_small", "5 items, 246 are needed to see a drop of 5.0%"),
        ('suite = "judge"\nmin_exact = 0.99\nbound = true\n', 1, "suite_too_small", "299 are needed"),
        ('suite = "judge"\nmin_exact = 1.5\n', 2, "usage", "min_exact"),
        ('suite = "judge"\nsurprise = 1\n', 2, "usage", "surprise"),
        ('suite = "none"\n', 1, "unknown_suite", "'none'"),
        ('suite = "judge"\nalso = 3\n', 2, "usage", "[[also]]"),
        ('suite = "judge"\n[[also]]\nsuite = "judge"\n', 2, "usage", "twice"),
        ("suite =", 2, "usage", "gate.toml: Invalid value"),
        ('[gate]\nsuite = "judge"\n', 2, "usage", "docs/gates.md"),
    ],
)
def test_a_gate_that_cannot_stand_is_refused_and_the_one_before_it_stays(
    desk: Desk, tenant: str, rows: Path, tmp_path: Path, text: str, status: int, code: str, what: str
) -> None:
    desk.json("suite", "add", rows, "--tenant", tenant, "--name", "judge", *PROVENANCE)
    file = tmp_path / "gate.toml"
    file.write_text('suite = "judge"\nmin_exact = 0.8\nmax_drop = 0\n')
    kept = desk.json("gate", "set", tenant, "--file", file)
    file.write_text(text)
    problem = desk.refused(status, code, "gate", "set", tenant, "--file", file)
    assert what in " ".join((problem["title"], problem["detail"], problem["fix"])), problem
    assert desk.json("route", "show", tenant, "--settings") == kept


def test_a_new_gate_bounds_its_drops_by_five_points_and_one_that_stands_keeps_what_it_asks(
    desk: Desk, tenant: str, tmp_path: Path
) -> None:
    rows = tmp_path / "many.jsonl"
    rows.write_text("".join(json.dumps({"id": f"i{n}", "prompt": f"p{n}", "answer": "a"}) + "\n" for n in range(246)))
    desk.json("suite", "add", rows, "--tenant", tenant, "--name", "many", *PROVENANCE)
    file = tmp_path / "gate.toml"
    file.write_text('suite = "many"\nmin_exact = 0.8\n')
    gate = desk.json("gate", "set", tenant, "staging", "--file", file)["gate"]
    assert (gate["max_drop"], gate["bound_drop"], gate["max_age_days"]) == (0.05, True, 90)
    shown = desk.run("gate", "show", tenant, "staging").stdout
    assert "drop surely under 5.0%\n  evaluations of the last 90 days\n" in shown
    assert "anchor the first release that is attested here" in shown
    flags = ("--gate-suite", "many", "--max-drop", "0.1", "--no-bound-drop")
    gate = desk.json("route", "set", tenant, "qa", *flags)["gate"]
    assert (gate["max_drop"], "bound_drop" in gate) == (0.1, False)
    gate = desk.json("gate", "set", tenant, "qa", "--file", file)["gate"]
    assert (gate["max_drop"], "bound_drop" in gate) == (0.0, False)
    gate = desk.json("gate", "anchor", tenant, "staging", "v3")["gate"]
    assert gate["anchor"] == desk.json("adapter", "show", tenant, "words", "v3")["release"]
    assert "anchor v3/" in desk.run("gate", "show", tenant, "staging").stdout
    alone = desk.refused(1, "second_person", "gate", "anchor", tenant, "staging", "v2", "--reason", "it is newer")
    assert "gate with the anchor" in alone["detail"]


def test_a_gate_that_asks_for_an_ab_says_so_and_is_loosened_with_a_reason_only(
    desk: Desk, tenant: str, rows: Path, tmp_path: Path
) -> None:
    desk.json("suite", "add", rows, "--tenant", tenant, "--name", "judge", *PROVENANCE)
    file = tmp_path / "gate.toml"
    bare, asks = 'suite = "judge"\nmax_drop = 1.0\n', '[compare]\nfigure = "errors"\nmargin = 0.02\nkeys = 30\n'
    file.write_text(bare + asks)
    desk.json("gate", "set", tenant, "--file", file)
    shown = desk.run("gate", "show", tenant).stdout
    assert "A/B of errors: upper end under 2 points, 30 keys in each arm" in shown
    for less in (bare, bare + asks.replace("0.02", "0.05"), bare + asks.replace("errors", "bad")):
        file.write_text(less)
        problem = desk.refused(1, "reason_required", "gate", "set", tenant, "--file", file)
        assert "A/B" in problem["detail"]


def test_the_demos_gate_stands_on_the_suite_that_it_is_for(desk: Desk, base: str) -> None:
    desk.json("tenant", "create", TENANT)
    desk.json("suite", "add", TICKETS / TENANT / f"{SUITE}.jsonl", "--tenant", TENANT, "--name", SUITE)
    flags = ("--file", TICKETS / TENANT / "route.toml", *ROUTE_FLAGS, *GATE_FLAGS, "--yes")
    assert desk.json("route", "set", TENANT, *flags)["gate"]["max_drop"] > 0


# ---- reviews ---------------------------------------------------------------------------------------------


@pytest.fixture
def candidate(desk: Desk, tenant: str, rows: Path, tmp_path: Path) -> str:
    """v3, reported on a suite whose gate wants three answers looked at."""
    suite = desk.json("suite", "add", rows, "--tenant", tenant, "--name", "judge", *PROVENANCE)["digest"]
    file = tmp_path / "gate.toml"
    file.write_text('suite = "judge"\nmax_drop = 1.0\n[review]\nitems = 3\n')
    desk.json("gate", "set", tenant, "--file", file)
    release: str = desk.json("adapter", "show", tenant, "words", "v3")["release"]
    items = [{"id": f"i{n}", "answer": f"\x1b[31manswer {n}", "exact": n > 0, "valid": True} for n in range(5)]
    body = {"release": release, "suite": suite, "n": 5, "exact": 4, "valid": 5, "items": items, "seconds": 1.0}

    async def attest() -> None:
        async with desk.api() as api:
            await api.attest(
                Attestation(kind=AttestationKind.EVALUATION, subject=release, tenant=tenant, body=body, by="")
            )

    asyncio.run(attest())
    return release


def test_answers_are_looked_at_and_signed_for_by_name(desk: Desk, tenant: str, candidate: str, tmp_path: Path) -> None:
    sheet = desk.json("gate", "review", tenant, "v3", "--show")
    assert (sheet["release"], len(sheet["items"]), sheet["signed"]) == (candidate, 3, [])
    shown = desk.run("gate", "review", tenant, "v3", "--show").stdout
    assert re.search(r"1 of 3  i\d.*\n  user +p\d\n  wanted    a\n  answered  .*answer \d", shown), shown
    assert "\x1b" not in shown
    verdicts = tmp_path / "verdicts.jsonl"

    def say(bad: int) -> None:
        rows = [
            {"id": item["id"], "good": n >= bad, "note": "rude" * (n < bad)} for n, item in enumerate(sheet["items"])
        ]
        verdicts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    say(bad=1)
    result = desk.json("gate", "review", tenant, "v3", "--verdicts", verdicts, "--note", "before lunch")
    assert [check["passed"] for check in result["checks"] if check["name"] == "review"] == [False]
    say(bad=0)
    told = desk.run("gate", "review", tenant, "v3", "--verdicts", verdicts)
    alone = r"FAILED  review: signed off by \S+, who had it made; somebody else must sign, too\n"
    lot = r"of those by lot 0.0% \(0.0% to 56.1%, n = 3\)\n  "
    assert re.search(rf"signed: 0 of 3 bad; {lot}{alone}", told.stdout), told
    signed = desk.json("gate", "review", tenant, "v3", "--show")["signed"]
    assert [(one["bad"], one["lot"]) for one in signed] == [(1, [1, 3]), (0, [0, 3])]
    assert re.search(alone, desk.run("gate", "show", tenant).stdout)


def test_a_review_that_nobody_looked_at_or_that_does_not_fit_is_refused(
    desk: Desk, tenant: str, candidate: str, tmp_path: Path
) -> None:
    desk.refused(2, "not_confirmed", "gate", "review", tenant, "v3")
    verdicts = tmp_path / "verdicts.jsonl"
    verdicts.write_text('{"id": "i0", "good": true}\n')
    desk.refused(1, "bad_review", "gate", "review", tenant, "v3", "--verdicts", verdicts)
    verdicts.write_text('{"id": "i0", "good": "perhaps"}\n')
    assert "good" in desk.refused(2, "usage", "gate", "review", tenant, "v3", "--verdicts", verdicts)["title"]
    assert desk.json("gate", "review", tenant, "v3", "--show")["signed"] == []


# ---- freeze windows --------------------------------------------------------------------------------------


def test_a_route_is_frozen_for_a_time_and_thawed(desk: Desk, tenant: str) -> None:
    desk.json("gate", "freeze", tenant, "--from", "2020-12-24T19:00+01:00", "--until", "2199-01-02T07:00Z")
    told = desk.run("gate", "freeze", tenant, "--from", "2198-01-01T00:00Z", "--until", "2198-01-02T00:00Z").stdout
    assert told == f"nothing is promoted on {tenant}/production from 2198-01-01 00:00:00Z to 2198-01-02 00:00:00Z\n"
    kept = RouteConfig.model_validate(desk.json("route", "show", tenant, "--settings"))
    assert [start for start, _ in kept.freeze] == [1_608_832_800_000, 7_195_046_400_000]
    problem = desk.refused(1, "frozen", "promote", tenant, "v3", "--yes")
    assert problem["detail"] == "2020-12-24 18:00 UTC to 2199-01-02 07:00 UTC"
    assert desk.run("rollback", tenant, "--yes").returncode == 0, "a freeze window is in nobody's way back"
    assert desk.json("gate", "thaw", tenant)["freeze"] == []
    desk.refused(2, "no_change", "gate", "thaw", tenant)


@pytest.mark.parametrize(
    ("start", "end", "code"),
    [
        ("2198-01-02T00:00Z", "2198-01-01T00:00Z", "usage"),
        ("2198-01-02T00:00", "2198-01-03T00:00Z", "no_zone"),
        ("tomorrow", "2198-01-03T00:00Z", "usage"),
    ],
)
def test_a_window_without_a_zone_or_the_wrong_way_round_is_refused(
    desk: Desk, tenant: str, start: str, end: str, code: str
) -> None:
    desk.refused(2, code, "gate", "freeze", tenant, "--from", start, "--until", end)
    assert desk.json("route", "show", tenant, "--settings")["freeze"] == []


@pytest.mark.parametrize(
    ("freeze", "code"),
    [
        ("[[freeze]]\nfrom = 2198-01-01T00:00:00Z\nuntil = 2198-01-02T00:00:00+01:00\n", ""),
        ("[[freeze]]\nfrom = 2198-01-01T00:00:00\nuntil = 2198-01-02T00:00:00Z\n", "no_zone"),
        ('[[freeze]]\nfrom = "2198-01-01T00:00:00Z"\nuntil = 2198-01-02T00:00:00Z\n', "usage"),
        ("[[freeze]]\nfrom = 2198-01-03T00:00:00Z\nuntil = 2198-01-02T00:00:00Z\n", "usage"),
        ("[[freeze]]\nfrom = 2198-01-03T00:00:00Z\n", "usage"),
        ("freeze = 3\n", "usage"),
    ],
)
def test_freeze_windows_stand_in_the_gates_file(
    desk: Desk, tenant: str, rows: Path, tmp_path: Path, freeze: str, code: str
) -> None:
    desk.json("suite", "add", rows, "--tenant", tenant, "--name", "judge", *PROVENANCE)
    file = tmp_path / "gate.toml"
    file.write_text(f'suite = "judge"\nmax_drop = 0\n{freeze}')
    if code:
        desk.refused(2, code, "gate", "set", tenant, "--file", file)
        return
    assert desk.json("gate", "set", tenant, "--file", file)["freeze"] == [[7_195_046_400_000, 7_195_129_200_000]]
    file.write_text('suite = "judge"\nmin_exact = 0.5\nmax_drop = 0\n')
    assert len(desk.json("gate", "set", tenant, "--file", file)["freeze"]) == 1, "a file without any leaves them"


NOW = 1_767_225_600_000  # 2026-01-01 00:00Z


@pytest.mark.parametrize(
    ("text", "ahead", "expected"),
    [
        ("14:00Z", True, NOW + 14 * 3_600_000),
        ("14:00Z", False, NOW - 10 * 3_600_000),
        ("2026-02-01T00:00Z", True, NOW + 31 * 86_400_000),
        ("20m ago", True, NOW - 1_200_000),
    ],
)
def test_a_time_to_come_is_taken_where_one_is_asked_for(text: str, ahead: bool, expected: int) -> None:
    assert moment(text, now_ms=NOW, zoneless=False, ahead=ahead) == expected
    if expected > NOW:
        with pytest.raises(MomentError):
            moment("2026-02-01T00:00Z", now_ms=NOW, zoneless=False)


def test_what_callers_may_ask_of_a_route_is_set_from_toml_and_its_change_is_listed(
    desk: Desk, tenant: str, tmp_path: Path
) -> None:
    file = tmp_path / "route.toml"
    file.write_text('[callers]\nrequests_per_minute = 600\nparameters = ["priority"]\n')
    said = desk.run("route", "set", tenant, "--file", file, "--yes").stdout
    assert re.search(r"callers: None -> .*'requests_per_minute': 600", said), said
    kept = RouteConfig.model_validate(desk.json("route", "show", tenant, "--settings"))
    assert (kept.callers.requests_per_minute, kept.callers.parameters) == (600, ("priority",))
    file.write_text("[soak]\nseconds = 600\n")
    said = desk.run("route", "set", tenant, "--file", file, "--yes").stdout
    assert re.search(r"callers: .*'requests_per_minute': 600.* -> None", said), said
    assert "callers" not in desk.json("route", "show", tenant, "--settings")


def test_a_judge_is_named_by_its_label(desk: Desk, tenant: str, tmp_path: Path) -> None:
    file = tmp_path / "route.toml"
    file.write_text('[checks.judge]\nrubric = "It is polite."\nrelease = "v3"\n')
    desk.json("tenant", "data", tenant, "--use", "judge=quality", "--reason", "they agreed")
    kept = RouteConfig.model_validate(desk.json("route", "set", tenant, "qa", "--file", file, "--yes"))
    assert kept.checks.judge is not None
    assert (kept.checks.judge.release or "")[:6] in desk.run("release", "ls", tenant).stdout
    file.write_text('[checks.judge]\nrubric = "It is polite."\nrelease = "v33"\n')
    desk.refused(1, "unknown_release", "route", "set", tenant, "qa", "--file", file, "--yes")


def test_the_glass_is_broken_on_the_hubs_host_and_the_route_is_red_until_somebody_else_countersigns(
    desk: Desk, tenant: str, rows: Path, tmp_path: Path
) -> None:
    desk.json("suite", "add", rows, "--tenant", tenant, "--name", "judge", *PROVENANCE)
    strict, loose = tmp_path / "strict.toml", tmp_path / "loose.toml"
    strict.write_text('suite = "judge"\nmin_exact = 0.8\nmax_drop = 0\n[review]\nitems = 2\npeople = 2\n')
    loose.write_text('suite = "judge"\nmin_exact = 0.1\nmax_drop = 0\n')
    desk.json("gate", "set", tenant, "--file", strict)
    change = ("gate", "set", tenant, "--file", loose, "--yes")
    assert "--break-glass" in desk.refused(1, "second_person", *change, "--reason", "it burns")["fix"]
    token = ("--hub", desk.url, "--token-file", desk.token("releaser"))
    desk.refused(6, "local_only", *change, "--break-glass", "it burns", *token)
    desk.json(*change, "--break-glass", "it burns")
    (alone,) = desk.row(tenant).alone
    assert (alone.reason, "GLASS" in desk.run("--once").stdout) == ("it burns", True)
    desk.refused(1, "second_person", "event", "countersign", alone.event, "--yes")
    said = desk.run("event", "countersign", alone.event[:8], "--reason", "seen", "--yes", *token)
    assert "route by" in said.stdout, said
    assert desk.row(tenant).alone == ()
    desk.refused(1, "refused", "event", "countersign", alone.event, "--yes", *token)


def test_a_gates_judge_is_named_and_asked_for_by_names(desk: Desk, tenant: str, rows: Path, tmp_path: Path) -> None:
    suite = desk.json("suite", "add", rows, "--tenant", tenant, "--name", "open", *PROVENANCE)["digest"]
    release = desk.json("adapter", "show", tenant, "words", "v3")["release"]
    desk.refused(2, "no_gate", "job", "judge", tenant, "v3")
    file, judge = tmp_path / "gate.toml", '[judge]\nsuite = "open"\nrubric = "It is kind."\nrelease = "v3"\n'
    file.write_text(f'suite = "open"\nmax_drop = 1\n{judge}min_passed = 0.5\n')
    problem = desk.refused(1, "judge_not_known", "gate", "set", tenant, "--file", file)
    assert "loradeck preference import" in problem["fix"]
    ratings = tmp_path / "ratings.jsonl"
    ratings.write_text("".join(json.dumps(row) + "\n" for row in lines()))
    desk.json("preference", "import", ratings, "--tenant", tenant, "--name", "ratings", *PROVENANCE)
    file.write_text(f'suite = "open"\nmax_drop = 1\n{judge}people = ["ratings"]\nmin_passed = 0.5\n')
    desk.json("gate", "set", tenant, "--file", file)
    shown = desk.run("gate", "show", tenant).stdout
    assert re.search(r"judged by v3/B\d+ on open, where it agrees with people: at least 50.0% passed", shown), shown
    spec = desk.json("job", "judge", tenant, "v3")["spec"]
    assert (spec["kind"], spec["release"], spec["judge"]["release"], spec["judge"]["suite"]) == (
        "judge",
        release,
        release,
        suite,
    )


def test_what_people_sign_and_who_has_opted_out_is_asked_by_command(desk: Desk, tenant: str, tmp_path: Path) -> None:
    sign = ("tenant", "assess", tenant, "--source", "crm.*", "--reference", "DPIA-12")
    me = desk.refused(6, "forbidden", *sign)["detail"].split(";")[0]
    limits = ("--regulated-column", "diagnosis", "--assess-tier", "restricted")
    listed = tmp_path / "list.toml"
    toxic = ("--toxic-list", listed, "--toxic-cap", 0.01)
    listed.write_text('name = "house list 3"\nwords = [" ", "damn you"]\n')
    desk.refused(2, "usage", "tenant", "data", tenant, *toxic)
    listed.write_text('name = "house list 3"\nwords = ["🖕", "damn you"]\n')  # signs count wherever they stand
    done = desk.run("tenant", "data", tenant, "--assessor", me, *limits, *toxic, "--reason", "law")
    assert f"{me} sign impact assessments, for restricted rows" in done.stdout
    assert "at most 1.0% of a dataset's rows hold a word of 'house list 3'" in done.stdout
    assert "is signed for train" in desk.run(*sign).stdout
    people, data = tmp_path / "people.txt", tmp_path / "data.jsonl"
    data.write_text('{"prompt": "ANN@example.org asks", "answer": "a"}\n')
    people.write_text("ann@example.org\nAnn\n")
    desk.refused(2, "usage", "tenant", "opt-out", tenant, people, "--reason", "request 12")
    people.write_text("ann@example.org\n")
    opt_out = ("tenant", "opt-out", tenant, people, "--reason", "request 12")
    assert desk.run(*opt_out).stdout == "rows of 1 people do not come in\n"
    given = ("dataset", "add", data, "--tenant", tenant, "--name", "rows", "--accept-findings", "agreed", *PROVENANCE)
    more = ("--source", "crm.visits", "--tier", "restricted", "--quality", "gold", "--known-biases", "mostly English")
    assert desk.refused(1, "opted_out", *given, *more)["detail"] == "data.jsonl, line 1"
    assert desk.run(*opt_out, "--withdraw").returncode == 0
    desk.json(*given, *more)
    assert " gold " in desk.run("dataset", "ls", "--tenant", tenant).stdout
    none = ("--assessor", "", "--assess-tier", "", "--regulated-column", "", "--toxic-list", "", "--toxic-cap", 1)
    cleared = desk.run("tenant", "data", tenant, *none, "--reason", "over")
    assert cleared.returncode == 0
    assert not [word for word in ("regulated", "sign", "house list") if word in cleared.stdout]

    desk.json("route", "set", tenant, "--stakeholder", me)
    desk.refused(1, "not_acknowledged", "promote", tenant, "v3", "--yes")
    done = desk.run("gate", "acknowledge", tenant, "v3", "--yes")
    assert done.returncode == 0, done.stderr
    assert "Adapter: digest" in done.stdout
    assert desk.run("promote", tenant, "v3", "--yes").returncode == 0
