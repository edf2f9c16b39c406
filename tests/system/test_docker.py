"""The deployment's files, offline: against the schemas of what reads them, and against what they promise."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import runpy
import shutil
import stat
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose import COMPOSE, DOCKER, REPOSITORY, VARIABLE, interpolated
from jsonschema import Draft7Validator

from tune_lt import __version__

pytestmark = pytest.mark.long

SCHEMAS = Path(os.environ.get("TUNE_LT_SCHEMAS", REPOSITORY.parent / "shared" / "schemas"))
SERVICES: dict[str, Any] = COMPOSE["services"]
CLIENT = "tune-lt"  # the one service that is a command
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
MANIFESTS = sorted(set(DOCKER.glob("kuberay/*.yaml")) - {DOCKER / "kuberay" / "kustomization.yaml"})
TEMPLATE = "secrets.template.yaml"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DOCKER / "kuberay" / name).read_text()))


def named(name: str, kind: str) -> dict[str, Any]:
    return next(document for document in documents(name) if document["kind"] == kind)


def settings() -> dict[str, str]:
    lines = [line for line in (DOCKER / ".env.example").read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def pods(spec: Any) -> list[dict[str, Any]]:
    """Every pod specification below a node of a manifest."""
    if isinstance(spec, list):
        return [pod for item in spec for pod in pods(item)]
    if not isinstance(spec, dict):
        return []
    own = [spec] if isinstance(spec.get("containers"), list) else []
    return own + [pod for item in spec.values() for pod in pods(item)]


def every_image() -> dict[str, str]:
    """Where an image is named -> the image, with the settings as they come."""
    found = {name: interpolated(service["image"], settings()) for name, service in SERVICES.items()}
    for file in DOCKER.rglob("Dockerfile"):
        text = file.read_text()
        stages = re.findall(r"^FROM \S+ AS (\S+)", text, re.MULTILINE)
        bases = [base for base in re.findall(r"^FROM (\S+)", text, re.MULTILINE) if base not in stages]
        found |= {f"{file.parent.name}/Dockerfile {number}": base for number, base in enumerate(bases)}
    for file in MANIFESTS:
        containers = [container for pod in pods(documents(file.name)) for container in pod["containers"]]
        found |= {f"{file.name} {number}": one["image"] for number, one in enumerate(containers)}
    return found


@pytest.mark.parametrize("where", every_image())
def test_every_image_has_a_whole_version_and_our_own_the_packages(where: str) -> None:
    name, _, tag = every_image()[where].partition(":")
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?(-[a-z]+(-[a-z]+)?)?", tag), tag
    if name.startswith("tune-lt"):
        assert tag.split("-")[0] == __version__


def test_ray_on_kubernetes_and_mlflow_have_the_tested_versions() -> None:
    pinned = dict(
        line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert named("raycluster.yaml", "RayCluster")["spec"]["rayVersion"] == pinned["ray"]
    server = (DOCKER / "mlflow" / "requirements.txt").read_text()
    assert {"mlflow", "psycopg2-binary", "boto3"} == set(
        re.findall(r"^([a-z][\w-]*)(?:\[auth\])?$", server, re.MULTILINE)
    )
    assert {"mlflow", "psycopg2-binary", "boto3", "Flask-WTF", "botocore"} <= set(pinned)


def test_a_build_sees_what_it_copies_and_nothing_else() -> None:
    ignored = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    allowed = {line[1:] for line in ignored if line[0] == "!"}
    assert ignored[0] == "*"
    assert not any("secret" in path or path.startswith("docker/.env") for path in allowed)
    for file in DOCKER.rglob("Dockerfile"):
        for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", file.read_text(), re.MULTILINE):
            for path in copied.split():
                assert (REPOSITORY / path).exists()
                assert any(path == one or path.startswith(f"{one}/") for one in allowed), path


@pytest.mark.parametrize("file", sorted(DOCKER.rglob("Dockerfile")), ids=lambda file: file.parent.name)
def test_an_image_ends_as_a_user_with_a_health_check_and_without_secrets(file: Path) -> None:
    last = file.read_text().rsplit("\nFROM ", 1)[-1]
    assert re.findall(r"^USER (.+)$", last, re.MULTILINE)[-1] == "10001:10001"
    assert "\nHEALTHCHECK " in last
    assert not re.search(r"^(ARG|ENV) .*(PASSWORD|SECRET|TOKEN|KEY)", file.read_text(), re.MULTILINE)


def test_what_the_image_installs_is_what_the_package_names() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    command = re.search(r'python3 -c "(import tomllib.+?)" >', (DOCKER / "Dockerfile").read_text(), re.DOTALL)
    assert command is not None
    code = command[1].replace("\\\n", "").replace("/pyproject.toml", str(REPOSITORY / "pyproject.toml"))
    listed = subprocess.run(["python3", "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert listed == project["dependencies"] + project["optional-dependencies"]["cluster"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_be_watched_waits_for_what_exists_and_has_few_rights(name: str) -> None:
    service = SERVICES[name]
    check = service.get("healthcheck", {})
    assert check.get("disable") is True if name == CLIENT else check["test"][0] == "CMD" and check["retries"] > 1
    for other, how in service.get("depends_on", {}).items():
        assert how["condition"] in CONDITIONS
        shared = set(SERVICES[other].get("profiles", service.get("profiles", [])))
        assert how.get("required") is False or shared == set(service.get("profiles", [])), f"{other} may not run"
        if how["condition"] == "service_healthy":
            assert "test" in SERVICES[other]["healthcheck"]
    named_volumes = [mount.split(":/")[0] for mount in service["volumes"]] if "volumes" in service else []
    sources = {interpolated(source, settings()) for source in named_volumes}
    assert {source for source in sources if source[0] not in "./"} <= COMPOSE["volumes"].keys()
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "pid", "network_mode", "cap_add", "container_name"} & set(service)


def test_only_the_two_front_doors_are_published_and_on_this_host_alone() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports.keys() == {"mlflow", "ray-head"}
    for given in ({}, settings()):
        published = {name: [interpolated(port, given) for port in ports[name]] for name in ports}
        assert published == {"mlflow": ["127.0.0.1:5000:5000"], "ray-head": ["127.0.0.1:8265:8265"]}


def test_ray_reaches_neither_the_database_nor_the_objects() -> None:
    assert COMPOSE["networks"]["store"]["internal"] is True
    for name, service in SERVICES.items():
        expected = {"mlflow": {"store", "cluster"}}.get(
            name, {"store"} if name in ("postgres", "rustfs") else {"cluster"}
        )
        assert set(service["networks"]) == expected


def test_every_secret_is_a_file_that_setup_makes_and_no_setting_holds_one() -> None:
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == COMPOSE["secrets"].keys()
    assert {name: secret["file"] for name, secret in COMPOSE["secrets"].items()} == {
        name: f"./secrets/{name}" for name in used
    }
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|_KEY", key):
                assert key.endswith(("_FILE", "_PATH")), key
                assert value.removeprefix("/run/secrets/") in service["secrets"]
    assert not [key for key in settings() if re.search(r"PASSWORD|SECRET|TOKEN|KEY", key)]


def test_mlflow_has_more_connections_than_threads_and_postgres_as_many_as_both_its_pools() -> None:
    """A batch of metrics holds one connection while it asks for another: fewer than 41 stall (benchmarks/load.py)."""
    serve = runpy.run_path(str(DOCKER / "mlflow" / "serve.py"))
    pool = serve["CONNECTIONS"] + serve["MORE_CONNECTIONS"]
    assert pool > 40
    setting, allowed = SERVICES["postgres"]["command"][1].split("=")
    assert setting == "max_connections"
    assert int(allowed) >= 2 * pool
    store = next(pod for pod in pods(documents("store.yaml")) if "postgres" in pod["containers"][0]["image"])
    assert SERVICES["postgres"]["command"] == store["containers"][0]["args"]


def test_ray_asks_for_the_token_on_every_node() -> None:
    nodes = [service for service in SERVICES.values() if service["image"].startswith("tune-lt:")]
    assert len(nodes) == 4
    for node in nodes:
        assert node["environment"]["RAY_AUTH_MODE"] == "token"
        assert node["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
    for file, kind in (("raycluster.yaml", "RayCluster"), ("rayjob.yaml", "RayJob")):
        spec = named(file, kind)["spec"]
        assert spec.get("rayClusterSpec", spec)["authOptions"] == {"mode": "token", "secretName": "ray-token"}


def test_every_setting_is_used_with_the_default_it_is_listed_with() -> None:
    used: dict[str, set[str]] = {}
    for match in VARIABLE.finditer((DOCKER / "compose.yaml").read_text()):
        used.setdefault(match[1], set()).add(match[3])
    listed = settings()
    assert used == {key: {value} for key, value in listed.items() if key != "COMPOSE_PROFILES"}
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert set(listed["COMPOSE_PROFILES"].split(",")) < profiles


def test_setup_makes_readable_secrets_in_a_closed_folder_once(tmp_path: Path) -> None:
    for name in ("setup", ".env.example"):
        (tmp_path / name).write_bytes((DOCKER / name).read_bytes())
    made = []
    for _ in range(2):
        subprocess.run(["sh", str(tmp_path / "setup")], check=True, capture_output=True)
        made.append({file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()})
    assert made[0] == made[1]
    assert made[0].keys() == COMPOSE["secrets"].keys()
    assert len(set(made[0].values())) == len(made[0])
    assert all(re.fullmatch(r"[0-9a-f]{20}|[0-9a-f]{40}", secret) for secret in made[0].values())
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "secrets").iterdir()} == {0o444}
    assert (tmp_path / ".env").read_text() == (DOCKER / ".env.example").read_text()
    for name in ("docker/secrets/ray_token", "docker/.env"):
        subprocess.run(["git", "check-ignore", "-q", name], cwd=REPOSITORY, check=True)


@pytest.mark.parametrize("file", sorted(DOCKER.rglob("Dockerfile")), ids=lambda file: file.parent.name)
def test_a_linter_has_nothing_to_say_about_the_images(file: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    told = subprocess.run([hadolint, str(file)], capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (0, "")
    told = subprocess.run([hadolint, "-"], input="FROM debian\nRUN cd /x\n", capture_output=True, text=True)
    assert told.returncode == 1, "it lets everything through"


@pytest.mark.slow  # a few seconds, but it asks npm
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm brings the Compose specification's schema, in dclint")
def test_the_compose_files_are_what_the_compose_specification_allows(tmp_path: Path) -> None:
    subprocess.run(["npm", "pack", "--silent", "dclint@3.1.0"], cwd=tmp_path, check=True, timeout=120)
    with tarfile.open(tmp_path / "dclint-3.1.0.tgz") as package:
        package.extractall(tmp_path, filter="data")
    validator = Draft7Validator(json.loads((tmp_path / "package/schemas/compose.schema.json").read_text()))
    for name in ("compose.yaml", "compose.hosts.yaml"):
        file = yaml.safe_load((DOCKER / name).read_text())
        assert [error.message for error in validator.iter_errors(file)] == []
        assert not validator.is_valid(file | {"services": {"x": {"imagee": "postgres"}}}), "it lets everything through"


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A custom resource's schema that allows no field it does not name, as the API server would drop it unsaid."""
    schema = {key: value for key, value in schema.items() if key not in ("default", "format")}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema:
        schema["properties"] = {key: strict(value) for key, value in schema["properties"].items()}
        schema.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = strict(schema[key])
    return schema


@pytest.mark.parametrize(
    ("name", "kind", "crd"),
    [("raycluster.yaml", "RayCluster", "ray.io_rayclusters.yaml"), ("rayjob.yaml", "RayJob", "ray.io_rayjobs.yaml")],
)
def test_rays_manifests_are_what_kuberay_allows(name: str, kind: str, crd: str) -> None:
    if not (SCHEMAS / crd).exists():
        pytest.skip(f"{SCHEMAS / crd} is not here: KubeRay's custom resource definitions")
    versions = yaml.load((SCHEMAS / crd).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    found = next(version for version in versions if version["name"] == "v1")["schema"]["openAPIV3Schema"]
    spec = Draft7Validator(strict(found["properties"]["spec"]))
    resource = named(name, kind)
    assert [f"{list(error.path)}: {error.message}" for error in spec.iter_errors(resource["spec"])] == []
    assert not spec.is_valid(resource["spec"] | {"rayVersoin": "2.60.0"})


@pytest.mark.parametrize("file", [file for file in MANIFESTS if file.name != TEMPLATE], ids=lambda file: file.name)
def test_the_other_manifests_are_what_kubernetes_allows(file: Path) -> None:
    for document in documents(file.name):
        if document["apiVersion"] != "ray.io/v1":
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_every_pod_runs_without_rights_under_the_restricted_standard() -> None:
    found = [pod for file in MANIFESTS for pod in pods(documents(file.name))]
    assert len(found) == 9
    for pod in found:
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not any("hostPath" in volume for volume in pod.get("volumes", []))
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]


def test_a_job_has_the_clusters_pods() -> None:
    job = named("rayjob.yaml", "RayJob")["spec"]["rayClusterSpec"]
    assert job == named("raycluster.yaml", "RayCluster")["spec"]


def test_what_the_manifests_mount_and_select_exists() -> None:
    everything = [document for file in MANIFESTS for document in documents(file.name)]
    names = {(one["kind"], one["metadata"].get("name")) for one in everything}
    listed = yaml.safe_load((DOCKER / "kuberay" / "kustomization.yaml").read_text())["resources"]
    assert set(listed) == {file.name for file in MANIFESTS} - {TEMPLATE, "rayjob.yaml"}
    assert {one["metadata"].get("namespace", "tune-lt") for one in everything} == {"tune-lt"}
    for pod in pods(everything):
        for volume in pod.get("volumes", []):
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in names
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
    apps = set(re.findall(r"metadata: \{labels: \{app: (\w+)\}\}", "".join(file.read_text() for file in MANIFESTS)))
    policies = (DOCKER / "kuberay" / "networkpolicy.yaml").read_text()
    assert set(re.findall(r"matchLabels: \{app: (\w+)\}", policies)) == apps == {"postgres", "mlflow", "ray"}


def test_nothing_passes_the_network_policies_unless_it_is_named() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in documents("networkpolicy.yaml")}
    assert policies["nothing-else"]["podSelector"] == {}
    assert policies["nothing-else"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policies["nothing-else"]
    assert [rule["from"] for rule in policies["postgres"]["ingress"]] == [
        [{"podSelector": {"matchLabels": {"app": "mlflow"}}}]
    ]
    for name, spec in policies.items():
        for rule in spec.get("ingress", []) + spec.get("egress", []):
            assert rule.get("from") or rule.get("to"), f"{name}: from or to everywhere"


def test_the_template_of_the_secrets_names_what_is_used_and_is_refused_as_it_stands() -> None:
    template = {one["metadata"]["name"]: one["data"] for one in documents(TEMPLATE)}
    assert template["tune-lt"].keys() == COMPOSE["secrets"].keys() - {"ray_token", "s3_access_key", "s3_secret_key"}
    assert template["ray-token"].keys() == {"auth_token"}
    for data in template.values():
        for value in data.values():
            with pytest.raises(binascii.Error):
                base64.b64decode(value, validate=True)
