"""Addresses that need no TLS: the loopback interface; and those that a secret may be sent to."""

import ipaddress

from pydantic import AnyUrl, ValidationError


def is_loopback(host: str) -> bool:
    """Tells whether traffic to `host` (a name, or an address without brackets) cannot leave this machine.

    `localhost` is the only name that counts: any other may resolve to anywhere.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_safe_url(url: str) -> bool:
    """Tells whether a secret may be sent to a URL: https, or http on the loopback interface, without user or query."""
    try:
        parsed = AnyUrl(url)
    except ValidationError:
        return False
    if parsed.username or parsed.password or parsed.query or parsed.fragment or not parsed.host:
        return False
    return parsed.scheme == "https" or (parsed.scheme == "http" and is_loopback(parsed.host.strip("[]")))
