"""Where nothing needs TLS: the loopback of one's own host."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether what is sent to `host` (a name or an address without brackets) cannot leave this machine.

    Of the names only `localhost` is believed: any other may resolve to anywhere.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
