"""The list of erasures, beside the keys of rows and in no backup: a log that is older than an erasure gets it again."""

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from loradeck.artifacts.staging import replace_durably
from loradeck.rules.clocks import HOUR_MS
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.schemas.feedback import Withdrawn
from loradeck.schemas.ids import digest_of
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.data.erasure_list")

RETIRED = "descends from erased rows"
"""How the reason begins for which an erasure revokes a release."""


_turn = threading.Lock()


def remember(path: Path, stated: Iterable[Attestation]) -> list[Attestation]:
    """Adds statements of erasures to the list, durably, and returns those that only the list has."""
    with _turn:
        # Only a line feed ends a line: a reason may hold other characters at which Python would split.
        lines = list(filter(None, path.read_bytes().decode().split("\n"))) if path.exists() else []
        listed = {_key(one): one for one in map(Attestation.model_validate_json, lines)}
        given = {_key(one): one for one in stated}
        if added := [given[key].model_dump_json() for key in given.keys() - listed.keys()]:
            replace_durably(path, "\n".join([*lines, *sorted(added)]).encode())
        return [one for key, one in listed.items() if key not in given]


def statements(store: Store) -> list[Attestation]:
    """Reads all statements that belong to erasures from the log."""
    revoked = store.attestations(kind=AttestationKind.REVOCATION)
    return [
        *store.attestations(kind=AttestationKind.ERASURE),
        *store.attestations(kind=AttestationKind.ERASED_ELSEWHERE),
        *store.attestations(kind=AttestationKind.WITHDRAWN),
        *(one for one in revoked if str(one.body.get("reason", "")).startswith(RETIRED)),
    ]


def reapply(store: Store, path: Path) -> None:
    """States in the log what is only in the list, and lists what only the log has. Raises: StoreError, OSError."""
    if lacking := remember(path, statements(store)):
        for one in lacking:
            if one.kind is AttestationKind.WITHDRAWN:  # feedback is taken from up to an hour ahead
                requests = [request for _, request in Withdrawn.model_validate(one.body).requests]
                store.withdraw_feedback(one.tenant, requests, one.at_ms + HOUR_MS)
        store.attest_all(lacking)
        log.warning("%d statements of erasures were not in this log: they were made again from %s", len(lacking), path)


def _key(statement: Attestation) -> tuple[str, str, str, int, str]:
    return statement.kind, statement.subject, statement.tenant, statement.at_ms, digest_of(statement.body)
