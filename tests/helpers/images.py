"""The images of docker/, built without a Docker engine, and the services of compose.yaml as containers of them.

buildah builds (in a chroot) and podman runs, on a store of their own. The base image, which no registry gives here, is
Debian's own Python; Postgres and S3 stay processes, as `service` starts them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import service
from compose import COMPOSE, DOCKER, REPOSITORY, interpolated
from processes import environment
from service import Service

TOOLS = ("buildah", "podman", "runc", "debootstrap")
CLIENT = "tune-lt"  # compose's one service that is a command
NAMES = ("postgres", "rustfs", "mlflow", "ray-head", "worker1", "laptop")
LIMITS = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=30000:30000"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def missing() -> list[str]:
    """What building and running would need and this machine has not."""
    mirror = [] if _mirror() else ["a mirror of Debian"]
    return service.missing() + [tool for tool in TOOLS if not shutil.which(tool)] + mirror


def _mirror() -> str | None:
    """Where apt gets its packages here."""
    for file in (*Path("/etc/apt").glob("sources.list.d/*.sources"), Path("/etc/apt/sources.list")):
        found = re.search(
            r"^(?:URIs:|deb(?: \[.*?\])?) *(https?://\S+)", file.read_text() if file.exists() else "", re.M
        )
        if found:
            return found[1]
    return None


class Engine:
    """A store of images and containers below ``folder``, with what builds and runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "containers.conf").write_text(LIMITS)
        graph, run = folder / "graph", folder / "run"
        (folder / "storage.conf").write_text(f'[storage]\ndriver="overlay"\ngraphroot="{graph}"\nrunroot="{run}"\n')
        self.env = environment(
            CONTAINERS_STORAGE_CONF=str(folder / "storage.conf"),
            CONTAINERS_CONF=str(folder / "containers.conf"),
            BUILDAH_ISOLATION="chroot",
            TMPDIR=str(folder),
        )

    def __call__(self, *command: str, seconds: float = 120, tries: int = 1) -> str:
        """What a command of buildah's or podman's prints; fails with all it said if it fails ``tries`` times."""
        options = {"env": self.env, "capture_output": True, "text": True, "cwd": REPOSITORY, "timeout": seconds}
        for _ in range(tries):
            done: subprocess.CompletedProcess[str] = subprocess.run(command, **options)  # type: ignore[call-overload]
            if done.returncode == 0:
                break
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
        return done.stdout

    def make_base(self) -> None:
        """The base image under the name that the Dockerfiles have for it."""
        root, archive = self.folder / "root", self.folder / "root.tar"
        packages = "python3,python3-pip,python3-venv,ca-certificates"
        self(
            "debootstrap",
            "--variant=minbase",
            f"--include={packages}",
            "bookworm",
            str(root),
            str(_mirror()),
            seconds=600,
            tries=2,
        )
        self("tar", "-C", str(root), "--exclude=./proc/*", "--exclude=./sys/*", "-cf", str(archive), ".")
        (name,) = set(re.findall(r"^FROM (\S+:\S+)", "\n".join(file.read_text() for file in _dockerfiles()), re.M))
        self("podman", "import", "--change", "CMD=python3", str(archive), f"docker.io/library/{name}")
        shutil.rmtree(root)
        archive.unlink()

    def build(self, of: str, **arguments: str) -> str:
        """Build what compose.yaml builds for a service; the image's name."""
        built = COMPOSE["services"][of]
        image = f"localhost/{interpolated(built['image'], arguments)}"
        options = ["--layers", "--pull-never", "--network", "host", "--format", "docker"]  # OCI knows no health checks
        certificates = os.environ.get("PIP_CERT")
        if certificates:
            options += ["-v", f"{certificates}:/host-ca.crt:ro"]
            arguments["PIP_CERT"] = "/host-ca.crt"
        for key, value in arguments.items():
            options += ["--build-arg", f"{key}={value}"]
        file = f"docker/{_dockerfile(built)}"  # gigabytes come from a registry, which may fail once
        self("buildah", "bud", *options, "-f", file, "-t", image, ".", seconds=1500, tries=2)
        return image

    def close(self) -> None:
        """Take the containers and the whole store away."""
        for command in (("podman", "rm", "-f", "-a", "-t", "1"), ("podman", "rmi", "-f", "-a")):
            subprocess.run(command, env=self.env, capture_output=True, timeout=300)
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in sorted((one for one in mounted if one.startswith(str(self.folder))), reverse=True):
            subprocess.run(["umount", "-l", place], capture_output=True)
        shutil.rmtree(self.folder)


def _dockerfiles() -> list[Path]:
    return sorted(DOCKER.rglob("Dockerfile"))


def _dockerfile(built: dict[str, Any]) -> str:
    return str(built["build"]["dockerfile"]).removeprefix("docker/")


class Contained(Service):
    """MLflow and Ray in containers, with what compose.yaml gives them: command, settings, secrets, volumes, rights."""

    engine: Engine
    image: dict[str, str]  # compose's service -> the image that was built

    def start_mlflow(self) -> None:
        self._contain("mlflow", "mlflow")

    def start_ray(self, name: str) -> None:
        of = "ray-head" if name == "ray-head" else "ray-worker"
        self._contain(name, of, f"--node-ip-address={self.hosts.at(name)}", "--object-store-memory=100000000")

    def healthy(self, host: str, of: str) -> bool:
        """Whether compose.yaml's health check of a service passes in its container."""
        check = COMPOSE["services"][of]["healthcheck"]["test"]
        assert check[0] == "CMD"
        command = ["podman", "exec", host, *check[1:]]
        return subprocess.run(command, env=self.engine.env, capture_output=True).returncode == 0

    def as_laptop(self, *arguments: str, seconds: float = 300) -> str:
        """What the service that is a command prints."""
        options = self._options("laptop", CLIENT)
        entry = COMPOSE["services"][CLIENT]["entrypoint"]
        return self.engine("podman", "run", *options, self.image[CLIENT], *entry, *arguments, seconds=seconds)

    def _contain(self, host: str, of: str, *more: str) -> None:
        words = [interpolated(word, self._settings()) for word in COMPOSE["services"][of].get("command", [])]
        command = ["podman", "run", *self._options(host, of), self.image[of], *words, *(more if words else ())]
        with open(self.hosts.log(host), "ab") as log:
            process = subprocess.Popen(command, env=self.engine.env, stdout=log, stderr=log, start_new_session=True)
        self.hosts.processes[host].append(process)

    def _options(self, host: str, of: str) -> list[str]:
        """What compose.yaml says of a service, in podman's words; each container in the network of its host."""
        made = COMPOSE["services"][of]
        options = ["--rm", "--no-healthcheck", f"--name={host}", f"--network=ns:/run/netns/{self.hosts.space(host)}"]
        options += [f"--add-host={name}:{self.hosts.at(name)}" for name in NAMES if name != host]
        options += [f"--cap-drop={name}" for name in made["cap_drop"]]
        options += [f"--security-opt={name.removesuffix(':true')}" for name in made["security_opt"]]
        options += [f"-v={self.secrets / name}:/run/secrets/{name}:ro" for name in made.get("secrets", [])]
        for volume in made.get("volumes", []):
            source, target = interpolated(volume, self._settings()).split(":", 1)
            options.append(f"-v={ {'work': self.home, 'data': self.folder}.get(source, source) }:{target}")
        for name, value in made["environment"].items():
            options += ["-e", f"{name}={interpolated(value, self._settings())}"]
        if of != "mlflow":
            options += [f"-e=RAY_health_check_{key}={value}" for key, value in service.FAST.items()]
        if "shm_size" in made:
            options.append(f"--shm-size={interpolated(made['shm_size'], self._settings())}")
        if "working_dir" in made:
            options.append(f"--workdir={made['working_dir']}")
        return options

    def _settings(self) -> dict[str, str]:
        return {"WORKER_CPUS": "2", "STUDIES": str(self.folder), "MLFLOW_HOSTS": f"{self.hosts.at('mlflow')}:5000"}


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    made = Engine(folder)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def contained(folder: Path, made: Engine, image: dict[str, str]) -> Iterator[Contained]:
    """The whole deployment in containers, with one worker."""
    with service.service(folder, Contained, NAMES, prepare=lambda one: _prepare(one, made, image)) as running:
        assert isinstance(running, Contained)
        yield running


def _prepare(running: Contained, made: Engine, image: dict[str, str]) -> None:
    running.engine, running.image = made, image
    os.chown(running.home, 10001, 10001)
    running.folder.chmod(0o755)  # the studies, which a container's user must reach
