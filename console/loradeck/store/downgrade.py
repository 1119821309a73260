"""The way back from an upgrade: what newer Loradecks added to a database's schema is taken out of it again.

A migration has a script for the way up and one for the way down. Some things stand in its way: what an older Loradeck
could not read keeps the schema from going back, and then only a backup from before the upgrade helps. What it has no
place for is lost, and is counted first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from loradeck.store.interface import StoreError
from loradeck.store.migrations import downs, scripts
from loradeck.store.opening import no_hubs_store
from loradeck.store.sql_database import Connection
from loradeck.store.sql_log import Store


class CannotGoBack(StoreError):
    """The schema cannot be taken back so far. Nothing was changed."""

    code = "cannot_go_back"


class Counted(NamedTuple):
    """Rows that a query counts, and what they are, for people."""

    what: str
    query: str


def _events(*kinds: str) -> str:
    listed = ", ".join(f"'\"{kind}\"'" for kind in kinds)
    return f"SELECT count(*) FROM events WHERE body -> 'kind' IN ({listed})"


def _written(table: str, *parts: str) -> str:
    """The query that counts the rows whose JSON has any of these parts, which an older Loradeck reads strictly."""
    return f"SELECT count(*) FROM {table} WHERE " + " OR ".join(f"body LIKE '%{part}%'" for part in parts)


def _settings(*names: str) -> str:
    return _written("events", *(f'"{name}":' for name in names))


def _notices(*kinds: str) -> Counted:
    return Counted("notices of kinds that came later", _written("notices", *(f'"kind":"{kind}"' for kind in kinds)))


_BASES_ONLY = "kind = 'lineage' AND body -> 'adapter' = 'null' AND \"by\" LIKE 'job %'"

UNREADABLE: dict[str, tuple[Counted, ...]] = {
    "0013_input_days": (
        Counted(
            "events with training freezes, expected changes, counts of inputs, unrated pairs, depth, later promises",
            _settings(
                "training_freezes",
                "expected_changes",
                "input_days",
                "worksheet_required",
                "unrated_pairs",
                "judged",
                "depth_caps",
                "controls",
                "assessors",
                "assessed_tiers",
                "min_alpha",
                "regulated_sources",
                "regulated_columns",
                "toxic",
                "toxic_cap",
                "rated_twice",
                "rated_by",
                "edges",
                "uses",
                "reasons",
            )
            + """ OR body LIKE '%"refusals":_.%' OR body LIKE '%"refusals":_e-%'""",  # phrases go by that name as well
        ),
        Counted(
            "datasets made of judgements, adjudications, and reports of judges",
            "SELECT count(*) FROM attestations WHERE kind IN ('agreement', 'adjudication', 'judged')",
        ),
        Counted("records of feedback that was erased", "SELECT count(*) FROM attestations WHERE kind = 'withdrawn'"),
        Counted(
            "worksheets, what was measured for them, adapters and jobs that name one, and replayed days",
            "SELECT (SELECT count(*) FROM attestations WHERE kind IN ('arm', 'decision', 'replay'))"
            """ + (SELECT count(*) FROM documents WHERE body LIKE '%"worksheet":%')"""
            """ + (SELECT count(*) FROM jobs WHERE body LIKE '%"worksheet":%' OR body LIKE '%"arm":{%')""",
        ),
        Counted("events of nodes that guard has cordoned, and of campaigns", _events("node_cordon", "campaign")),
        Counted(
            "deprecations that say until when callers can count on answers",
            """SELECT count(*) FROM attestations WHERE kind = 'deprecation' AND body LIKE '%"until_ms":%'""",
        ),
        Counted(
            "adapters that are DoRA, have a fractional alpha or state their limitations",
            _written(
                "documents", '"dora": true', '"limitations":', *(f'"alpha": {"_" * digits}.' for digits in range(1, 6))
            ),
        ),
        Counted(
            "events with quotas of slots or weights",
            f"""{_events("quota")} AND (body LIKE '%"slots":%' OR body LIKE '%"weights":%')""",
        ),
        Counted(
            "reports of generate jobs, and ledger entries of deep rows",
            """SELECT count(*) FROM attestations WHERE kind = 'generation'"""
            """ OR (kind = 'ledger' AND body LIKE '%"by_depth":%')""",
        ),
        Counted(
            "datasets and suites that say their quality or biases, and ledger entries of them",
            """SELECT (SELECT count(*) FROM attestations WHERE kind = 'ledger'"""
            """ AND (body LIKE '%"qualities":%' OR body LIKE '%"biases":%'))"""
            """ + (SELECT count(*) FROM documents WHERE body LIKE '%"quality":%' OR body LIKE '%"known_biases":%')""",
        ),
        Counted("scans that counted toxic rows", _written("attestations", '"toxic":{"list":')),
        Counted(
            "impact assessments, opt-out lists, acknowledgements, and bases that are shared",
            "SELECT count(*) FROM attestations WHERE kind IN ('assessment', 'opt_out', 'shared', 'acknowledged')",
        ),
        Counted(
            "reports of how fast and how sure engines were, of harnesses that jobs ran, and reviews at the edges",
            """SELECT count(*) FROM attestations WHERE kind = 'review' AND body LIKE '%"drawn":%'"""
            """ OR kind = 'evaluation' AND (body LIKE '%"speed":%' OR body LIKE '%"margin":%'"""
            """ OR body LIKE '%"harness":%')""",
        ),
        Counted(
            "jobs of kinds or with fields that came later",
            _written(
                "jobs",
                '"kind":"prove"',
                '"thoughts":"',
                '"sharded":true',
                '"toxic":{',
                '"rise":',
                '"way":"top"',
                '"top":',
                '"rslora":true',
                '"kind":"generate"',
                '"quality":{',
                '"kind":"judge"',
                '"rank_pattern":{"',
                '"alpha_pattern":{"',
                '"limitations":"',
                '],"suite":"',  # after the phrases of a validation; an evaluation names its own after a release
            ),
        ),
    ),
    "0012_feedback": (
        Counted(
            "events with gates for leaks, a policy for feedback or a promise about it",
            _settings("leak", "feedback_days", "corrected"),
        ),
        Counted(
            "reports of engines, leaks or harnesses",
            "SELECT count(*) FROM attestations WHERE kind IN ('leak', 'harness') OR kind = 'evaluation'"
            """ AND (body LIKE '%"engine":%' OR body LIKE '%"acc_norm":%')""",
        ),
        Counted(
            "jobs of kinds or with fields that came later",
            _written(
                "jobs",
                '"kind":"leak"',
                '"offline":true',
                '"method":"kto"',
                '"sampling":{',
                '"distillation":{',
                '"turns":"',
                '"safety":{',
                '"precision":"',
                '"gradient_checkpointing":true',
                '"packing":true',
            ),
        ),
    ),
    "0011_ledger": (
        Counted("events of quotas, of pools and of the routes in them", _events("pool", "assign", "quota")),
        Counted("events with a gate that asks for an A/B", _settings("compare")),
        Counted("records of A/B comparisons", "SELECT count(*) FROM attestations WHERE kind = 'comparison'"),
        Counted(
            "events with other settings of gates, checks, promises or data that came later",
            _settings(
                "bound_drop",
                "min_slice",
                "max_age_days",
                "choice",
                "alert_only",
                "token_ms",
                "noticed",
                "rubric",
                "sample_hours",
                "ledger_days",
                "shadow",
            ),
        ),
    ),
    "0006_audit": (Counted("events that anchor the audit trail", _events("audit")),),
    "0005_nodes": (
        Counted("events of policies that lift erasures", _settings("lift_erasures")),
        Counted("pointers that were withdrawn from nodes which may still answer", "SELECT count(*) FROM withdrawals"),
        Counted("events about forgotten nodes", _events("node_forget")),
    ),
    "0004_lineage": (
        Counted("events of moves that a recover dropped", _events("dropped")),
        Counted(
            "records of lineage or of erasures elsewhere",
            f"SELECT count(*) FROM attestations WHERE kind IN ('lineage', 'erased_elsewhere') AND NOT ({_BASES_ONLY})",
        ),
    ),
    "0003_six_counts": (
        Counted(
            "events of candidates", _events("candidate_start", "candidate_finish", "candidate_abort", "candidate_step")
        ),
    ),
}
"""Migration -> what a Loradeck from before it does not know and cannot pass over."""

LOST: dict[str, tuple[Counted, ...]] = {
    "0013_input_days": (
        Counted("days of counts of what is asked", "SELECT count(*) FROM input_days"),
        _notices("refused", "burning", "acted_alone", "gate_passed", "expected", "card_awaits"),
    ),
    "0012_feedback": (Counted("rows of feedback", "SELECT count(*) FROM feedback"),),
    "0011_ledger": (
        Counted("segments of the answer ledger", "SELECT count(*) FROM ledger_segments"),
        _notices("drift", "certificate_ends", "retention_ends", "deprecated"),
    ),
    "0010_notices": (
        Counted("notices", "SELECT count(*) FROM notices"),
        Counted("deliveries of notices that are still to be made", "SELECT count(*) FROM deliveries"),
    ),
    "0009_minutes": (Counted("hours of routes' counts by the minute", "SELECT count(*) FROM minutes"),),
    "0008_hours": (Counted("hours of routes' counts", "SELECT count(*) FROM hours"),),
    "0006_audit": (Counted("lines of the audit trail", "SELECT count(*) FROM audit"),),
    "0002_head": (Counted("records of who has held the lease", "SELECT count(*) FROM incarnations"),),
}
"""Migration -> what a Loradeck from before it has no place for."""


@dataclass(frozen=True, kw_only=True)
class Downgrade:
    """What taking a schema back means: the migrations that are taken out, newest first, and what is lost with them."""

    steps: tuple[str, ...]
    lost: tuple[str, ...]


def downgrade(where: str, to: str, *, dry_run: bool, unseal: Callable[[Store], None] | None = None) -> Downgrade:
    """Takes the schema of a store back, so that `to` is its newest migration; all of it or nothing.

    The store is first brought up to this program's own schema, as by any start of it. `unseal` takes texts out from
    under their keys.

    Raises:
        CannotGoBack: there is no such migration, or something stands in the way; the message says what, and what to do.
        LeaseHeld: a hub has the store open.
        StoreError: see `no_hubs_store`.
    """
    with no_hubs_store(where) as store:
        database = store.database
        names = [name for name, _ in scripts(database.dialect)]
        if to not in names:
            raise CannotGoBack(f"there is no migration {to!r} here: {', '.join(names)}")
        steps = tuple(reversed(names[names.index(to) + 1 :]))
        known = downs(database.dialect)
        with database.reading() as connection:
            stands = [f"{name} has no way back" for name in steps if name not in known]
            stands += _counted(connection, steps, UNREADABLE)
            if stands:
                raise CannotGoBack(
                    f"the schema cannot go back to {to}: {'; '.join(stands)}. "
                    "Restore the backup from before the upgrade; what was moved since is on the nodes, "
                    "and `loradeck hub recover` takes it from them"
                )
            lost = tuple(_counted(connection, steps, LOST))
        if unseal is None and "0014_sealed_feedback" in steps and store.texts(sealed=True, limit=1):
            raise CannotGoBack("feedback is sealed, and an older Loradeck reads none: name its keys (--keys)")
        if not dry_run:
            if unseal is not None:
                unseal(store)
            database.take_back([(name, known[name]) for name in steps])
        return Downgrade(steps=steps, lost=lost)


def _counted(connection: Connection, steps: tuple[str, ...], rows: dict[str, tuple[Counted, ...]]) -> list[str]:
    """Lists what there is of what the steps' queries count: "3 lines of the audit trail"."""
    found = [(connection.execute(query).fetchone()[0], what) for name in steps for what, query in rows.get(name, ())]
    return [f"{count} {what}" for count, what in found if count]
