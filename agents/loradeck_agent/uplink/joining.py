"""Joining: a node that has a join token gets a certificate for a key that it makes itself and that never leaves it."""

import hashlib
import ssl

from loradeck.artifacts.child_process import ask
from loradeck.schemas.ids import Wire
from loradeck.schemas.membership import AUTHORITY_PATH, HUB_NAME, JOIN_PATH, Joined, JoinRequest
from loradeck_agent.host.config import AgentConfig
from loradeck_agent.host.errors import AgentError
from loradeck_agent.host.http_client import Endpoint, HttpClient
from loradeck_agent.host.identity import Identity
from loradeck_agent.host.login import is_join_token
from loradeck_agent.uplink.hub_api import CALL_S, checked


async def join(config: AgentConfig, token: str) -> Joined:
    """Joins the fleet of the hub in a configuration, and keeps the identity in its state folder.

    The authority's certificate is asked for over a connection that is not trusted, and compared with the hash in the
    token. Only over a second one, whose certificate that authority has signed for a hub, is the token said.

    Raises: AgentError: `no_join_token`, `wrong_authority`, `unreachable`, or the hub's refusal. The node is as it was.
    """
    parts = token.split("_")
    if not is_join_token(token) or len(parts) != 4:
        raise AgentError("no_join_token", "this is no join token", "", _fix(config))
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


def _fix(config: AgentConfig) -> str:
    return f"make one on the hub's host: loradeck node token {config.node} --out FILE"
