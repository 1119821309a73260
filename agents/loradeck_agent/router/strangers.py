"""The callers' listener, for those who have not shown a tenant's key: refusals, failed logins and `/healthz`."""

import asyncio
import functools
import logging
import resource
from collections.abc import Callable

from loradeck.strangers.certificates import ServerCertificate
from loradeck.strangers.failed_logins import FailedLogins
from loradeck.strangers.protocol import Answer, BadHead, RequestHead, StrangerLimits, Strangers, address_of, answer
from loradeck_agent.router.admission import Refusal
from loradeck_agent.router.callers_api import BAD_KEY, refused

log = logging.getLogger(__name__)

_ALIVE = answer(200, "application/json", b'{"status": "ok"}', {"Server": "loradeck"})


def strangers(
    is_none: Callable[[str], bool], limits: StrangerLimits | None = None, tls: ServerCertificate | None = None
) -> Strangers:
    """The strangers of a router: whoever shows a key that a tenant here knows is none, as `is_none` says of it.

    `limits` None: by how many files the process may open. Half are left for the engines' connections.
    """
    failed_logins = FailedLogins(asyncio.get_running_loop().time, log.warning)
    if limits is None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limits = StrangerLimits.under(files, files // 2)

    def judge(head: RequestHead, transport: asyncio.BaseTransport) -> Answer | None:
        if head.bearer is not None and is_none(head.bearer):
            return None
        if head.method == "GET" and head.target == "/healthz":
            return _ALIVE
        wait = failed_logins.failed(address_of(transport), head.target[:200])
        return _answer(BAD_KEY if wait is None else _too_many(wait))

    def reject(bad: BadHead) -> Answer:
        return _answer(Refusal(bad.status, bad.code, f"{bad.title}.".capitalize(), f"{bad.fix}.".capitalize()))

    return Strangers(limits, judge=judge, reject=reject, tls=tls)


def _too_many(wait: int) -> Refusal:
    return Refusal(
        429,
        "too_many_failed_logins",
        "Too many requests from this address had no key that a tenant here knows.",
        "Send your tenant's key; a request that has it is served all the same.",
        wait,
    )


@functools.cache
def _answer(refusal: Refusal) -> Answer:
    response = refused(refusal)
    headers = {name: value for name, value in response.headers.items() if not name.startswith("Content-")}
    assert isinstance(response.body, bytes)
    return answer(response.status, "application/json", response.body, headers)
