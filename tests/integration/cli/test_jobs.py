"""Jobs and nodes from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fleets.waiting import wait_until
from tests.integration.cli.conftest import Desk
from tests.integration.cli.small_node import SmallNode

from loradeck.cli.shared.exits import refused
from loradeck.client.api import HubApi
from loradeck.rules.quality import run_records
from loradeck.schemas.executor import ExecutorEvent, ExecutorEventType
from loradeck.schemas.generation import GenerateSpec
from loradeck.schemas.jobs import EvaluateSpec, Job, JobRequest, JobState, MergeSpec, Scheduled, TrainSpec
from loradeck.schemas.manifest import Form, Release
from loradeck.schemas.state import NodeRow
from loradeck.schemas.table import Pin

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
SPEC = """
tenant = "{tenant}"
name = "words"
base = "{base}"
datasets = ["train"]
steps = 40
[decision]
why_weights = "tests"
"""


@pytest.fixture
def spec(desk: Desk, tenant: str, base: str, tmp_path: Path) -> Path:
    """A training specification whose base and dataset are registered."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "prompt": "p", "answer": "a"}\n')
    desk.json("dataset", "add", rows, "--tenant", tenant, "--name", "train", *PROVENANCE)
    file = tmp_path / "spec.toml"
    file.write_text(SPEC.format(tenant=tenant, base=base[:10]))
    return file


def test_a_job_is_followed_event_by_event_to_its_end(
    desk: Desk, tenant: str, spec: Path, base: str, node: SmallNode
) -> None:
    made = desk.json("adapter", "show", tenant, "words", "v3")
    node.result = {"adapter": made["digest"], "release": made["release"]}
    done = desk.run("job", "train", spec, "--follow", "--json")
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    events = [ExecutorEvent.model_validate_json(line) for line in lines]
    assert [event.type for event in events] == [
        ExecutorEventType.STARTED,
        ExecutorEventType.PROGRESS,
        ExecutorEventType.FINISHED,
    ]
    job = Job.model_validate_json(last)
    assert job.state is JobState.DONE
    assert isinstance(job.spec, TrainSpec)
    assert job.spec.base == base
    plain = desk.run("job", "follow", job.id)
    assert plain.returncode == 0
    assert "progress 20/40  loss=0.5" in plain.stdout


def test_a_sweep_trains_each_share_with_each_rank_and_compares_what_they_measured(
    desk: Desk, tenant: str, spec: Path, node: SmallNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = spec.with_name("items.jsonl")
    items.write_text('{"id": "a", "prompt": "another", "answer": "a"}\n')
    suite = ("suite", "add", items, "--tenant", tenant, "--name", "choose", "--for", "selection", *PROVENANCE)
    digest = desk.json(*suite)["digest"]
    rows = spec.with_name("talk.jsonl")
    rows.write_text('{"id": "b", "prompt": "hello", "answer": "good day"}\n')
    desk.json("dataset", "add", rows, "--tenant", tenant, "--name", "talk", *PROVENANCE)
    desk.refused(1, "invalid_request", "job", "sweep", spec, "--rank", 4)
    text = spec.read_text().replace('["train"]', '["train", "talk"]')
    spec.write_text(text + '[validation]\nsuite = "choose"\n[mixing]\ndataset = "talk"\nshare = 0.2\n')
    made = desk.json("adapter", "show", tenant, "words", "v3")
    looks = [{"suite_exact": 0.1, "suite_exact_n": 40}, {"suite_exact": 0.5}]
    looked = {"looks": looks, "chosen": {"suite_exact": 0.5, "loss": 0.25}, "chosen_step": 20, "compared": 4}
    node.result = {"adapter": made["digest"], "release": made["release"], **looked}
    grid = ("--share", 0.1, "--share", 0.3, "--rank", 4, "--rank", 8)
    sent, submit = list[Job](), HubApi.submit_job

    async def once(api: HubApi, request: JobRequest) -> Job:
        if sent:
            raise refused("the queue is full", where="here", code="queue_full")
        sent.append(await submit(api, request))
        return sent[0]

    with monkeypatch.context() as patched:
        patched.setattr(HubApi, "submit_job", once)
        done = desk.run("job", "sweep", spec, *grid)
    assert done.returncode == 1
    assert sent[0].id in done.stdout, "a job that is queued is named though a later one is refused"
    sent.clear()
    with monkeypatch.context() as patched:
        patched.setattr(HubApi, "submit_job", once)
        done = desk.run("job", "sweep", spec, *grid, "--json")
    assert [one["id"] for one in json.loads(done.stdout)] == [sent[0].id]
    runs = desk.json("job", "sweep", spec, *grid, "--follow")["runs"]
    assert [(run["share"], run["rank"], run["state"]) for run in runs] == [
        (share, rank, "done") for share in (0.1, 0.3) for rank in (4, 8)
    ]
    assert [run["compared"] for run in runs] == [4] * 4
    spoken = desk.run("job", "compare", runs[0]["job"]).stdout
    assert "50.0% (35.2% to 64.8%, n = 40), base 10.0% (4.0% to 23.1%, n = 40)" in spoken
    trained = Job.model_validate(desk.json("job", "show", runs[3]["job"])).spec
    assert isinstance(trained, TrainSpec)
    assert trained.validation is not None
    assert (trained.alpha, trained.validation.suite) == (16, digest)
    card = desk.run("adapter", "card", tenant, "words", "v3").stdout
    assert "checkpoint: after step 20, the best of 4 that were compared" in card


def test_a_worksheets_file_is_checked_before_any_arm_is_measured(
    desk: Desk, tenant: str, spec: Path, node: SmallNode
) -> None:
    items, file = spec.with_name("held.jsonl"), spec.with_name("decide.toml")
    items.write_text('{"id": "a", "prompt": "another", "answer": "a"}\n')
    desk.json("suite", "add", items, "--tenant", tenant, "--name", "held", "--for", "selection", *PROVENANCE)
    one, two = ('[[arm]]\nname = "{name}"\nrelease = "v2"\n'.replace("{name}", name) for name in ("one", "two"))
    head, prices = 'suite = "held"\nrequests_a_month = 1000\n', "[prices]\ngpu_hour = 2.0\n"
    for text, said in (
        (head + one + two, "prices"),
        (head + "month = 3\n" + prices + one + two, "month"),
        (head + prices + one, "arms"),
        (head + prices + one + one, "name"),
        (head + prices + one + two + 'sytem = "Be brief."\n', "sytem"),
    ):
        file.write_text(text)
        assert said in str(desk.refused(2, "usage", "decide", tenant, file))
    assert [one for one in desk.json("job", "ls", "--tenant", tenant) if one["kind"] == "evaluate"] == []


def test_a_recipe_of_rows_names_releases_a_teacher_and_datasets(
    desk: Desk, tenant: str, spec: Path, base: str, tmp_path: Path
) -> None:
    made = desk.json("adapter", "show", tenant, "words", "v3")
    recipe = tmp_path / "rows.toml"
    text = f"""
    tenant = "{tenant}"
    name = "more"
    beside = ["train"]
    [[templates]]
    prompt = "say {{{{word}}}}"
    [slots]
    word = ["one", "two"]
    [verifier]
    form = "text"
    judge = {{ teacher = "{base[:10]}", prompt = "{{{{prompt}}}} {{{{answer}}}}?" }}
    [[sources]]
    release = "v3"
    licence = "own"
    terms = "ann"
    """
    recipe.write_text(text)
    desk.refused(1, "no_depth", "job", "generate", recipe)
    recipe.write_text(text.replace('release = "v3"', f'teacher = "{base[:10]}"').replace('terms = "ann"', ""))
    desk.refused(1, "terms_not_accepted", "job", "generate", recipe)
    recipe.write_text(text.replace("[verifier]", "[verifier]\nleest = 1"))
    assert "leest" in desk.refused(2, "usage", "job", "generate", recipe)["title"]
    recipe.write_text(text.replace('release = "v3"', f'teacher = "{base[:10]}"'))
    job = Job.model_validate(desk.json("job", "generate", recipe))
    assert isinstance(job.spec, GenerateSpec)
    alone = Release(tenant=tenant, form=Form.BASE, base=base).id
    assert job.spec.asked == {alone: base}
    assert job.spec.verifier.judge is not None
    assert made["release"] not in job.spec.asked


def test_a_job_that_fails_is_exit_1_with_its_code(desk: Desk, spec: Path, node: SmallNode) -> None:
    node.jobs_fail = True
    done = desk.run("job", "train", spec, "--follow")
    assert done.returncode == 1
    assert "[diverged]" in done.stderr
    assert "loss is not finite" in done.stderr


def test_a_failed_run_stays_searchable_by_its_recipe_and_its_reason_and_warns_of_a_recipe_like_it(
    desk: Desk, spec: Path, node: SmallNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec.write_text(spec.read_text().replace("steps = 40", 'steps = 40\nrank = 3\nweights = "full"'))
    node.jobs_fail = True
    assert desk.run("job", "train", spec, "--follow").returncode == 1
    spec.write_text(spec.read_text().replace("rank = 3", "rank = 5"))
    assert desk.run("job", "train", spec, "--follow").returncode == 1

    def found(*words: str) -> list[int]:
        tenant = spec.read_text().split('"')[1]
        jobs = [Job.model_validate(job) for job in desk.json("job", "ls", "--tenant", tenant, *words)]
        return [job.spec.rank for job in jobs if isinstance(job.spec, TrainSpec)]

    assert found("--state", "failed") == [5, 3]
    assert found("--state", "failed", "--match", "LOSS is not finite") == [5, 3]
    assert found("--match", '"rank":3,') == [3]
    assert found("--match", "loss_spike") == found("--state", "done") == []
    warning = "runs with a learning rate of 0.001 or more: 2 of 2 (34% to 100%) ended at a cliff"
    assert "cliff" not in desk.run("job", "train", spec).stdout
    monkeypatch.setattr(run_records, "FEWEST", 2)
    assert warning in desk.run("job", "train", spec).stdout


def test_a_job_that_a_scheduler_runs_and_is_cancelled(desk: Desk, spec: Path, node: SmallNode) -> None:
    node.jobs_wait = True
    job = Job.model_validate(desk.json("job", "train", spec))
    wait_until("running", lambda: desk.json("job", "show", job.id)["state"] == "running")
    assert "queue " not in desk.run("job", "show", job.id).stdout
    lease = desk.json("job", "show", job.id)["lease"]
    node.scheduled = ((job.id, lease, Scheduled(system="slurm", id="4711", state="pending", reason="Resources")),)
    wait_until("told", lambda: "scheduled" in desk.json("job", "show", job.id))
    assert "\nqueue    slurm 4711 pending: Resources\n" in desk.run("job", "show", job.id).stdout
    desk.refused(2, "not_confirmed", "job", "cancel", job.id)
    desk.json("job", "cancel", job.id, "--yes")
    wait_until("over", lambda: desk.json("job", "show", job.id)["state"] == "cancelled")
    assert job.id in [found["id"] for found in desk.json("job", "ls")]


def test_an_evaluation_names_release_and_suite(desk: Desk, tenant: str, spec: Path) -> None:
    rows = spec.with_name("rows.jsonl")
    digest = desk.json("suite", "add", rows, "--tenant", tenant, "--name", "heldout", *PROVENANCE)["digest"]
    job = Job.model_validate(desk.json("job", "evaluate", tenant, "v2", "--suite", "heldout", "--batch", 4))
    assert isinstance(job.spec, EvaluateSpec)
    assert (job.spec.suite, job.spec.batch) == (digest, 4)
    assert job.spec.release == desk.row(tenant).pointer.release
    desk.refused(1, "unknown_suite", "job", "evaluate", tenant, "v2", "--suite", "none")


def test_a_student_is_held_against_its_teacher_by_what_an_engine_took_for_both(
    desk: Desk, tenant: str, spec: Path, node: SmallNode, tmp_path: Path
) -> None:
    suite = ("suite", "add", spec.with_name("rows.jsonl"), "--tenant", tenant, "--name", "task", *PROVENANCE)
    digest = desk.json(*suite)["digest"]
    prices = tmp_path / "prices.toml"
    prices.write_text(
        'currency = "EUR"\ndevice_hour = 3.6\ntokens_per_month = 1e8\nmade_once = 1200\nmonths = 12\n'
        "upkeep_per_month = 150\n"
    )
    build = {"engine": "vllm 0.32.0", "device": "cuda", "dtype": "bfloat16"}
    words = ("release", "payoff", tenant, "v2", "v1", "--suite", "task", "--prices", prices)
    for name, tokens in (("v1", 100), ("v2", 1000)):
        if name == "v2":
            desk.refused(1, "gate_missing", *words)
        item = {"id": "a", "answer": "a", "exact": True, "valid": True, "ms": 1000 - tokens / 2}
        counts = {"suite": digest, "n": 1, "exact": 1, "valid": 1, "items": [item], "seconds": 1.0, "engine": build}
        release = desk.json("adapter", "show", tenant, "words", name)["release"]
        node.result = {"report": counts | {"release": release, "speed": {"tokens": tokens, "seconds": 1, "at_once": 8}}}
        assert desk.run("job", "evaluate", tenant, name, "--suite", "task", "--follow").returncode == 0
    found = desk.json(*words)
    assert (found["pays"], round(found["saved"]), found["costs"]) == (True, 900, 250)
    assert (found["teacher"]["p99_ms"], found["student"]["p99_ms"], found["currency"]) == (950, 500, "EUR")
    prices.write_text(prices.read_text().replace("1e8", "1e7"))
    no = desk.run(*words)
    assert no.returncode == 1
    assert "SAVES LESS THAN IT COSTS: 90.00 (-, n = 1) saved a month, 250.00 it costs (EUR)" in no.stdout
    assert "v2  100.0% (20.7% to 100.0%, n = 1)  500 (500 to -, n = 1)  -" in no.stdout
    prices.write_text("device_hour = 1\n")
    desk.refused(2, "usage", *words)


def test_a_merge_names_an_adapters_release(desk: Desk, tenant: str) -> None:
    job = Job.model_validate(desk.json("job", "merge", tenant, "v2", "--priority", 3, "--memory-gb", 1.5))
    assert (job.priority, job.memory_gb) == (3, 1.5)
    assert isinstance(job.spec, MergeSpec)
    assert job.spec.release == desk.row(tenant).pointer.release
    desk.refused(1, "unknown_adapter", "job", "merge", tenant, "base")
    desk.refused(2, "usage", "job", "merge", tenant, "v2", "--priority", 1000)
    desk.refused(1, "unknown_release", "job", "merge", tenant, "v9")


@pytest.mark.parametrize(
    ("before", "after", "status", "code", "what"),
    [
        ('datasets = ["train"]', 'datasets = ["nope"]', 1, "unknown_dataset", "nope"),
        ("steps = 40", "steps = 0", 2, "usage", "steps"),
        ("steps = 40", "stepz = 40", 2, "usage", "stepz"),
        ("steps = 40", 'kind = "prepare"', 2, "usage", "prepare"),
        ("[decision]", "[decision", 2, "usage", "TOML"),
        ('why_weights = "tests"', "", 2, "usage", "why_weights"),
    ],
)
def test_a_specification_that_is_not_right_is_refused_and_queues_nothing(
    desk: Desk, spec: Path, before: str, after: str, status: int, code: str, what: str
) -> None:
    jobs = desk.json("job", "ls")
    text = spec.read_text()
    assert before in text
    spec.write_text(text.replace(before, after))
    problem = desk.refused(status, code, "job", "train", spec)
    assert what in problem["title"]
    assert desk.json("job", "ls") == jobs


def test_a_node_is_shown_cordoned_drained_and_taken_back(desk: Desk, node: SmallNode) -> None:
    assert node.name in [NodeRow.model_validate(row).node for row in desk.json("node", "ls")]
    assert NodeRow.model_validate(desk.json("node", "show", node.name)).replicas[0].slots == 1000
    shown = desk.run("node", "show", node.name).stdout
    assert "no GPU" in shown
    assert f"jobs on {node.name} run as its agent's own user" in shown
    assert NodeRow.model_validate(desk.json("node", "cordon", node.name, "--yes")).cordoned
    wait_until("told", lambda: node.orders[-1].cordoned)
    assert NodeRow.model_validate(desk.json("node", "drain", node.name, "--yes")).drained
    back = NodeRow.model_validate(desk.json("node", "uncordon", node.name))
    assert not back.cordoned
    assert not back.drained
    wait_until("told", lambda: not node.orders[-1].cordoned)
    desk.refused(1, "unknown_node", "node", "show", "nobody")
    desk.refused(1, "unknown_node", "node", "drain", "nobody", "--yes")


def test_a_pin_is_in_the_log_and_is_ended_by_name(desk: Desk, tenant: str, node: SmallNode) -> None:
    desk.refused(1, "not_pinned", "node", "unpin", node.name, tenant, "--yes", "--reason", "hub is back")
    entry = node.entries[tenant, "production"]
    to, left = entry.beneath[0], entry.current
    assert left is not None
    node.pins = (
        Pin(
            tenant=tenant,
            route="production",
            release=to,
            over=entry.fence,
            actor="ops",
            reason="hub away",
            at_ms=1_767_225_600_000,
            left=left.id,
        ),
    )
    wait_until("shown", lambda: "PIN" in desk.json("route", "show", tenant)["flags"])
    shown = desk.run("node", "show", node.name).stdout
    assert "hub away" in shown
    assert "ops" in shown
    (event,) = [event for event in desk.json("event", "ls", tenant, "production") if event["kind"] == "pin"]
    assert (event["from_release"], event["payload"]["release"]) == (left.id, to.id)
    line = next(line for line in desk.run("event", "ls", tenant).stdout.splitlines() if " pin " in line)
    assert f"v2 {left.id[:6]}  v1 {to.id[:6]}  ops@{node.name}" in line
    assert "PINNED to v1" in desk.run("route", "show", tenant).stdout
    result = desk.json("node", "unpin", node.name, tenant, "--yes", "--reason", "hub is back")
    assert result["events"][0]["kind"] == "unpin"
    wait_until("followed", lambda: "PIN" not in desk.json("route", "show", tenant)["flags"])


def test_the_log_is_listed_newest_first_and_its_chain_holds(desk: Desk, tenant: str) -> None:
    events = desk.json("event", "ls", tenant, "production", "--limit", 2)
    assert [event["kind"] for event in events] == ["promote", "promote"]
    assert events[0]["rev"] > events[1]["rev"]
    older = desk.json("event", "ls", f"{tenant}/production", "--before", events[1]["rev"])
    assert all(event["rev"] < events[1]["rev"] for event in older)
    verdict = desk.json("audit", "verify")
    assert (verdict["ok"], verdict["break"]) == (True, None)
    assert json.loads(desk.run("event", "list", "--limit", "1", "--json").stdout)[0]["rev"] == verdict["rev"]
