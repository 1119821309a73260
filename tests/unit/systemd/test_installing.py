"""Installing services: what is refused, and what the files say. A real systemd is tests/services/test_systemd.py."""

from __future__ import annotations

import os
import pwd
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from loradeck.cli.commands.hub import hub
from loradeck.systemd import units

HUB = units.hub_files(Path("/opt/loradeck/bin/loradeck"), Path("/var/lib/loradeck-hub"), [])


def test_without_root_nothing_is_done_and_the_way_to_look_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for work in (
        lambda: units.install(HUB, Path("/var/lib/loradeck-hub"), units.HUB, print, dry_run=False),
        lambda: units.uninstall(HUB, print, dry_run=False),
    ):
        with pytest.raises(units.ServiceFault, match="needs_root") as refused:
            work()
        assert "--dry-run or --print" in refused.value.fix


def test_a_dry_run_says_each_step_and_does_none(capsys: pytest.CaptureFixture[str]) -> None:
    units.install(HUB, Path("/var/lib/loradeck-hub"), units.HUB, print, dry_run=True)
    said = capsys.readouterr().out
    assert "would write: /etc/systemd/system/loradeck-hub.service" in said
    assert "would run: systemctl enable loradeck-hub.service" in said
    assert not Path("/etc/systemd/system/loradeck-hub.service").exists()


def test_a_file_that_a_narrow_umask_has_closed_to_the_services_user_is_named() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as made:  # pytest's own folders are closed to others
        folder, file = Path(made), Path(made, "agent.toml")
        file.touch(mode=0o600)
        assert units.closed_to(file, "nobody") == folder
        folder.chmod(0o755)
        assert units.closed_to(file, "nobody") == file
        assert units.closed_to(file, pwd.getpwuid(os.geteuid()).pw_name) is None
        file.chmod(0o644)
        assert units.closed_to(file, "nobody") is None
        assert units.closed_to(folder / "missing", "nobody") is None


def test_a_program_in_a_home_is_refused_since_no_service_may_look_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_HOMES", (Path(sys.executable).parent,))
    with pytest.raises(units.ServiceFault, match="program_in_home"):
        units.program("loradeck")


def test_the_options_of_the_hub_stand_in_its_unit_as_they_were_given(tmp_path: Path) -> None:
    given = ["--nodes", "[::]:7400", "--name", "the 100% hub", "--production", "--oidc", "people.toml"]
    shown = CliRunner().invoke(hub, ["install-service", *given, "--print"])
    assert shown.exit_code == 0, shown.output
    (start,) = [line for line in shown.output.splitlines() if line.startswith("ExecStart=")]
    for part in ("--data /var/lib/loradeck-hub", "--nodes '[::]:7400'", "--name 'the 100%% hub'", "--production"):
        assert part in start
    assert f"--oidc {Path.cwd() / 'people.toml'}" in start


def test_a_gateway_is_a_service_of_its_own() -> None:
    user, service = units.gateway_files(Path("/p"), Path("/c.toml"), Path("/var/lib/loradeck-gateway"))
    assert (user.path.name, service.path.name) == ("loradeck-gateway.conf", "loradeck-gateway.service")
    for line in ("ExecStart=/p gateway --config /c.toml", "User=loradeck-gateway", "StateDirectory=loradeck-gateway"):
        assert f"{line}\n" in service.text
    assert "TimeoutStartSec" not in service.text


@pytest.mark.parametrize(
    ("listen", "stream"),
    [("127.0.0.1:7500", "127.0.0.1:7500"), ("localhost:1", "127.0.0.1:1"), ("[::]:7500", "[::]:7500")],
)
def test_the_routers_socket_listens_where_the_router_would(listen: str, stream: str) -> None:
    files = units.agent_files(Path("/p"), Path("/c.toml"), Path("/srv/agent"), listen, as_root=False, read_home=True)
    service, sock = files[1].text, files[2].text
    assert f"ListenStream={stream}\n" in sock
    assert "ReadWritePaths=/srv/agent\n" in service
    assert "ProtectHome=read-only\n" in service
