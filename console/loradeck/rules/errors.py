"""Refused, the exception of the rules, and the one list of the problem codes that have an HTTP status."""

from collections.abc import Mapping
from typing import Any

from loradeck.schemas.fault import Fault

STATUS: Mapping[str, int] = {
    # The state changed between the frame on the screen and the key.
    "moved": 409,
    "target_changed": 409,
    "needs_confirmation": 409,
    # Forward moves are forbidden.
    "already_live": 409,
    "held": 409,
    "quarantined": 409,
    "revoked": 409,
    "frozen": 409,
    "training_frozen": 409,
    "related_incident": 409,
    "incident_closed": 409,
    "incident_exists": 409,
    "too_many_pointers": 409,
    "too_many_incidents": 409,
    "unsigned": 409,
    "deprecated": 409,
    "gate_missing": 409,
    "gate_failed": 409,
    "gate_imported": 409,
    "second_person": 409,
    "person_required": 403,
    "suite_too_small": 409,
    "stages_in_a_circle": 409,
    "no_review": 409,
    "stale_review": 409,
    "policy_changed": 409,
    "no_slot": 409,
    "no_memory": 409,
    "left_behind": 409,
    "suspended": 409,
    "offboarded": 409,
    "prepare_failed": 409,
    "no_plan": 409,
    "no_arms": 409,
    "shadow_steps": 422,
    "bad_horizon": 422,
    "prepare_pending": 409,
    "candidate_out": 409,
    "candidate_unfit": 409,
    "no_candidate": 409,
    "too_few_keys": 409,
    "shadow_not_allowed": 409,
    "samples_not_kept": 409,
    "feature_missing": 409,
    # Things that do not fit together.
    "wrong_base": 409,
    "wrong_tenant": 409,
    "no_prior": 409,
    "nothing_live": 409,
    "fallback_not_allowed": 409,
    "not_undoable": 409,
    "not_quarantined": 409,
    "not_held": 409,
    "contested": 409,
    "nodes_behind": 409,
    "not_pinned": 409,
    "node_linked": 409,
    "no_change": 409,
    "nothing_to_compare": 409,
    "no_prompts": 409,
    "exists": 409,
    # The dataset ledger forbids it.
    "no_ledger_entry": 409,
    "licence_forbidden": 409,
    "purpose_not_allowed": 409,
    "retention_over": 409,
    "synthetic_share": 409,
    "synthetic_depth": 409,
    "erased_row": 409,
    "agreement_low": 409,
    "no_agreement": 409,
    "plan_changed": 409,
    "node_unheard": 409,
    # Not there.
    "not_found": 404,
    "unknown_tenant": 404,
    "unknown_route": 404,
    "unknown_release": 404,
    "unknown_event": 404,
    "unknown_rev": 404,
    "unknown_key": 404,
    "unknown_caller": 404,
    "unknown_base": 404,
    "unknown_dataset": 404,
    "unknown_suite": 404,
    "unknown_rubric": 404,
    "unknown_rater": 404,
    "unknown_item": 404,
    "own_judgement": 409,
    "selection_suite": 409,
    "unknown_job": 404,
    "unknown_node": 404,
    "unknown_token": 404,
    "unknown_channel": 404,
    "unknown_silence": 404,
    "unknown_incident": 404,
    "unknown_blob": 404,
    "unknown_row": 404,
    # The request is wrong.
    "bad_request": 422,
    "reason_required": 422,
    "plan_required": 422,
    "bad_report": 422,
    "incomparable": 409,
    "bad_review": 422,
    "bad_artifact": 422,
    "bad_rows": 422,
    "bad_judgements": 422,
    "not_as_built": 409,
    "ledger_incomplete": 422,
    "sensitive_rows": 422,
    "bad_signature": 422,
    "signing_unavailable": 501,
    "digest_mismatch": 422,
    "too_large": 413,
    "bad_segment": 422,
    "ledger_full": 429,
    "feedback_off": 409,
    "inputs_off": 409,
    "no_worksheet": 409,
    "feedback_full": 429,
    "too_many_segments": 409,
    # The caller may not.
    "unauthenticated": 401,
    "forbidden": 403,
    "no_role": 403,
    "provider_silent": 403,
    "wrong_node": 403,
    "local_only": 403,
    # The hub itself.
    "log_behind": 503,
    "settling": 503,
    "one_copy": 503,
    "not_active": 503,
    "outcome_unknown": 503,
    "store_error": 500,
    "store_unusable": 503,
    "store_unreachable": 503,
    "lease_held": 503,
    "disk_full": 507,
    "internal": 500,
    # Answers of a router or an agent.
    "not_current": 409,
    "not_ready": 503,
    "behind": 503,
    "removed": 410,
    "hub_lost": 503,
    # Not there, or not in time.
    "unknown_adapter": 404,
    "unanswered": 504,
    "no_replica": 409,
    # Jobs and prepares.
    "job_over": 409,
    "prepare_cancelled": 409,
    "hub_restarted": 409,
    # An adapter's or a store's files.
    "manifest_mismatch": 422,
    "path_traversal": 422,
    "pickle_in_adapter": 422,
    "truncated_safetensors": 422,
    "bad_safetensors": 422,
    "bad_values": 422,
    "unsupported_adapter": 422,
    "store_unavailable": 503,
    "store_lies": 503,
    "bad_store": 503,
    # Nodes and people that join or sign in.
    "too_many_failed_logins": 429,
    "no_authority": 409,
    "no_channels": 404,
    "too_many_silences": 409,
    "join_token_used": 403,
    "join_token_expired": 403,
    "certificate_expired": 403,
    "certificate_revoked": 403,
    "certificate_unknown": 403,
    # Pools.
    "unknown_pool": 404,
    "pool_in_use": 409,
    "too_many_pools": 409,
    "over_quota": 409,
    "not_pooled": 409,
    # HTTP.
    "invalid_request": 422,
    "http_error": 400,
    "method_not_allowed": 405,
    "range_not_satisfiable": 416,
    "hub_stopping": 503,
}
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
