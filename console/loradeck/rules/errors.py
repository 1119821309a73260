"""Refused, the exception of the rules, and the one list of the problem codes that have an HTTP status."""

from collections.abc import Mapping
from typing import Any

from loradeck.schemas.fault import Fault
from loradeck.schemas.ids import Wire

_CODES: Mapping[int, tuple[str, ...]] = {
    400: ("http_error",),
    401: ("unauthenticated",),
    403: (
        # The caller may not.
        "forbidden",
        "no_role",
        "provider_silent",
        "wrong_node",
        "local_only",
        "person_required",
        # Nodes and people that join or sign in.
        "join_token_used",
        "join_token_expired",
        "certificate_expired",
        "certificate_revoked",
        "certificate_unknown",
    ),
    404: (
        "not_found",
        "unknown_tenant",
        "unknown_route",
        "unknown_release",
        "unknown_event",
        "unknown_rev",
        "unknown_key",
        "unknown_caller",
        "unknown_base",
        "unknown_dataset",
        "unknown_suite",
        "unknown_rubric",
        "unknown_rater",
        "unknown_item",
        "unknown_job",
        "unknown_node",
        "unknown_token",
        "unknown_channel",
        "unknown_silence",
        "unknown_incident",
        "unknown_blob",
        "unknown_row",
        "unknown_adapter",
        "unknown_pool",
        "unknown_campaign",
        "no_channels",
    ),
    405: ("method_not_allowed",),
    409: (
        # The state changed between the frame on the screen and the key.
        "moved",
        "target_changed",
        "needs_confirmation",
        # Forward moves are forbidden.
        "already_live",
        "held",
        "quarantined",
        "revoked",
        "frozen",
        "training_frozen",
        "related_incident",
        "incident_closed",
        "incident_exists",
        "too_many_pointers",
        "too_many_incidents",
        "unsigned",
        "not_acknowledged",
        "deprecated",
        "gate_missing",
        "gate_failed",
        "gate_imported",
        "second_person",
        "duties_not_separate",
        "ticket_required",
        "use_not_allowed",
        "wrong_region",
        "suite_too_small",
        "judge_not_known",
        "stages_in_a_circle",
        "no_review",
        "stale_review",
        "policy_changed",
        "no_slot",
        "no_memory",
        "left_behind",
        "suspended",
        "offboarded",
        "prepare_failed",
        "no_plan",
        "no_arms",
        "prepare_pending",
        "candidate_out",
        "candidate_unfit",
        "no_candidate",
        "too_few_keys",
        "shadow_not_allowed",
        "samples_not_kept",
        "feature_missing",
        "no_replica",
        # Things that do not fit together.
        "wrong_base",
        "wrong_tenant",
        "no_prior",
        "nothing_live",
        "fallback_not_allowed",
        "not_undoable",
        "not_quarantined",
        "not_held",
        "contested",
        "nodes_behind",
        "not_pinned",
        "node_linked",
        "no_change",
        "nothing_to_move",
        "campaign_over",
        "campaign_exists",
        "nothing_to_compare",
        "no_prompts",
        "exists",
        # The dataset ledger forbids it.
        "no_ledger_entry",
        "licence_forbidden",
        "purpose_not_allowed",
        "retention_over",
        "synthetic_share",
        "synthetic_depth",
        "no_rows_left",
        "no_dpia",
        "terms_not_accepted",
        "no_depth",
        "no_human_rows",
        "erased_row",
        "agreement_low",
        "no_agreement",
        "rated_once",
        "plan_changed",
        "node_unheard",
        "own_judgement",
        "selection_suite",
        "incomparable",
        "names_unavailable",
        "model_differs",
        "not_as_built",
        "feedback_off",
        "inputs_off",
        "no_worksheet",
        "too_many_segments",
        # Jobs, prepares, and answers of a router or an agent.
        "job_over",
        "prepare_cancelled",
        "hub_restarted",
        "not_current",
        # Nodes and people that join or sign in.
        "no_authority",
        "too_many_silences",
        # Pools.
        "pool_in_use",
        "too_many_pools",
        "over_quota",
        "not_pooled",
    ),
    410: ("removed",),
    413: ("too_large",),
    416: ("range_not_satisfiable",),
    422: (
        # The request is wrong.
        "invalid_request",
        "personal_data",
        "shadow_steps",
        "bad_horizon",
        "bad_request",
        "reason_required",
        "plan_required",
        "bad_report",
        "bad_review",
        "bad_artifact",
        "bad_rows",
        "toxic_rows",
        "bad_judgements",
        "ledger_incomplete",
        "opted_out",
        "regulated_source",
        "regulated_column",
        "sensitive_rows",
        "bad_signature",
        "digest_mismatch",
        "bad_segment",
        # An adapter's or a store's files.
        "manifest_mismatch",
        "path_traversal",
        "pickle_in_adapter",
        "truncated_safetensors",
        "bad_safetensors",
        "bad_values",
        "unsupported_adapter",
    ),
    429: ("ledger_full", "feedback_full", "too_many_failed_logins", "refused_messages"),
    500: ("store_error", "internal"),
    501: ("signing_unavailable",),
    503: (
        # The hub itself.
        "log_behind",
        "settling",
        "one_copy",
        "not_active",
        "outcome_unknown",
        "store_unusable",
        "store_unreachable",
        "lease_held",
        "hub_stopping",
        "erasures_unread",
        # Answers of a router or an agent.
        "not_ready",
        "behind",
        "hub_lost",
        # An adapter's or a store's files.
        "store_unavailable",
        "store_lies",
        "key_unavailable",
        "other_keys",
        "bad_store",
    ),
    504: ("unanswered",),
    507: ("disk_full",),
}

STATUS: Mapping[str, int] = {code: status for status, codes in _CODES.items() for code in codes}
"""HTTP statuses by problem code: of what the rules refuse, and of what hub, artifacts, routers and agents report."""


class Refused(Fault):
    """A rule forbids the request, and nothing was changed. `context` carries facts for programs."""

    def __init__(
        self, code: str, title: str, *, detail: str = "", fix: str = "", context: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(code, title, detail, fix)
        self.context: dict[str, Any] = dict(context or {})

    def __str__(self) -> str:
        return f"{self.code}: {self.title}"

    @property
    def status(self) -> int:
        """HTTP status of the code. Raises KeyError for a code that is not in `STATUS`."""
        return STATUS[self.code]


def plan_changed(title: str, found: Wire, detail: str = "") -> Refused:
    """The refusal of an act whose plan was looked at and would be another by now. `found`: the plan as it is now."""
    context = {"plan": found.model_dump(mode="json")}
    return Refused("plan_changed", title, detail=detail, fix="look at the plan again", context=context)
