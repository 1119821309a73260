"""`python -m loradeck_agent.router --state DIR --listen HOST:PORT`: one router, until SIGTERM.

Exit status: 0 stopped on request; 1 the table or a listener cannot be used, with the reason on stderr.
"""

import argparse
import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from loradeck.schemas.address import is_loopback
from loradeck.schemas.fault import Fault
from loradeck.schemas.table import ColdQueueLimits, NodeLimits
from loradeck.strangers.certificates import ServerCertificate
from loradeck_agent.host.process import allow_open_files, log_to_stderr, settle
from loradeck_agent.router.serve import Router


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a router from its command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loradeck_agent.router", description=__doc__)
    parser.add_argument("--state", type=Path, required=True, help="folder of its table, lock and control socket")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="where callers connect")
    parser.add_argument("--tls-cert", type=Path, help="PEM certificate chain; needed beyond loopback")
    parser.add_argument("--tls-key", type=Path, help="its private key; not needed where it stands in the same file")
    parser.add_argument("--client-ca", type=Path, help="PEM of the authority whose certificates callers must show")
    parser.add_argument(
        "--limits", type=NodeLimits.model_validate_json, metavar="JSON", help="of each caller's key, on this node"
    )
    parser.add_argument(
        "--queue", type=ColdQueueLimits.model_validate_json, metavar="JSON", help="of requests that wait for a load"
    )
    parser.add_argument(
        "--untold", nargs="*", default=(), metavar="TENANT/ROUTE", help="refused until the agent tells of them again"
    )
    parser.add_argument("--build", default="", help="which build of Loradeck this is, for `status`")
    parser.add_argument(
        "--sockets", type=int, nargs="*", default=(), metavar="FD", help="inherited listening sockets, for --listen"
    )
    parser.add_argument("--take-over", action="store_true", help="asks the router that runs to hand over")
    options = parser.parse_args(argv)
    host, _, port = options.listen.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdigit():
        parser.error("--listen takes HOST:PORT")
    if options.tls_cert is None and not is_loopback(host):
        parser.error("--listen beyond loopback needs --tls-cert: callers send their keys")
    if options.client_ca is not None and options.tls_cert is None:
        parser.error("--client-ca needs --tls-cert")
    log_to_stderr("info")
    allow_open_files()
    try:
        cert, key, clients = options.tls_cert, options.tls_key, options.client_ca
        tls = ServerCertificate(cert, key, clients, required=clients is not None) if cert is not None else None
        untold = [(tenant, route) for tenant, _, route in (name.partition("/") for name in options.untold)]
        uvloop.run(_run(options, untold, host, int(port), tls))
    except (Fault, OSError) as fault:
        logging.getLogger("loradeck_agent.router").error("%s", fault)
        return 1
    return 0


async def _run(
    options: argparse.Namespace, untold: list[tuple[str, str]], host: str, port: int, tls: ServerCertificate | None
) -> None:
    router = Router(
        options.state, options.limits, untold, queue=options.queue, build=options.build, takes_over=options.take_over
    )
    stop = router.drained
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await router.start(host, port, tls, sockets=[socket.socket(fileno=file) for file in options.sockets])
        settle()
        await stop.wait()
    finally:
        await router.stop()


if __name__ == "__main__":
    sys.exit(main())
