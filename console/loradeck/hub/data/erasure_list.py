"""The list of erasures, beside the keys of rows and in no backup: a log that is older than an erasure gets it again."""

import logging
from collections.abc import Iterable
from pathlib import Path

from loradeck.artifacts.staging import replace_durably
from loradeck.schemas.attestation import Attestation, AttestationKind
from loradeck.store.sql_log import Store

log = logging.getLogger("loradeck.hub.data.erasure_list")

RETIRED = "descends from erased rows"
"""How the reason begins for which an erasure revokes a release."""


def remember(path: Path, statements: Iterable[Attestation]) -> None:
    """Adds the statements of an erasure to the list, durably. Those that are in it change nothing."""
    known = _listed(path)
    added = {_text(one): one for one in statements} | known
    if len(added) > len(known):
        lines = sorted(added, key=lambda text: added[text].at_ms)
        replace_durably(path, "".join(f"{line}\n" for line in lines).encode())


def reapply(store: Store, path: Path) -> None:
    """States in the log what is only in the list, and lists what only the log has. Raises: StoreError, OSError."""
    stated = [
        a for kind in (AttestationKind.ERASURE, AttestationKind.ERASED_ELSEWHERE) for a in store.attestations(kind=kind)
    ]
    revoked = store.attestations(kind=AttestationKind.REVOCATION)
    stated += [a for a in revoked if str(a.body.get("reason", "")).startswith(RETIRED)]
    known = {_text(one) for one in stated}
    remember(path, stated)
    if lacking := [one for text, one in _listed(path).items() if text not in known]:
        store.attest_all(lacking)
        log.warning("%d statements of erasures were not in this log: they were made again from %s", len(lacking), path)


def _listed(path: Path) -> dict[str, Attestation]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {_text(one): one for one in map(Attestation.model_validate_json, lines)}


def _text(statement: Attestation) -> str:
    return statement.model_dump_json(exclude={"seq"})
