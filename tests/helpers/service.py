"""The deployment of docker/compose.yaml as processes on hosts of a test: the same commands, settings and secrets.

Other than there: Debian's Postgres in place of its image, moto in place of RustFS (with its checks of signatures on),
no containers, and Ray hears of a host's death within seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import requests
from compose import COMPOSE, DOCKER
from hosts import Hosts
from processes import environment, wait_until

SERVICES = COMPOSE["services"]
POSTGRES = Path("/usr/lib/postgresql/15/bin")
NAMES = ("postgres", "rustfs", "mlflow", "ray-head", "worker1", "worker2")
ADA = "ada-s-own-password-0123456789"
FAST = {"initial_delay_ms": "1000", "period_ms": "1000", "timeout_ms": "1000", "failure_threshold": "3"}
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["s3:*"], "Resource": "*"}]}


def missing() -> list[str]:
    """What these hosts would need and this machine has not."""
    needed = {"root": os.getuid() == 0, "iproute2": shutil.which("ip"), "Postgres 15": (POSTGRES / "initdb").exists()}
    return [name for name, found in needed.items() if not found]


class Service:
    """Everything running. ``store`` and ``address`` are MLflow and Ray as this machine reaches them."""

    def __init__(self, hosts: Hosts, folder: Path, database: Path) -> None:
        self.hosts, self.folder, self._databases = hosts, folder, database
        self.store = f"http://{hosts.at('mlflow')}:5000"
        self.address = f"http://{hosts.at('ray-head')}:8265"
        self.endpoint = f"http://{hosts.at('rustfs')}:9000"
        self.home, self.secrets = folder / "home", folder / "docker" / "secrets"
        self.home.mkdir()
        self.secrets.parent.mkdir()
        for name in ("setup", ".env.example"):
            shutil.copy(DOCKER / name, self.secrets.parent)
        subprocess.run(["sh", str(self.secrets.parent / "setup")], check=True, capture_output=True)

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text()

    def all_secrets(self) -> dict[str, str]:
        """Everything that must never be seen, by name."""
        return {file.name: file.read_text() for file in self.secrets.iterdir()} | {"ada": ADA}

    def make_database(self) -> None:
        """An empty one, in a folder of its own."""
        self._database = self._databases / str(len(list(self._databases.iterdir())))
        self._database.mkdir()
        for folder in (self._databases, self._database):
            shutil.chown(folder, "postgres", "postgres")
        password = self._database / "password"
        password.write_text(self.secret("postgres_password"))
        shutil.chown(password, "postgres", "postgres")
        data = self._database / "data"
        options = ["-D", str(data), "-U", "mlflow", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync"]
        self._as_postgres("initdb", *options)
        with open(data / "pg_hba.conf", "a") as file:
            file.write("host all all samenet scram-sha-256\n")
        self.start_database()
        self.query("CREATE DATABASE mlflow", "postgres")

    def start_database(self) -> None:
        server = [str(POSTGRES / "postgres"), "-D", str(self._database / "data"), "-k", str(self._database)]
        command = [
            "runuser",
            "-u",
            "postgres",
            "--",
            *server,
            "-c",
            "listen_addresses=*",
            *SERVICES["postgres"]["command"],
        ]
        self.hosts.start("postgres", command, environment())
        self._wait("postgres", lambda: not self._ready())

    def stop_database(self) -> None:
        """As `docker stop` does."""
        pid = int((self._database / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGTERM if SERVICES["postgres"].get("stop_signal") == "SIGTERM" else signal.SIGINT)
        self.hosts.processes["postgres"][-1].wait(30)

    def query(self, text: str, database: str = "mlflow") -> list[Any]:
        import psycopg2

        at = self.hosts.at("postgres")
        connection = psycopg2.connect(
            host=at, user="mlflow", password=self.secret("postgres_password"), dbname=database
        )
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute(text)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def start_objects(self) -> None:
        """An S3 that forgets everything with its process, and checks signatures once its user is made."""
        command = [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", "9000"]
        self.hosts.start("rustfs", command, environment(INITIAL_NO_AUTH_ACTION_COUNT="3"))
        self._wait("rustfs", lambda: requests.get(f"{self.endpoint}/moto-api/", timeout=2).status_code)
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        users = boto3.client("iam", endpoint_url=self.endpoint, **keys)
        users.create_user(UserName="mlflow")
        users.put_user_policy(UserName="mlflow", PolicyName="all", PolicyDocument=json.dumps(POLICY))
        key = users.create_access_key(UserName="mlflow")["AccessKey"]
        for name, value in (("s3_access_key", key["AccessKeyId"]), ("s3_secret_key", key["SecretAccessKey"])):
            (self.secrets / name).chmod(0o600)
            (self.secrets / name).write_text(value)
            (self.secrets / name).chmod(0o444)

    def objects(self, secret: str | None = None) -> Any:
        """A client of the object store."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.secret("s3_access_key"),
            aws_secret_access_key=secret or self.secret("s3_secret_key"),
        )

    def start_mlflow(self) -> None:
        at = self.hosts.at("mlflow")
        settings = {"POSTGRES_HOST": self.hosts.at("postgres"), "S3_ENDPOINT": self.endpoint}
        settings |= {"ARTIFACTS": "s3://mlflow/artifacts", "SECRETS": str(self.secrets)}
        settings |= {"MLFLOW_SERVER_ALLOWED_HOSTS": f"mlflow:5000,127.0.0.1:5000,{at}:5000"}
        command = [sys.executable, str(DOCKER / "mlflow" / "serve.py")]
        self.hosts.start("mlflow", command, environment(**settings))

    def wait_for_mlflow(self) -> None:
        self._wait("mlflow", lambda: requests.get(f"{self.store}/health", timeout=2).ok)

    def start_ray(self, name: str) -> None:
        """A node with its own temporary folder; the home folder, where studies keep their state, is everybody's."""
        at = self.hosts.at(name)
        service = SERVICES["ray-head" if name == "ray-head" else "ray-worker"]
        words = {"--address=ray-head:6379": f"--address={self.hosts.at('ray-head')}:6379"}
        words |= {"--num-cpus=${WORKER_CPUS:-2}": "--num-cpus=1"}
        command = [words.get(word, word) for word in service["command"]]
        command += [f"--node-ip-address={at}", "--object-store-memory=100000000"]
        secured = {key: self._here(value) for key, value in service["environment"].items()}
        secured |= {f"RAY_health_check_{key}": value for key, value in FAST.items()} | {"HOME": str(self.home)}
        own = self.folder / f"tmp-{name}"
        own.mkdir(exist_ok=True)
        Path("/tmp/ray").mkdir(exist_ok=True)
        self.hosts.start(name, command, environment(**secured), {own: Path("/tmp/ray")})

    def wait_for_ray(self, nodes: int) -> None:
        token = {"Authorization": f"Bearer {self.secret('ray_token')}"}

        def alive() -> bool:
            answer = requests.get(f"{self.address}/nodes?view=summary", headers=token, timeout=5).json()
            return sum(node["raylet"].get("state") == "ALIVE" for node in answer["data"]["summary"]) >= nodes

        self._wait("ray-head", alive)

    def client(self, **changed: str) -> dict[str, str]:
        """A laptop's environment: Ray's token and one's own name at MLflow."""
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.secrets / "ray_token")}
        own |= {"MLFLOW_TRACKING_USERNAME": "ada", "MLFLOW_TRACKING_PASSWORD": ADA}
        return environment(**{key: value for key, value in (own | changed).items() if value})

    def mlflow(self, method: str, path: str, **fields: str) -> requests.Response:
        """MLflow's own interface, as the administrator."""
        who = ("admin", self.secret("mlflow_admin_password"))
        return requests.request(method, f"{self.store}/api/2.0/mlflow/{path}", json=fields, auth=who, timeout=60)

    def _here(self, value: str) -> str:
        return value.replace("/run/secrets", str(self.secrets))

    def _as_postgres(self, command: str, *options: str) -> None:
        subprocess.run(["runuser", "-u", "postgres", "--", str(POSTGRES / command), *options], check=True)

    def _ready(self) -> int:
        asked = [str(POSTGRES / "pg_isready"), "-q", "-h", self.hosts.at("postgres")]
        return subprocess.run(asked).returncode

    def _wait(self, name: str, condition: Any) -> None:
        def answered() -> bool:
            try:
                return bool(condition())
            except (requests.RequestException, ValueError, KeyError):
                return False

        wait_until(answered, self.hosts.log(name), 120)


@contextmanager
def service(
    folder: Path,
    kind: type[Service] = Service,
    names: tuple[str, ...] = NAMES,
    prepare: Callable[[Any], None] = lambda running: None,
) -> Iterator[Service]:
    """The whole deployment, with a worker for each name of one and the user ada; all of it is gone afterwards."""
    database = Path(tempfile.mkdtemp(prefix="tlpg"))  # Postgres, as its own user, must reach it
    hosts = Hosts(names, folder)
    workers = [name for name in names if name.startswith("worker")]
    try:
        running = kind(hosts, folder, database)
        prepare(running)
        running.start_objects()
        running.start_ray("ray-head")  # all at once: each waits for what it needs
        running.make_database()
        running.start_mlflow()
        wait_until(lambda: _listens(running), hosts.log("ray-head"), 120)
        for name in workers:
            running.start_ray(name)
        running.wait_for_mlflow()
        running.wait_for_ray(1 + len(workers))
        assert running.mlflow("POST", "users/create", username="ada", password=ADA).ok
        yield running
    finally:
        hosts.close()
        shutil.rmtree(database, ignore_errors=True)


def _listens(running: Service) -> bool:
    """Ray's dashboard comes after what the workers need."""
    try:
        return requests.get(f"{running.address}/api/gcs_healthz", timeout=2).ok
    except requests.RequestException:
        return False
