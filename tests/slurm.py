"""A real SLURM on this machine: a controller and one node on loopback, for the time of a test or of a command.

``python tests/slurm.py COMMAND ...`` runs a command beside it. It needs root. On Debian and its descendants what is
missing is installed from the system's own packages; elsewhere munge and SLURM must be there already. All its files
stand in one temporary folder and its daemons end with the process that started them, so that several can run at once
and none leaves anything behind for the next.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PARTITION = "debug"
_PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue", "sinfo")
_PACKAGES = ("munge", "slurm-wlm")
_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
_SECONDS_TO_START = 60.0
_SECONDS_TO_STOP = 10.0

# No slurmdbd, so no accounting: the real `sacct` fails, and a program that asks it for the state of its jobs, as
# submitit does, waits for a killed job for ever. The controller remembers its jobs; this answers from its memory.
_SACCT = """\
#!/bin/sh
jobs=
while [ $# -gt 0 ]; do
    case $1 in
        -j) jobs=$jobs,$2; shift ;;
        -j*) jobs=$jobs,${1#-j} ;;
    esac
    shift
done
echo 'JobID|State|NodeList'
squeue --noheader --states=all --array --jobs="${jobs#,}" --format='%i|%T|%N' 2>/dev/null || true
"""


class SlurmUnavailable(RuntimeError):
    """SLURM cannot run here; the message is the reason."""


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """Start SLURM, with all of the machine's cores and memory in the partition ``debug``, and stop it at the end.

    Yields:
        The environment variables that SLURM's programs need in order to find it: ``SLURM_CONF`` and ``PATH``.

    Raises:
        SlurmUnavailable: this is not the place for it.
        RuntimeError: it did not start; the message holds the daemons' logs.
    """
    _install()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munge refuses a socket that others cannot reach
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": os.pathsep.join((str(folder / "bin"), _PATH))}
    node = _host()
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        _write_files(folder, node)
        munge = (f"--{kind}={folder / f'munge.{kind}'}" for kind in ("socket", "key-file", "pid-file", "seed-file"))
        daemons += [_start(folder, "munged", "--foreground", *munge)]
        _wait_for(folder, daemons, (folder / "munge.socket").exists)
        daemons += [_start(folder, "slurmctld", "-D", "-c", "-f", str(folder / "slurm.conf"))]
        daemons += [_start(folder, "slurmd", "-D", "-N", node, "-f", str(folder / "slurm.conf"))]
        _wait_for(folder, daemons, lambda: _ask(environment, "sinfo", "-h", "-o", "%T") == "idle")
        yield environment
    finally:
        # Jobs first: the processes of a job are not the daemon's children, and outlive it.
        if len(daemons) == 3 and _ask(environment, "squeue", "-h"):
            _ask(environment, "scancel", "--state=PENDING", "--user=root")
            _ask(environment, "scancel", "--signal=KILL", "--full", "--user=root")
            _ask(environment, "scancel", "--user=root")
            with contextlib.suppress(TimeoutError):
                _poll(lambda: not _ask(environment, "squeue", "-h"), _SECONDS_TO_STOP)
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(_SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _install() -> None:
    """See that the programs are there; install them where that can be done.

    Raises:
        SlurmUnavailable: they are not, and cannot be installed.
    """
    if sys.platform != "linux":
        raise SlurmUnavailable("SLURM runs on Linux only")
    if os.geteuid() != 0:
        raise SlurmUnavailable("a SLURM that starts jobs has to be started by root")
    missing = _missing()
    if missing and not (Path("/etc/debian_version").exists() and shutil.which("apt-get", path=_PATH)):
        raise SlurmUnavailable(f"{', '.join(missing)} not found, and this is no Debian, where it could be installed")
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"]
    for command in ([*install, *_PACKAGES], ["apt-get", "update", "-qq"], [*install, *_PACKAGES]):
        if not missing:
            break
        done = subprocess.run(
            command,
            env={**os.environ, "PATH": _PATH, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        missing = _missing()
    if missing:
        raise SlurmUnavailable(f"{', '.join(missing)} not found; apt-get says: {done.stdout.strip()[-500:]}")


def _missing() -> list[str]:
    return [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]


def _host() -> str:
    """The name by which slurmctld knows the machine that it runs on."""
    return socket.gethostname().split(".")[0]


def _write_files(folder: Path, node: str) -> None:
    """The config, the key and the stand-in for sacct."""
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    key = folder / "munge.key-file"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(128))
    if _version() >= 23:  # nothing here uses control groups; older ones know no such word, and do without it
        (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    sacct = folder / "bin" / "sacct"
    sacct.write_text(_SACCT)
    sacct.chmod(0o755)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    controller_port, node_port = _free_ports(2)
    (folder / "slurm.conf").write_text(f"""\
ClusterName=local
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
# A requeued job waits until its old credential has expired: two minutes if nothing is said.
AuthType=auth/munge
AuthInfo=socket={folder / "munge.socket"},cred_expire=5
CredType=cred/munge
StateSaveLocation={folder / "state"}
SlurmdSpoolDir={folder / "spool"}
SlurmctldPidFile={folder / "slurmctld.pid"}
SlurmdPidFile={folder / "slurmd.pid"}
MailProg=/bin/true
MpiDefault=none
# Neither systemd nor control groups are asked for, so it runs in a container too.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
# Ended jobs are remembered for this long: the stand-in for sacct asks for them.
MinJobAge=3600
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1
NodeName={node} NodeAddr=127.0.0.1 CPUs={max(os.cpu_count() or 1, 2)} RealMemory={memory - 512} State=UNKNOWN
PartitionName={PARTITION} Nodes=ALL Default=YES MaxTime=INFINITE State=UP
""")


def _version() -> int:
    said = subprocess.check_output(["slurmd", "-V"], env={**os.environ, "PATH": _PATH}, text=True)
    return int(said.split()[-1].split(".")[0])


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _start(folder: Path, program: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a daemon in the foreground; it ends when this process does, however that ends."""
    with (folder / f"{program}.log").open("wb") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", program, *arguments],
            env={**os.environ, "PATH": _PATH},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C is this process's alone
        )


def _ask(environment: dict[str, str], *command: str) -> str:
    """What a program of SLURM prints; nothing where it fails."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _wait_for(folder: Path, daemons: Sequence[subprocess.Popen[bytes]], condition: Callable[[], object]) -> None:
    """Wait until the daemons have done something.

    Raises:
        RuntimeError: they have not, in time, or one has ended.
    """

    def ended() -> bool:
        return any(daemon.poll() is not None for daemon in daemons)

    with contextlib.suppress(TimeoutError):
        _poll(lambda: condition() or ended(), _SECONDS_TO_START)
    if not condition():
        why = "a daemon ended" if ended() else f"no idle node after {_SECONDS_TO_START:g} s"
        logs = "\n".join(f"{path.name}:\n{path.read_text()[-2000:]}" for path in sorted(folder.glob("*.log")))
        raise RuntimeError(f"SLURM did not start: {why}\n{logs}")


def _poll(condition: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


if __name__ == "__main__":
    try:
        with running() as variables:
            sys.exit(subprocess.run(sys.argv[1:], env={**os.environ, **variables}, check=False).returncode)
    except SlurmUnavailable as reason:
        sys.exit(str(reason))
