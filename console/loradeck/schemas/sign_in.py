"""People's sign-ins as the hub keeps them, and the settings of the provider where they sign in (OpenID Connect)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from loradeck.schemas.address import is_safe_url
from loradeck.schemas.ids import Digest, Name, Role, Strict, Wire


class GroupGrant(Strict):
    """What people in a group of the provider may do here."""

    role: Literal[Role.VIEWER, Role.OPERATOR, Role.RELEASER]
    tenants: frozenset[Name] | None = Field(
        None, min_length=1, description="where; None: at all tenants and for the fleet"
    )


class OidcSettings(Strict):
    """The file of `loradeck hub --oidc`: whose tokens are believed, and what the groups in them allow."""

    issuer: str = Field(description="as its tokens name it (`iss`), without a slash at the end unless they have one")
    client_id: str = Field(min_length=1, max_length=255)
    audience: str = Field("", description="what tokens are for (`aud`); empty: the client id")
    algorithm: Literal["RS256", "PS256", "ES256"] = Field("RS256", description="the one that tokens are signed by")
    groups_claim: str = "groups"
    name_claim: str = Field("email", description="what people are called here; without it by their subject")
    groups: Annotated[dict[str, GroupGrant], Field(min_length=1)]

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if not is_safe_url(self.issuer):
            raise ValueError("issuer: an https:// address, or an http:// one of this machine")
        return self


class SignInRecord(Wire):
    """A token of a person that the hub has verified, by its hash."""

    sha256: Digest
    signed_sha256: Digest = Field(description="of what is signed: the same token may be written in several ways")
    subject: str = Field(description="the person at the provider (`sub`)")
    groups: tuple[str, ...] = ()
    expires_ms: int
    verified_ms: int = Field(description="when it was last seen before it expired, within a minute")
    ended: bool = Field(False, description="by a sign-out")


class Person(Wire):
    """Somebody who has signed in. The name is the one of the first time, so that nobody has two."""

    name: str
    ended_ms: int = Field(0, description="tokens that were issued before are refused")


class SavedSignIns(Wire):
    """What outlives the hub. Times are milliseconds since 1970 UTC, by the hub's clock."""

    answered_ms: int = Field(0, description="when the provider last answered")
    people: dict[str, Person] = Field(default_factory=dict, description="by subject")
    records: tuple[SignInRecord, ...] = ()
