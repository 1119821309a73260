"""Addresses that need no TLS: the loopback interface."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether traffic to `host` (a name, or an address without brackets) cannot leave this machine.

    `localhost` is the only name that counts: any other may resolve to anywhere.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
