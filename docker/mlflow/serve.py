"""Become the deployment's MLflow server: secrets from files, the databases and the bucket made ready first.

Passwords reach the server through its environment, never through a command line or a URI, where they would show.
``main`` says what is set from outside; a missing secret or a store that does not answer is one line and exit code 2.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE_SECONDS = 180.0  # for Postgres and the object store to come up
AUTH_CACHE_SECONDS = 60  # else every request hashes the password anew, for half a second
TRACKING, USERS = "mlflow", "mlflow_auth"  # the databases
# MLflow answers 40 requests at once, and a batch of metrics holds one connection while it asks for another: with fewer
# than 41 they all wait for each other. Both databases' pools have this size; Postgres must allow twice as many.
CONNECTIONS, MORE_CONNECTIONS = 20, 40
CLUSTER = "ray"  # the user as whom the cluster's jobs write


def main() -> None:
    """Environment: POSTGRES_HOST, POSTGRES_USER, ARTIFACTS (a folder or s3://bucket/path), S3_ENDPOINT, S3_REGION.

    Files in SECRETS (/run/secrets): postgres_password, mlflow_admin_password, mlflow_ray_password, mlflow_flask_key,
    and for s3:// s3_access_key and s3_secret_key. MLflow itself reads MLFLOW_SERVER_ALLOWED_HOSTS.
    """
    host, user = os.environ.get("POSTGRES_HOST", "postgres"), os.environ.get("POSTGRES_USER", "mlflow")
    artifacts = os.environ.get("ARTIFACTS", "/artifacts")
    os.environ.update(
        PGPASSWORD=_secret("postgres_password"),
        MLFLOW_AUTH_ADMIN_PASSWORD=_secret("mlflow_admin_password"),
        MLFLOW_FLASK_SERVER_SECRET_KEY=_secret("mlflow_flask_key"),
        MLFLOW_AUTH_CONFIG_PATH=str(_auth_file(_uri(user, host, USERS))),
        MLFLOW_BACKEND_STORE_URI=_uri(user, host, TRACKING),
        MLFLOW_BASIC_AUTH_FAIL_CLOSED="true",
        MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=str(CONNECTIONS),
        MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW=str(MORE_CONNECTIONS),
        MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",  # two gigabytes of processes that nothing here uses
        DO_NOT_TRACK="true",
    )
    _patiently(f"Postgres at {host}", lambda: _make_databases(host, user))
    _make_user(_uri(user, host, USERS), CLUSTER, _secret("mlflow_ray_password"))
    if artifacts.startswith("s3://"):
        endpoint = os.environ.get("S3_ENDPOINT", "http://rustfs:9000")
        os.environ.update(
            MLFLOW_S3_ENDPOINT_URL=endpoint,
            AWS_ACCESS_KEY_ID=_secret("s3_access_key"),
            AWS_SECRET_ACCESS_KEY=_secret("s3_secret_key"),
            AWS_DEFAULT_REGION=os.environ.get("S3_REGION", "us-east-1"),
            AWS_EC2_METADATA_DISABLED="true",
            AWS_REQUEST_CHECKSUM_CALCULATION="WHEN_REQUIRED",  # older servers take the trailer for data
        )
        _patiently(f"the object store at {endpoint}", lambda: _make_bucket(endpoint, urlsplit(artifacts).netloc))
    server = ["mlflow", "server", "--app-name", "basic-auth", "--host", "0.0.0.0", "--port", "5000", "--workers", "1"]
    os.execvp("mlflow", [*server, "--serve-artifacts", "--artifacts-destination", artifacts])


def _secret(name: str) -> str:
    file = Path(os.environ.get("SECRETS", "/run/secrets"), name)
    try:
        value = file.read_text().strip()
    except OSError as error:
        sys.exit(_problem(f"{file}: cannot be read ({error.strerror}); docker/setup makes it"))
    if not value:
        sys.exit(_problem(f"{file}: empty; delete it and run docker/setup again"))
    return value


def _uri(user: str, host: str, database: str) -> str:
    """Without a password: libpq takes it from PGPASSWORD."""
    return f"postgresql+psycopg2://{user}@{host}/{database}"


def _auth_file(database: str) -> Path:
    lines = {
        "default_permission": "READ",
        "database_uri": database,
        "admin_username": "admin",
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": AUTH_CACHE_SECONDS,
    }
    file = Path(tempfile.mkdtemp(), "auth.ini")
    file.write_text("[mlflow]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items()))
    return file


def _make_databases(host: str, user: str) -> None:
    import psycopg2

    connection = psycopg2.connect(host=host, user=user, dbname=TRACKING, connect_timeout=5)
    try:
        connection.autocommit = True  # a database cannot be made within a transaction
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (USERS,))
            if cursor.fetchone() is None:
                cursor.execute(f"CREATE DATABASE {USERS}")
    finally:
        connection.close()


def _make_user(database: str, name: str, password: str) -> None:
    """A user without rights over others; of one that is there, the password becomes this one."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    users = SqlAlchemyStore()
    users.init_db(database)
    if not users.has_user(name):
        users.create_user(name, password)
    elif not users.authenticate_user(name, password):
        users.update_user(name, password)


def _make_bucket(endpoint: str, bucket: str) -> None:
    import boto3
    from botocore.exceptions import ClientError

    client = boto3.client("s3", endpoint_url=endpoint)
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        client.create_bucket(Bucket=bucket)


def _patiently(what: str, prepare: Callable[[], None]) -> None:
    """Try until it works: a restarted host starts everything at once, and not every engine heeds the order."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            prepare()
        except Exception as error:  # of psycopg2 or botocore
            reason = str(error).strip().split("\n")[-1]
            if time.monotonic() > until:
                sys.exit(_problem(f"{what}: {reason}"))
            print(f"waiting for {what}: {reason}", flush=True)
            time.sleep(2)
        else:
            return


def _problem(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
