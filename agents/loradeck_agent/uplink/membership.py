"""Joining a fleet and staying in it.

A node that has a join token gets a certificate for a key that it makes itself and that never leaves it. The certificate
is renewed after a third of its life, when it has expired, and under another authority.
"""

import asyncio
import contextlib
import hashlib
import logging
import random
import ssl
import time

from loradeck.artifacts.child_process import ask
from loradeck.schemas.ids import Wire
from loradeck.schemas.membership import AUTHORITY_PATH, HUB_NAME, JOIN_PATH, Joined, JoinRequest
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.http_client import Endpoint, HttpClient
from loradeck_agent.host.identity import Identity, is_join_token
from loradeck_agent.uplink.hub_api import CALL_S, HubApi, checked


async def join(config: AgentConfig, token: str) -> Joined:
    """Joins the fleet of the hub in a configuration, and keeps the identity in its state folder.

    The authority's certificate is asked for over a connection that is not trusted, and compared with the hash in the
    token. Only over a second one, whose certificate that authority has signed for a hub, is the token said.

    Raises: AgentError: `no_join_token`, `wrong_authority`, `unreachable`, or the hub's refusal. The node is as it was.
    """
    parts = token.split("_")
    if not is_join_token(token) or len(parts) != 4:
        fix = f"make one on the hub's host: loradeck node token {config.node} --out FILE"
        raise AgentError("no_join_token", "this is no join token", "", fix)
    if not config.hub.startswith("https"):
        raise AgentError("no_join_token", "a node joins over https", config.hub, "write the address of hub --nodes")
    authority = await _authority(config, parts[3])
    made = await ask("loradeck_agent.uplink.certificate_request", Wire())
    tls = ssl.create_default_context(cadata=authority)
    client = HttpClient(Endpoint.of_url(config.hub, tls, HUB_NAME), {"authorization": f"Bearer {token}"})
    try:
        body = JoinRequest(node=config.node, csr=made["csr"]).model_dump_json().encode()
        joined = Joined.model_validate_json(checked(await client.call("POST", JOIN_PATH, body, timeout=CALL_S)).body)
    finally:
        client.close()
    Identity(config.state).keep(joined, made["key"])
    return joined


async def _authority(config: AgentConfig, fingerprint: str) -> str:
    """The authority's certificate, which has the fingerprint that the token carries."""
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    client = HttpClient(Endpoint.of_url(config.hub, blind))
    try:
        pem = checked(await client.get(AUTHORITY_PATH, timeout=CALL_S)).text
        found = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except ValueError:
        found = ""
    finally:
        client.close()
    if found != fingerprint:
        raise AgentError(
            "wrong_authority",
            "what answers there is not the hub that made this join token",
            f"{config.hub}: its authority has another hash; the token was not said",
            "correct `hub` in agent.toml; where it is right, somebody stands between this node and its hub",
        )
    return pem


log = logging.getLogger(__name__)

LOOK_S = 600.0
"""Seconds between two looks at the certificate's age."""

RETRY_S = 10.0
"""Seconds until the next try of a node whose certificate has expired: until then it cannot link."""


SPREAD_S = 10.0
"""Seconds over which the nodes of a fleet renew that were told of another authority together."""


class Renewal:
    """Renews the certificate of a node that has joined. The key stays; joining again makes a new one."""

    def __init__(self, identity: Identity, hub: HubApi) -> None:
        self._identity = identity
        self._hub = hub
        self._roots: tuple[str, ...] = ()
        """The authorities that the hub has told of, until it was asked for them."""
        self._told = asyncio.Event()

    async def run(self) -> None:
        """Renews until cancelled."""
        while True:
            self._told.clear()
            pause = await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._told.wait()
                await asyncio.sleep(random.uniform(0, SPREAD_S))

    def told(self, roots: tuple[str, ...]) -> None:
        """The hub has said on which authorities its certificates rest."""
        self._roots = roots
        if self._identity.exists and roots != self._identity.roots():
            self._told.set()

    async def look(self) -> float:
        """Renews the certificate if it is due. Returns the seconds until the next look."""
        if not self._identity.exists:
            return LOOK_S
        validity, now_ms = self._identity.validity(), time.time_ns() // 1_000_000
        others = bool(self._roots) and self._roots != self._identity.roots()
        if now_ms < validity.renew_ms and not others:
            return LOOK_S
        try:
            self._identity.keep(await self._hub.renew())
            self._roots = ()  # what it gave counts, until it says otherwise again
            log.info("renewed this node's certificate")
            return LOOK_S
        except (AgentError, OSError) as error:
            log.warning("this node's certificate is not renewed yet: %s", error)
            return LOOK_S if now_ms < validity.until_ms and not others else RETRY_S
