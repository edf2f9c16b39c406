"""The Slurm script, with a real Slurm of two emulated hosts where Slurm is installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from processes import answers, free_ports, progress, tiny_study, wait_until, whole_study

from tune_lt.store import Store

SCRIPT = Path(__file__).parents[2] / "docker" / "slurm" / "study.sbatch"
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
missing = [name for name in NEEDED if not shutil.which(name)]
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def test_the_script_is_bash_without_traps() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(SCRIPT)], check=True)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Slurm with two hosts, which are both this one: call it with a command to run, for what it prints."""
    folder = tmp_path / "slurm"
    (folder / "state").mkdir(parents=True)
    configuration, key = folder / "slurm.conf", folder / "munge.key"
    ports = free_ports(3)
    configuration.write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=ports))
    key.write_bytes(os.urandom(64))
    key.chmod(0o600)
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder / 'munge.socket'}"]
    munge += [f"--{name}={folder / f'munged.{name[:4]}'}" for name in ("log-file", "pid-file", "seed-file")]
    daemons = [["slurmctld", "-D", "-f", str(configuration)]]
    daemons += [["slurmd", "-D", "-N", name, "-f", str(configuration)] for name in ("n1", "n2")]
    ready: list[tuple[list[str], Callable[[], bool]]] = [(munge, (folder / "munge.socket").exists)]
    ready += [(daemon, partial(answers, port)) for daemon, port in zip(daemons, ports, strict=True)]
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    running = []

    def call(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, cwd=tmp_path).stdout

    try:
        for command, is_up in ready:
            with open(folder / "daemons.txt", "a") as log:
                running.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
            wait_until(is_up, folder / "daemons.txt", 60)
        wait_until(lambda: call("sinfo", "-h", "-o", "%t").split() == ["idle"], folder / "daemons.txt", 60)
        yield call
    finally:
        for process in reversed(running):
            os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            process.wait(60)


@pytest.mark.slow
@pytest.mark.skipif(bool(missing) or os.getuid() != 0, reason=f"needs to be root, and {', '.join(NEEDED)}")
def test_a_study_outlives_the_time_of_its_allocation(tmp_path: Path, tiny_text: str, slurm: Callable[..., str]) -> None:
    epochs = 40
    study = tiny_study(tmp_path, tiny_text, epochs, ("concurrent: 2", "concurrent: 4"))
    job = slurm("sbatch", "--parsable", "--cpus-per-task=2", str(SCRIPT), study.name).strip()
    out = tmp_path / f"tune_lt-{job}.out"

    def printed(text: str) -> Callable[[], bool]:
        return lambda: out.exists() and text in out.read_text()

    wait_until(printed("resources: 4 CPUs, 0 GPUs"), out)
    wait_until(lambda: progress(tmp_path)[1] > 0, out)
    slurm("scancel", "--batch", "--signal=USR1", job)  # as --signal does when the time is almost up
    wait_until(printed("the job is queued again, and goes on from what is finished"), out)
    assert "stopped; what is finished is kept" in out.read_text()
    wait_until(lambda: slurm("squeue", "-h", "-o", "%t").split() == ["PD"], out)
    # instead of two minutes later; a start in the second of the requeue would be taken for a launch of the killed one
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now+15")
    wait_until(lambda: not slurm("squeue", "-h"), out, 480)
    assert "restarts 1" in out.read_text(), (tmp_path / "slurm" / "daemons.txt").read_text()[-3000:]
    assert "JobState=COMPLETED" in slurm("scontrol", "show", "job", job), out.read_text()
    assert (tmp_path / "reports" / "tiny").is_dir()
    whole_study(Store(f"sqlite:///{tmp_path / 'mlflow.db'}"), "tiny", epochs)
    assert list(Path("/tmp").glob(f"tune_lt-{job}-*")) == []
