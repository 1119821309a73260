"""Hints of gateways that a request is coming, by which a node begins early to load a release that is on its disk alone.

A hint is believed of a gateway, by the certificate that its connection has proven, and about routes that the key of the
coming request may ask for. A caller's own counts for nothing: that path is none that it knows of.
"""

from typing import Any

from loradeck.schemas.ids import PointerKey
from loradeck.schemas.membership import GATEWAY_NAME
from loradeck_agent.router.admission import DEFAULT_ROUTE

HINT_PATH = "/v1/loradeck/coming"
HINT = "x-loradeck-coming"
"""The header of a hint, which has no body: TENANT/ROUTE."""


def is_gateway(tls: Any) -> bool:
    """Tells whether a connection's certificate is a gateway's. `tls`: its `ssl.SSLObject`; None: it has no TLS."""
    shown = tls.getpeercert() if tls is not None else None
    return ("DNS", GATEWAY_NAME) in shown.get("subjectAltName", ()) if shown else False


def hinted(text: str) -> PointerKey:
    """Reads the pointer that the header of a hint names."""
    tenant, _, route = text.partition("/")
    return tenant, route or DEFAULT_ROUTE
