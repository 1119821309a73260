"""Sign-ins: the people whose tokens the hub has verified, what is left of them, and when they end.

A token is verified once, and known by its hash from then on. That costs a call no signature check, lets a sign-in be
ended here, and tells tokens that were seen while they were valid from others when the provider is silent.
"""

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from loradeck.hub.access.auth import USED_EVERY_MS, Caller, Tokens, unauthenticated
from loradeck.rules.access import SIGNED_IN, SILENCE_MS, SignInScope, scope_of, sign_in_scope
from loradeck.rules.errors import Refused
from loradeck.schemas.fault import first_wrong
from loradeck.schemas.sign_in import OidcSettings, Person, SavedSignIns, SignInRecord

LONGEST_TOKEN = 7000
"""Characters that are looked at. A header's line has 8,000."""

EXPIRED_KEPT = 4
"""Expired tokens of one person that are kept for the time of a silent provider: one for each machine of theirs."""

LONGEST_NAME = 100

SKEW_MS = 30_000
"""How far the clocks of hub and provider may be apart."""

SAVED_EVERY_MS = 600_000
"""How exactly a hub that was started again knows when the provider last answered."""


@dataclass(frozen=True)
class Identity:
    """Who a token says somebody is, after its signature, issuer, audience and times were found right.

    `name` is empty where it has none. Times are milliseconds since 1970 UTC.
    """

    subject: str
    name: str
    groups: tuple[str, ...]
    issued_ms: int
    expires_ms: int


def read_settings(path: Path) -> OidcSettings:
    """The provider's settings in a TOML file. Raises: Refused `invalid_request`: one is wrong, or it is not there."""
    try:
        return OidcSettings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        why = first_wrong(error)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = str(error)
    fix = "see 'People sign in' in docs/trust.md for what it holds"
    raise Refused("invalid_request", "the provider's settings cannot be used", detail=f"{path}: {why}", fix=fix)


class SignIns:
    """The people who have signed in.

    Args:
        verify: who a token says somebody is.
            Raises: Refused `unauthenticated`.
        now_ms: the wall clock, in milliseconds since 1970 UTC.
        saved: what an earlier run of the hub has kept.
    """

    def __init__(
        self, settings: OidcSettings, verify: Callable[[str], Identity], now_ms: Callable[[], int], saved: SavedSignIns
    ) -> None:
        self._grants = settings.groups
        self._verify = verify
        self._now_ms = now_ms
        self._records = {record.sha256: record for record in saved.records}
        self._people = dict(saved.people)
        self._answered_ms = saved.answered_ms
        self._saved_answer_ms = saved.answered_ms
        self._answers: bool | None = None  # None: it was not asked yet
        self._valid = {r.subject for r in saved.records if self._allowed(r) is SignInScope.ALL}
        self.unsaved = False

    def caller(self, bearer: str) -> Caller:
        """The caller of a person's token. Raises: Refused `unauthenticated`; `no_role`: none of its groups has one."""
        if len(bearer) > LONGEST_TOKEN:
            raise unauthenticated()
        sha256 = hashlib.sha256(bearer.encode()).hexdigest()
        record = self._records.get(sha256) or self._first_seen(bearer, sha256)
        what = self._allowed(record)
        if what is SignInScope.NOTHING:
            raise unauthenticated()
        if what is SignInScope.ALL:
            self._valid.add(record.subject)
            if self._now_ms() - record.verified_ms >= USED_EVERY_MS:
                self._put(record.model_copy(update={"verified_ms": self._now_ms()}))
        scope = scope_of(record.groups, self._grants)
        if scope is None:
            raise _no_role(record.subject)
        return Caller(
            actor=self._people[record.subject].name,
            role=scope.role,
            tenants=scope.tenants,
            backward=what is SignInScope.BACKWARD,
            token=token_id(record.subject),
        )

    def end(self, bearer: str) -> None:
        """Ends the sign-in of a token that is known: it is valid no longer."""
        record = self._records[hashlib.sha256(bearer.encode()).hexdigest()]
        self._put(record.model_copy(update={"ended": True}))

    def end_all(self, subject: str) -> bool:
        """Ends every sign-in of a person; tokens that were issued until now are refused. False: nobody is known."""
        person = self._people.get(subject)
        if person is None:
            return False
        self._people[subject] = person.model_copy(update={"ended_ms": self._now_ms() + SKEW_MS})
        self._records = {sha: record for sha, record in self._records.items() if record.subject != subject}
        self.unsaved = True
        return True

    def asked(self, answered: bool) -> bool:
        """Notes that the provider was asked, and whether it answered. Returns whether that differs from before."""
        differs, self._answers = answered is not self._answers, answered
        if answered:
            self._answered_ms = self._now_ms()
            self.unsaved |= self._answered_ms - self._saved_answer_ms >= SAVED_EVERY_MS
        return differs

    def take_ended(self) -> list[str]:
        """The ids (`Caller.token`) of people whose last token has expired or was ended since this was last asked."""
        valid = {record.subject for record in self._records.values() if self._allowed(record) is SignInScope.ALL}
        ended, self._valid = self._valid - valid, valid
        return [token_id(subject) for subject in sorted(ended)]

    def take_unsaved(self) -> SavedSignIns:
        """Takes what is to be written, if `unsaved`; who cannot write it sets that again."""
        self.unsaved, self._saved_answer_ms = False, self._answered_ms
        records = tuple(self._records.values())
        return SavedSignIns(answered_ms=self._answered_ms, people=dict(self._people), records=records)

    def _allowed(self, record: SignInRecord) -> SignInScope:
        if record.ended:
            return SignInScope.NOTHING
        answered_ms = self._answered_ms if self._answers is False else None
        return sign_in_scope(self._now_ms(), record.verified_ms, record.expires_ms, answered_ms)

    def _first_seen(self, bearer: str, sha256: str) -> SignInRecord:
        found = self._verify(bearer)
        if scope_of(found.groups, self._grants) is None:
            raise _no_role(found.name or found.subject)
        person = self._people.get(found.subject)
        signed = hashlib.sha256(bearer.rpartition(".")[0].encode()).hexdigest()
        if any(record.ended and record.signed_sha256 == signed for record in self._records.values()):
            raise unauthenticated()
        if person is None:
            self._people[found.subject] = Person(name=self._new_name(found))
        elif found.issued_ms <= person.ended_ms:
            raise unauthenticated()
        return self._put(
            SignInRecord(
                sha256=sha256,
                signed_sha256=signed,
                subject=found.subject,
                groups=tuple(group for group in found.groups if group in self._grants),
                expires_ms=found.expires_ms,
                verified_ms=self._now_ms(),
            )
        )

    def _new_name(self, found: Identity) -> str:
        """Finds a name for somebody that nobody else has here."""
        plain = "".join(c for c in found.name if c.isprintable()).strip()[:LONGEST_NAME] or found.subject
        if any(person.name == plain for person in self._people.values()):
            return f"{plain} ({found.subject})"
        return plain

    def _put(self, record: SignInRecord) -> SignInRecord:
        """Keeps a record, and of the person's expired ones the newest."""
        now = self._now_ms()
        self._records[record.sha256] = record
        own = [r for r in self._records.values() if r.subject == record.subject and r.expires_ms <= now]
        own.sort(key=lambda r: r.expires_ms, reverse=True)
        useful = [r for r in own if not r.ended and now - r.verified_ms < 2 * SILENCE_MS]
        for old in own:
            if old not in useful[:EXPIRED_KEPT]:
                del self._records[old.sha256]
        self.unsaved = True
        return record


@dataclass(eq=False)
class KnownCallers:
    """Everybody who is known by a bearer token: machines, and people where they may sign in."""

    tokens: Tokens
    sign_ins: SignIns | None

    def caller(self, bearer: str | None) -> Caller:
        """The caller that a bearer token belongs to. Raises: Refused `unauthenticated` or `no_role`."""
        if self.sign_ins is not None and bearer is not None and bearer.count(".") == 2:
            return self.sign_ins.caller(bearer)
        return self.tokens.caller(bearer)


def token_id(subject: str) -> str:
    """The id that stands for a person's tokens in events, and in `Caller.token`."""
    return SIGNED_IN + subject


def is_signed_in(token: str | None) -> bool:
    """Tells whether a `Caller.token` is that of a person who has signed in, and not of a machine."""
    return token is not None and token.startswith(SIGNED_IN)


def _no_role(who: str) -> Refused:
    return Refused(
        "no_role",
        "none of your groups has a role at this hub",
        detail=who,
        fix="ask for a group that the hub's --oidc file names, and sign in again",
    )
