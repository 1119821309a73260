"""What attestations say of releases on pointers, in memory: the facts that the rules ask for."""

from __future__ import annotations

from collections import defaultdict

from loradeck.rules.health import Breach
from loradeck.rules.target import PointerFacts
from loradeck.schemas.attestation import Attestation, AttestationKind, GateResult
from loradeck.store.interface import Store

Key = tuple[str, str]

_KEPT = (
    AttestationKind.ATTESTED,
    AttestationKind.SOAKED,
    AttestationKind.BREACHED,
    AttestationKind.REVOCATION,
    AttestationKind.GATE,
)
"""Kinds held in memory. Reports and canaries are large, and read from the store when somebody asks."""


class Facts:
    def __init__(self) -> None:
        self._attested: dict[Key, dict[str, int]] = defaultdict(dict)
        self._generations: dict[Key, dict[int, tuple[int, int]]] = defaultdict(dict)
        self._soaked: dict[Key, set[str]] = defaultdict(set)
        self._breached: dict[Key, dict[str, str]] = defaultdict(dict)
        self._gates: dict[Key, dict[str, GateResult]] = defaultdict(dict)
        self.revoked: dict[str, str] = {}

    @classmethod
    def load(cls, store: Store) -> Facts:
        facts = cls()
        for kind in _KEPT:
            for attestation in store.attestations(kind=kind):
                facts.add(attestation)
        return facts

    def add(self, attestation: Attestation) -> None:
        """Take in what the store has attested."""
        body, subject = attestation.body, attestation.subject
        if attestation.kind is AttestationKind.REVOCATION:
            self.revoked[subject] = str(body.get("reason", ""))
        if attestation.route is None:
            return
        key = (attestation.tenant, attestation.route)
        match attestation.kind:
            case AttestationKind.ATTESTED:
                self._attested[key][subject] = attestation.seq
                self._generations[key][int(body["generation"])] = (int(body["n"]), int(body["m"]))
            case AttestationKind.SOAKED:
                self._soaked[key].add(subject)
            case AttestationKind.BREACHED:
                self._breached[key][subject] = str(Breach(what=body["what"], share=body["share"], n=body["n"]))
            case AttestationKind.GATE:
                self._gates[key][subject] = GateResult.model_validate(body)
            case _:
                pass

    def of(self, key: Key) -> PointerFacts:
        attested = self._attested.get(key, {})
        return PointerFacts(
            attested=tuple(sorted(attested, key=lambda r: attested[r], reverse=True)),
            soaked=frozenset(self._soaked.get(key, ())),
            breached=dict(self._breached.get(key, {})),
            revoked=self.revoked,
        )

    def attested_generation(self, key: Key, generation: int) -> tuple[int, int] | None:
        """(n, m) with which a generation was attested."""
        return self._generations.get(key, {}).get(generation)

    def is_attested(self, key: Key, release: str) -> bool:
        return release in self._attested.get(key, {})

    def is_soaked(self, key: Key, release: str) -> bool:
        return release in self._soaked.get(key, set())

    def is_breached(self, key: Key, release: str) -> bool:
        return release in self._breached.get(key, {})

    def gate(self, key: Key, release: str) -> GateResult | None:
        """The newest judgement of a release's gate on a pointer."""
        return self._gates.get(key, {}).get(release)
