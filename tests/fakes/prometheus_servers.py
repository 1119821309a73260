"""Debian's Prometheus and Alertmanager, with the rules of docs/alerts.yml, watching one hub."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / ".prometheus" / "usr" / "bin"

_SHARE = f"mount -t overlay overlay -o lowerdir={PROGRAMS.parent / 'share'}:/usr/share /usr/share"
"""Debian's Alertmanager reads its templates from /usr/share: there they are, for it alone."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def watching(hub_port: int, token: str, webhook: str) -> Iterator[int]:
    """Both servers, until the block ends: the hub is scraped each second, and alerts are sent to `webhook` at once.

    Yields Prometheus's port.
    """
    assert PROGRAMS.exists(), f"{PROGRAMS} is missing: make test-services downloads it"
    alertmanager, prometheus = _free_port(), _free_port()
    with tempfile.TemporaryDirectory(prefix="ldprom") as name:
        folder = Path(name)
        (folder / "token").write_text(token)
        route = {"receiver": "us", "group_wait": "0s", "group_interval": "1s", "group_by": ["..."]}
        receivers = [{"name": "us", "webhook_configs": [{"url": webhook, "send_resolved": True}]}]
        (folder / "alertmanager.yml").write_text(json.dumps({"route": route, "receivers": receivers}))
        scrape = {
            "job_name": "loradeck",
            "authorization": {"credentials_file": str(folder / "token")},
            "static_configs": [{"targets": [f"127.0.0.1:{hub_port}"]}],
        }
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ROOT / "docs" / "alerts.yml")],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
            "scrape_configs": [scrape],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        commands = (
            [
                "unshare",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                f'{_SHARE} && exec "$@"',
                "sh",
                str(PROGRAMS / "prometheus-alertmanager"),
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'alerts'}",
                f"--web.listen-address=127.0.0.1:{alertmanager}",
                "--cluster.listen-address=",
            ],
            [
                str(PROGRAMS / "prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'series'}",
                f"--web.listen-address=127.0.0.1:{prometheus}",
            ],
        )
        with (folder / "log").open("w") as log:
            servers = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
        try:
            yield prometheus
            ended = [server.args for server in servers if server.poll() is not None]
            assert not ended, (folder / "log").read_text()
        except BaseException:
            print((folder / "log").read_text()[-6000:])
            raise
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait(60)
