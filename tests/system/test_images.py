"""The images as they are deployed: built, started as compose.yaml says, a study through them. 9 GB of disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from processes import whole_study

pytest.importorskip("boto3", reason="the extra dev has what the service needs")
import images
import service as lab
from compose import COMPOSE
from images import Contained, Engine

from tune_lt.store import Store

pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif(bool(images.missing()), reason=f"images need {', '.join(images.missing())}"),
]
USER = 10001


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, dict[str, str]]]:
    """Both images. Ray's is the one for CUDA: the wheels for a CPU alone are in an index that may not be in reach."""
    with images.engine(tmp_path_factory.mktemp("images")) as engine:
        engine.make_base()
        mlflow, ray = engine.build("mlflow"), engine.build("ray-head", DEVICE="cuda")
        of = {name: ray for name, made in COMPOSE["services"].items() if made["image"].startswith("tune-lt:")}
        yield engine, {"mlflow": mlflow, **of}


@pytest.fixture(scope="module")
def running(built: tuple[Engine, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contained]:
    with images.contained(tmp_path_factory.mktemp("service"), *built) as started:
        yield started


def test_the_image_has_the_package_and_runs_it_without_network_or_rights(built: tuple[Engine, dict[str, str]]) -> None:
    engine, image = built
    alone = ["podman", "run", "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=all"]
    assert "tune-lt [OPTIONS] COMMAND" in engine(*alone, image["tune-lt"])  # its own command
    plan = engine(*alone, image["tune-lt"], "tune-lt", "plan", "digits", "--store", "sqlite:////tmp/mlflow.db")
    assert "cells" in plan


def test_no_layer_tells_where_it_was_built(built: tuple[Engine, dict[str, str]]) -> None:
    engine, image = built
    for name in set(image.values()):
        (about,) = json.loads(engine("podman", "image", "inspect", name))
        assert about["Config"]["User"] == f"{USER}:{USER}"
        assert not [one for one in about["Config"]["Env"] if "PIP_CERT" in one or "INDEX" in one or "PASSWORD" in one]


def test_every_service_is_healthy_and_runs_without_rights(running: Contained) -> None:
    for name, of in (("mlflow", "mlflow"), ("ray-head", "ray-head"), ("worker1", "ray-worker")):
        assert running.healthy(name, of), running.hosts.log(name).read_text()
        processes = [psutil.Process(pid) for pid in running.hosts.running(name)]
        assert processes
        for process in processes:
            assert set(process.uids()) == {USER}, process.cmdline()
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "\nCapEff:\t0000000000000000\n" in status
            assert "\nNoNewPrivs:\t1\n" in status


def test_a_study_is_submitted_by_the_readmes_command_and_trained_in_the_containers(
    running: Contained, tiny_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (running.folder / "tiny.yaml").write_text(tiny_text.replace("name: tiny", "name: contained"))
    printed = running.as_laptop("submit", "/studies/tiny.yaml", "--follow")
    assert "SUCCEEDED" in printed, printed
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", lab.ADA)
    cells = whole_study(Store(running.store), "contained", 4)
    assert {cell.tags["git"] for cell in cells} == {"tune-lt 0.1.0"}  # the wheel in the image, no checkout
    keys = [key["Key"] for key in running.objects().list_objects_v2(Bucket="mlflow")["Contents"]]
    assert [key for key in keys if key.endswith("/report/report.html")]
    told = running.as_laptop("status", "contained")
    assert "cells of the tables: 6 of 6" in told
    logs = "".join(running.hosts.log(name).read_text() for name in images.NAMES if running.hosts.log(name).exists())
    assert not [name for name, secret in running.all_secrets().items() if secret in printed + told + logs]
