"""Every estimate that is shown has its n and its interval: whoever formats a figure by itself says here why it may.

`rules.quality.figures` is the one place where estimates become words. Two tests look for others: one in the source, at
every format of a percentage and, where figures of samples are shown, of a decimal fraction; one at what is said.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loradeck.client.candidate_words import arms_in_words
from loradeck.client.job_words import metrics_in_words
from loradeck.rules.data.policy import toxic_in_words
from loradeck.rules.quality import decision, figures, review, run_records, steps
from loradeck.rules.quality.freshness import Day, compared
from loradeck.schemas.attestation import CheckResult
from loradeck.schemas.candidate import ArmsCompared
from loradeck.schemas.dataset_ledger import ScanReport
from loradeck.schemas.decision import ArmFigures
from loradeck.schemas.freshness import Figure, MeterKind
from loradeck.schemas.jobs import Job, Looked
from loradeck.schemas.preference import Agreement, Counted
from loradeck.schemas.review import SignedReview

ROOT = Path(__file__).parents[2]

OF_SAMPLES = (
    "console/loradeck/cli/commands/backlog.py",
    "console/loradeck/cli/commands/candidate.py",
    "console/loradeck/cli/commands/decide.py",
    "console/loradeck/cli/commands/freshness.py",
    "console/loradeck/cli/commands/gate.py",
    "console/loradeck/cli/commands/job.py",
    "console/loradeck/cli/commands/loop.py",
    "console/loradeck/cli/commands/preference.py",
    "console/loradeck/cli/commands/release.py",
    "console/loradeck/cli/shared/model_card.py",
    "console/loradeck/client/candidate_words.py",
    "console/loradeck/client/job_words.py",
    "console/loradeck/client/loop_words.py",
    "console/loradeck/rules/data",
    "console/loradeck/rules/quality",
    "console/loradeck/tui/lines/campaigns.py",
    "console/loradeck/tui/lines/capacity.py",
    "console/loradeck/tui/lines/jobs.py",
    "console/loradeck/tui/lines/lineage.py",
    "console/loradeck/tui/lines/loop.py",
    "console/loradeck/tui/lines/registry.py",
    "console/loradeck/tui/lines/review_sheet.py",
)
"""Where figures of samples are shown: there a decimal fraction has to say why it stands alone, too."""

SETTING = "what somebody set, or a bound that a suite can tell"
COUNTED = "counted of all there is, with how many that are: rows of a dataset, requests of a time"
SHOWN = "its n and interval stand beside it"
LIST = "a list of the incident screen: all requests of the last minute; the pane and `route show` have n"
GUARD = "a guard ended the run by a test over its items; the look itself has n and interval"
ONE = "measured of one thing: a run, a step, a file, a time"

MAY_STAND_ALONE = {
    "agents/loradeck_agent/executors/leak.py": {"NEAR": SETTING},
    "agents/loradeck_agent/executors/training/guards.py": {"fall": ONE, "self._guards.chosen_drop": SETTING},
    "agents/loradeck_agent/executors/training/validation.py": {
        "self.now": GUARD,
        "self.before": GUARD,
        "limit": SETTING,
        "now": GUARD,
        "before": GUARD,
        "self.settings.worse": SETTING,
    },
    "agents/loradeck_agent/executors/training/training_rows.py": {"structure.negatives": SETTING},
    "console/loradeck/cli/commands/candidate.py": {"out.lease_s": SETTING, "share": SETTING},
    "console/loradeck/cli/commands/decide.py": {"arm.bytes / 1000000.0": ONE, "arm.train_hours": ONE},
    "console/loradeck/cli/commands/freshness.py": {"meter.p": SHOWN},
    "console/loradeck/cli/commands/gate.py": {
        "gate.leak.max_increase": SETTING,
        "part.min_exact": SETTING,
        "part.min_valid": SETTING,
        "by.min_passed": SETTING,
        "by.max_drop": SETTING,
        "part.max_drop": SETTING,
        "100 * ab.margin": SETTING,
        "part.max_p95_ms": SETTING,
        "check.p": SHOWN,
    },
    "console/loradeck/cli/commands/job.py": {"run.share": SETTING},
    "console/loradeck/cli/commands/preference.py": {"GOLD_FLOOR": SETTING},
    "console/loradeck/cli/commands/release.py": {"found.bound": SHOWN, "value": ONE},
    "console/loradeck/cli/commands/tenant.py": {
        "policy.synthetic_cap": SETTING,
        "policy.rated_twice": SETTING,
        "policy.toxic_cap": SETTING,
    },
    "console/loradeck/cli/shared/model_card.py": {"run.gpu_hours": ONE, "ones": COUNTED, "twos": COUNTED},
    "console/loradeck/client/candidate_words.py": {
        "bad / n": SHOWN,
        "100 * low": SHOWN,
        "100 * high": SHOWN,
        "100 * found.value": SHOWN,
        "100 * found.low": SHOWN,
        "100 * found.high": SHOWN,
        "permille / 10": SETTING,
        "100 * plan.margin": SETTING,
        "plan.min_s / 60": SETTING,
        "load.requests_per_s": COUNTED,
        "load.tokens_per_s": COUNTED,
    },
    "console/loradeck/client/capacity_words.py": {"figure": COUNTED},
    "console/loradeck/client/post_mortem.py": {"part": "a mark of the chart's scale"},
    "console/loradeck/client/node_words.py": {"1 - min(1, (cold.cold + cold.refused) / cold.asked)": COUNTED},
    "console/loradeck/rules/data/policy.py": {
        "found.rows / scan.rows": COUNTED,
        "by_model / rows": COUNTED,
        "deep / rows": COUNTED,
        "policy.toxic_cap": SETTING,
        "policy.synthetic_cap": SETTING,
        "cap": SETTING,
        "(now_ms - kept.at_ms) / DAY_MS": ONE,
    },
    "console/loradeck/rules/data/preferences.py": {"GOLD_FLOOR": SETTING, "kept_ms / DAY_MS": ONE},
    "console/loradeck/rules/quality/cause.py": {"k / bad": COUNTED},
    "console/loradeck/rules/quality/comparison.py": {
        "part.max_drop": SETTING,
        "100 * (1 - alpha)": SETTING,
        "carried": SETTING,
        "bound": SHOWN,
        "ps[worst]": SHOWN,
        "p": SHOWN,
    },
    "console/loradeck/rules/quality/figures.py": {"value": ONE, "end": SHOWN},
    "console/loradeck/rules/quality/gate_judge.py": {"floor": SETTING, "raw": SHOWN},
    "console/loradeck/rules/quality/gates.py": {
        "sure": SHOWN,
        "threshold": SETTING,
        "best": SETTING,
        "carried": SETTING,
        "part.min_exact": SETTING,
        "part.min_valid": SETTING,
        "part.max_drop": SETTING,
    },
    "console/loradeck/rules/quality/guard.py": {"votes[0] / votes[1]": COUNTED},
    "console/loradeck/rules/quality/notices.py": {"refused": COUNTED},
    "console/loradeck/rules/quality/decision.py": {"self.costs": SETTING},
    "console/loradeck/rules/quality/health.py": {"self.share": COUNTED},
    "console/loradeck/rules/quality/leak.py": {"config.max_increase": SETTING},
    "console/loradeck/rules/quality/promises.py": {"part / whole": COUNTED, "share": SETTING},
    "console/loradeck/rules/quality/run_records.py": {
        "low": SHOWN,
        "high": SHOWN,
        "spec.learning_rate": SETTING,
        "spec.beta": SETTING,
    },
    "console/loradeck/rules/quality/steps.py": {
        "100 * found.high": SHOWN,
        "around.since_s / 60": ONE,
        "plan.min_s / 60": SETTING,
        "100 * plan.margin": SETTING,
    },
    "console/loradeck/rules/serving/training_proof.py": {"apart": ONE, "APART": SETTING},
    "console/loradeck/schemas/flag.py": {"self.bad / self.n": COUNTED},
    "console/loradeck/schemas/attestation.py": {"value": SHOWN},
    "console/loradeck/tui/key_checks/decide.py": {"check.value": LIST, "check.threshold": SETTING},
    "console/loradeck/tui/key_checks/rollback.py": {"counts.bad / counts.checked": COUNTED},
    "console/loradeck/tui/lines/tenants.py": {
        "row.error_share if heard else None": LIST,
        "row.bad_before if fresh else None": LIST,
        "row.bad_now if fresh else None": LIST,
    },
    "console/loradeck/tui/lines/campaigns.py": {
        "plan.tolerated": SETTING,
        "hours": ONE,
        "one.plan.gpu_hours": SETTING,
    },
    "console/loradeck/tui/lines/jobs.py": {
        "known[max(known)]": ONE,
        "speed": ONE,
        "spec.learning_rate": SETTING,
    },
    "console/loradeck/tui/lines/preview.py": {"low": LIST, "high": LIST, "share": COUNTED, "late / n": COUNTED},
    "console/loradeck/tui/lines/registry.py": {
        "check.p": SHOWN,
        "size / 1000.0": ONE,
        "size / 1000000.0": ONE,
        "size / 1000000000.0": ONE,
    },
    "console/loradeck/tui/lines/rollback_panel.py": {"row.bad_now": COUNTED, "row.bad_before": LIST},
    "console/loradeck/tui/lines/trend.py": {"now": LIST},
    "console/loradeck/tui/model/hardware_history.py": {"gpu.memory_used": ONE, "host.memory_used": ONE},
}
"""File -> what it formats by itself -> why that may stand without an n and an interval."""

PERCENT = frozenset({"percent", "_percent"})
"""Functions that write a share without either."""


def formatted(path: Path) -> Iterator[str]:
    """What a file formats as a percentage; where figures of samples are shown, as a decimal fraction as well."""
    name = path.relative_to(ROOT).as_posix()
    fractions = any(name == one or name.startswith(f"{one}/") for one in OF_SAMPLES)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            spec = ast.unparse(node.format_spec)[2:-1]
            if re.fullmatch(r".*\d%|\{form\}", spec) or (fractions and re.fullmatch(r"[+,]*(\.\d)?[efg]", spec)):
                yield ast.unparse(node.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):  # of str.format
            yield from re.findall(r"\{(\w+):\.\d%\}", node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PERCENT:
            yield ast.unparse(node.args[0])


def test_whoever_formats_a_share_by_itself_says_why_it_needs_no_n_and_no_interval() -> None:
    found = {}
    for folder in ("console", "agents"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if parts := dict.fromkeys(formatted(path)):
                found[path.relative_to(ROOT).as_posix()] = set(parts)
    known = {name: set(parts) for name, parts in MAY_STAND_ALONE.items()}
    new = {name: sorted(parts - known.get(name, set())) for name, parts in found.items()}
    gone = {name: sorted(parts - found.get(name, set())) for name, parts in known.items()}
    assert not {name: parts for name, parts in new.items() if parts}, "rules.quality.figures has n and interval"
    assert not {name: parts for name, parts in gone.items() if parts}, "it is not there any more"


def bare(text: str) -> list[str]:
    """The percentages of a text that have no n and interval behind them."""
    outside = re.sub(r"\([^()]*\bn (= [\d,]+|unknown)\)", "(*)", text)
    return re.findall(r"-?\d+(?:\.\d+)?%(?! \(\*\))", outside)


ARM: dict[str, Any] = {
    "release": "a" * 64,
    "arm": "b" * 64,
    "contexts": False,
    "tokens_in": 10,
    "tokens_out": 5,
    "p95_ms": decision.p95([float(ms) for ms in range(100, 140)]),
    "engine": "embedded",
    "cost": 1.5,
    "cost_of": Figure(mean=1.5, low=1.25, high=1.75, n=40),
}
PROMPT, TUNED = (
    ArmFigures(name=name, label=name, weights=name == "tuned", right=Figure(mean=0.5, low=0.4, high=0.6, n=40), **ARM)
    for name in ("prompt", "tuned")
)
RIGHT = {name: {str(n): n < right for n in range(40)} for name, right in (("prompt", 10), ("tuned", 30))}
CHECK = CheckResult(name="exact", passed=True, value=0.9, threshold=0.8, n=40, low=0.8, high=0.95)
SIGNED = SignedReview(by="op1", at_ms=1, bad=3, n=20, current=True, lot=(1, 10))
DAYS = [Day(day, 0.5 if day > 13 else 0.1, 100) for day in range(21)]
ARMS = ArmsCompared.model_validate(
    {
        "figure": "bad",
        "value": 0.01,
        "low": -0.01,
        "high": 0.02,
        "candidate": {"keys": 20, "n": 400, "bad": 8, "low": 0.01, "high": 0.04},
        "live": {"keys": 30, "n": 900, "bad": 9, "low": 0.005, "high": 0.02},
    }
)
TOXIC = ScanReport.model_construct(rows=6, toxic=None)
LOOKED = Looked(base={"exact": 0.25, "exact_n": 40.0, "loss": 2.0}, chosen={"exact": 0.5, "loss": 1.0})
JOB = Job.model_construct(metrics={"val_exact": 0.5, "val_exact_n": 8.0, "val_loss": 1.25}, spec=None)


@pytest.mark.parametrize(
    "said",
    [
        *decision.decide([PROMPT, TUNED], RIGHT, (), 5000).reasons,
        figures.figure(None, ".3g", PROMPT.cost),
        figures.percentile(PROMPT.p95_ms, 0.95),
        CHECK.measured,
        review.in_words(SIGNED),
        compared(MeterKind.BAD, DAYS, "bad", live=range(21)).says,
        arms_in_words(ARMS),
        steps.said(ARMS),
        figures.alpha(Agreement(alpha=0.5, low=0.4, high=0.6, n=60)),
        figures.counted(Counted(k=3, n=9, low=0.1, high=0.6)),
        *("".join(run_records.told(one)) for one in run_records.measured(LOOKED)),
        metrics_in_words(JOB),
        toxic_in_words(TOXIC),
    ],
)
def test_what_is_said_of_a_sample_has_its_n_and_its_interval(said: str) -> None:
    assert bare(said) == []
    if re.search(r"\d\.\d", said):
        assert re.search(r"\bn (= \d|unknown)", said), said


def test_an_interval_that_nobody_can_give_is_a_dash() -> None:
    assert figures.estimate(0.5, None, None, 2, ".1%") == "50.0% (-, n = 2)"
    assert figures.estimate(0.5, None, None, None) == "0.5 (-, n unknown)"
    assert figures.share(0, 0) == "-"
    assert figures.figure(None) == "-"
    assert figures.around(1.0, 0.0, 2) == (None, None)
    few, enough = decision.p95([100.0] * 71), decision.p95([100.0] * 73)
    assert (figures.percentile(few, 0.95), figures.percentile(enough, 0.95)) == (
        "100 (100 to -, n = 71)",
        "100 (100 to 100, n = 73)",
    )


def test_a_percentage_without_either_is_found() -> None:
    assert bare("12.5% of 40 are bad, 10.0% (8.0% to 12.0%, n = 9) and 3% (-, n unknown)") == ["12.5%"]
