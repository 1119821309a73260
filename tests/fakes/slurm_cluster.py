"""A Slurm cluster of Debian's packages on this machine: one controller, and nodes that share the machine."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fleets.host import free_port
from tests.fleets.waiting import PATIENCE_S

SLURM = Path(__file__).parents[2] / ".slurm"
LIBRARIES = SLURM / "usr/lib/x86_64-linux-gnu"

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/slurm
CredType=auth/slurm
AuthInfo=cred_expire=6
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
PluginDir={libraries}/slurm-wlm
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MessageTimeout=5
PartitionName=low Nodes=ALL Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=high Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
"""
"""A job that is begun again waits for its old credential to run out: 6 s, the least that Slurm takes."""


TRIES = 3
STANDS_S = PATIENCE_S
"""How long a start may take; a good one takes one to six seconds."""


class Cluster:
    """Its nodes are `n1` and so on, with one processor each."""

    def __init__(self, root: Path, nodes: int) -> None:
        self.root, self.nodes = root, [f"n{i + 1}" for i in range(nodes)]
        self._controller: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []
        links = root / "sbin"
        links.mkdir()
        for name in ("slurmctld", "slurmd", "slurmstepd"):  # they look at the name by which they are called
            (links / name).symlink_to(SLURM / f"usr/sbin/{name}-wlm")
        key = root / "slurm.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        self._configure()
        (root / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        for name in ("state", *self.nodes):
            (root / name).mkdir()
        self.environment = {
            "SLURM_CONF": str(root / "slurm.conf"),
            "LD_LIBRARY_PATH": f"{LIBRARIES}:{LIBRARIES}/slurm-wlm",
            "PATH": f"{links}:{SLURM}/usr/bin:{os.environ['PATH']}",
        }

    def _configure(self) -> None:
        """Writes the cluster's configuration, with ports that are free now."""
        root = self.root
        host, user = socket.gethostname(), os.environ.get("USER", "root") if os.geteuid() else "root"
        lines = [
            f"NodeName={name} NodeAddr=127.0.0.1 NodeHostname={host} Port={free_port()} CPUs=1 RealMemory=1000"
            for name in self.nodes
        ]
        text = CONFIG.format(host=host, port=free_port(), user=user, root=root, libraries=LIBRARIES)
        (root / "slurm.conf").write_text(text + "\n".join(lines) + "\n")

    def start(self) -> None:
        """Starts controller and nodes. On a busy machine, where they sometimes never meet, again with other ports."""
        for _ in range(TRIES):
            if self._stands():
                return
            logs = [(self.root / f"{name}.log").read_text()[-2000:] for name in ("slurmctld", "slurmd")]
            ended = [process.poll() for process in self._started]
            self.close()
            self._started.clear()
            self._configure()
        raise AssertionError("\n".join(["the nodes are not idle", f"nodes ended with {ended}", *logs]))

    def _stands(self) -> bool:
        self.start_controller()
        for name in self.nodes:
            self._started.append(self._run("slurmd", "-N", name, "-d", str(self.root / "sbin/slurmstepd")))
        deadline = time.monotonic() + STANDS_S
        while self.command("sinfo", "--noheader", "--format=%T %D").split() != ["idle", str(len(self.nodes))]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def start_controller(self) -> None:
        self._controller = self._run("slurmctld")

    def end_controller(self) -> None:
        assert self._controller is not None
        self._controller.terminate()  # it saves its jobs, at other times every five seconds
        self._controller.wait()

    def _run(self, program: str, *args: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{program}.log").open("ab") as log:
            command = [str(self.root / "sbin" / program), "-D", *args]
            return subprocess.Popen(command, env=os.environ | self.environment, stdout=log, stderr=log)

    def command(self, program: str, *args: str) -> str:
        """What one of Slurm's commands prints; '' where it fails."""
        env = os.environ | self.environment
        return subprocess.run(
            [program, *args], env=env, capture_output=True, text=True, timeout=60, check=False
        ).stdout.strip()

    def job(self, name: str) -> list[str]:
        """Ids of the jobs of this name, whatever became of them."""
        return self.command("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%A").split()

    def close(self) -> None:
        self.command("scancel", "--signal=KILL", "--user", "root" if not os.geteuid() else os.environ["USER"])
        for process in (*self._started, self._controller):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


@contextmanager
def cluster(root: Path, *, nodes: int = 2) -> Iterator[Cluster]:
    made = Cluster(root, nodes)
    try:
        made.start()
        yield made
    finally:
        made.close()
