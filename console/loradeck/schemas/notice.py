"""Notices: what people are told outside the console, the channels on which they are told, and silences."""

import base64
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from loradeck.schemas.address import is_safe_url
from loradeck.schemas.ids import Name, Strict, Wire, added

LONGEST = 2000
"""Characters of a text in a notice."""


class NoticeKind(StrEnum):
    """What a notice is about."""

    BREACH = "breach"  # a live release answers badly, past its route's limit
    SLOW = "slow"
    DRIFT = "drift"  # checks that make no answer bad notice more than they may
    REFUSED = "refused"  # routers refuse requests
    BURNING = "burning"  # the error budget of a route is gone within days, if it goes on so
    UNPROVEN = "unproven"
    PROMOTE_FAILED = "promote_failed"
    NO_WAY_BACK = "no_way_back"
    GUARD = "guard"  # a guard has moved or held a pointer by itself
    HOLD = "hold"  # a person has held a pointer
    NODE_LOST = "node_lost"
    CERTIFICATE_ENDS = "certificate_ends"
    RETENTION_ENDS = "retention_ends"  # rows of a dataset may not be kept any longer
    EXPECTED = "expected"  # a day comes that a person entered: the end of a licence, a regulation
    DEPRECATED = "deprecated"  # a live release is not to be promoted any more
    ACTED_ALONE = "acted_alone"  # somebody broke the glass where two people are asked for
    JOB_FAILED = "job_failed"
    GATE_FAILED = "gate_failed"
    GATE_PASSED = "gate_passed"
    CARD_AWAITS = "card_awaits"  # stakeholders have to read a card before a release goes out
    TEST = "test"


class Severity(StrEnum):
    """How soon somebody has to look."""

    PAGE = "page"
    TICKET = "ticket"
    INFO = "info"


class Notice(Wire):
    """One thing that people are told. One that is `over` ends an earlier one of the same kind and subject."""

    id: str = Field(max_length=300, description="stays the same however often it is sent")
    kind: NoticeKind
    severity: Severity
    at_ms: int = Field(description="milliseconds since 1970 UTC")
    over: bool = Field(False, description="it is no longer so")
    tenant: Name | None = None
    route: Name | None = None
    node: Name | None = None
    dataset: Name | None = added(None)
    people: tuple[str, ...] = added((), "who are asked to do something, as routes name them", max_length=20)
    title: str = Field(max_length=LONGEST)
    detail: str = Field("", max_length=LONGEST)
    command: str = Field("", max_length=LONGEST, description="what to type first")
    more: int = Field(0, description="pointers or nodes of which the same is true, without a notice of their own")

    @property
    def subject(self) -> tuple[str, str, str, str]:
        """What it is about: (tenant, route, node, dataset), empty where there is none."""
        return (self.tenant or "", self.route or "", self.node or "", self.dataset or "")


class Delivery(Wire):
    """A notice that a channel has yet to be given."""

    seq: int = Field(description="of the notice; a channel gets them in this order")
    channel: Name
    attempts: int = 0
    next_ms: int | None = Field(0, description="when it is tried again; None: it is not, until a person asks for it")
    error: str = Field("", max_length=LONGEST, description="why the last attempt failed")


class NoticeRow(Wire):
    """A notice as it is listed."""

    seq: int
    notice: Notice
    waiting: tuple[Delivery, ...] = Field((), description="channels that have not been given it")


class Silence(Wire):
    """For some time nobody is told of what matches. What is left out matches everything."""

    id: str
    kind: NoticeKind | None = None
    tenant: Name | None = None
    node: Name | None = None
    until_ms: int
    reason: str
    by: str

    def covers(self, notice: Notice, now_ms: int) -> bool:
        """Tells whether it keeps a notice back now."""
        wanted = ((self.kind, notice.kind), (self.tenant, notice.tenant), (self.node, notice.node))
        return now_ms < self.until_ms and all(own is None or own == its for own, its in wanted)


class SilenceRequest(Strict):
    """Asks that nobody is told of what matches for some time."""

    kind: NoticeKind | None = None
    tenant: Name | None = None
    node: Name | None = None
    seconds: int = Field(ge=60, le=30 * 86_400)
    reason: str = Field(min_length=1, max_length=500)

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.kind is None and self.tenant is None and self.node is None:
            raise ValueError("a silence needs a kind, a tenant or a node: one of everything would hide what follows")
        return self


class ChannelRef(Strict):
    """Names a channel of the hub's file."""

    channel: Name


class ChannelRow(Wire):
    """A channel as it is listed: never its address or its secret."""

    name: Name
    kind: str
    least: Severity
    tenants: tuple[Name, ...]
    waiting: int = Field(description="notices that it has yet to be given")
    dead: int = Field(description="notices that are not tried any more")
    given_ms: int | None = Field(None, description="when it last took one; None: not since the hub started")
    error: str = Field("", description="why the last attempt failed; empty: it did not")


class NoticeList(Wire):
    """The newest notices, the channels and the silences."""

    notices: tuple[NoticeRow, ...]
    channels: tuple[ChannelRow, ...]
    silences: tuple[Silence, ...]
    fault: str = Field("", description="why the file of channels cannot be used as it is now; empty: it can")


class _Channel(Strict):
    name: Name
    least: Severity = Field(Severity.TICKET, description="the least severity that it is told of")
    tenants: tuple[Name, ...] = Field((), description="only of these, and of nodes; empty: of all")
    people: tuple[str, ...] = Field((), max_length=100, description="only what asks one of these; empty: everything")

    def takes(self, notice: Notice) -> bool:
        """Tells whether this channel is to be told of a notice."""
        order = list(Severity)
        here = not self.tenants or notice.tenant is None or notice.tenant in self.tenants
        here = here and (not self.people or not set(self.people).isdisjoint(notice.people))
        return here and order.index(notice.severity) <= order.index(self.least)


class Webhook(_Channel):
    """A program of one's own that is sent CloudEvents, signed as Standard Webhooks say."""

    kind: Literal["webhook"]
    url: SecretStr
    secret: SecretStr = Field(description="`whsec_` and base64 of 24 to 64 bytes")

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if not is_safe_url(self.url.get_secret_value()):
            raise ValueError("url: an https:// address, or an http:// one of this machine")
        if not 24 <= len(self.key) <= 64:
            raise ValueError("secret: `whsec_` and base64 of 24 to 64 bytes; `loradeck notice secret` makes one")
        return self

    @property
    def key(self) -> bytes:
        """The key of its signatures; empty where the secret is none."""
        text = self.secret.get_secret_value()
        try:
            return base64.b64decode(text.removeprefix("whsec_"), validate=True) if text.startswith("whsec_") else b""
        except ValueError:
            return b""


class Messenger(_Channel):
    """A service for people, such as Slack, Teams, PagerDuty or mail, by the address that Apprise has for it."""

    kind: Literal["apprise"]
    url: SecretStr


Channel = Annotated[Webhook | Messenger, Field(discriminator="kind")]


class ChannelFile(Strict):
    """The file of `loradeck hub --notices`: `[[channel]]` after `[[channel]]`."""

    channel: tuple[Channel, ...] = Field(max_length=50)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [channel.name for channel in self.channel]
        if len(set(names)) < len(names):
            raise ValueError("channel: two have the same name")
        return self
