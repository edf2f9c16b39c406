"""The recommended network as files for other programs, with a model card, and as a registered model in MLflow."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
import yaml
from mlflow.exceptions import MlflowException

from tune_lt import training
from tune_lt.errors import InputError
from tune_lt.report import formats
from tune_lt.report.collect import Report
from tune_lt.report.tables import recommendation
from tune_lt.report.tables.sheet import Sheet
from tune_lt.store import Store
from tune_lt.texts import first_line
from tune_lt.training import classifier
from tune_lt.training.classifier import Classifier

if TYPE_CHECKING:
    from tune_lt.run.planner import Model

STATE, ONNX, CARD = "model.pt", "model.onnx", "README.md"


def export(report: Report, model: Model, store: Store, folder: Path, say: Callable[[str], None]) -> None:
    """Write the network of a study's recommended row to ``folder``, replacing what is there, and register it.

    The files: `model.pt`, which `tune_lt.classifier.load` reads; `model.onnx` where ONNX can express the network; the
    model card `README.md`; MLflow's description of them. What fails is reported to ``say`` and raises nothing, since
    all trainings are recorded by then.
    """
    try:
        _export(report, model, store, folder, say)
    except (InputError, MlflowException, OSError, ValueError) as error:
        say(f"the recommended network could not be written to {folder}: {error}")


def _export(report: Report, model: Model, store: Store, folder: Path, say: Callable[[str], None]) -> None:
    planned = model.cell
    trained = training.trained(planned.cell, model.dataset, model.state)
    run = next(iter(report.frame[report.frame["fingerprint"] == planned.fingerprint].to_dict("records")), {})
    with tempfile.TemporaryDirectory(prefix="tune_lt_") as scratch:
        fresh = Path(scratch) / "model"
        described = _with_onnx(trained, fresh, say)
        card = _card(report, model, trained, run, described)
        classifier.save(trained, fresh / STATE)
        (fresh / CARD).write_text(card, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(fresh, folder)
    say(f"the recommended network is in {folder}/: {STATE}{f', {ONNX}' if described else ''}, and its card {CARD}")
    if described:
        _register(report, planned.fingerprint, store, folder, card, say)


def _with_onnx(trained: Classifier, fresh: Path, say: Callable[[str], None]) -> bool:
    """Make the folder; if ONNX can express the network, with that and MLflow's description. Returns whether it can."""
    from tune_lt.store import model_registry

    file = fresh.with_name(ONNX)
    try:
        classifier.to_onnx(trained, file)
    except InputError as error:
        say(f"no {ONNX}, and nothing registered: {error}")
        fresh.mkdir()
        return False
    model_registry.as_model(file, fresh, trained.described.shape, len(trained.class_names))
    return True


def _register(
    report: Report, fingerprint: str, store: Store, folder: Path, card: str, say: Callable[[str], None]
) -> None:
    from tune_lt.store import model_registry

    try:
        version = model_registry.register(store, report.recorded.run_id, report.study, folder, fingerprint, card)
    except Exception as error:  # a server without a registry, or that lets this user register nothing
        say(f"not registered in {store.shown}: {first_line(error)}")
    else:
        say(f"registered in MLflow: models:/{report.study}@{model_registry.ALIAS} (version {version})")


def _card(report: Report, model: Model, trained: Classifier, run: Mapping[Any, Any], onnx: bool) -> str:
    """The model card, in Markdown. ``run``: the network's line of the report's frame, or nothing."""
    cell = model.cell.cell
    counts = training.images_of(cell, model.dataset).class_counts
    settings = {"model": cell.model, "loss": cell.loss, "recipe": dataclasses.asdict(cell.recipe)}
    template = Path(__file__).with_suffix(".md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["text"] = formats.markdown_text
    return environment.from_string(template).render(
        study=report.study,
        row=model.cell.row,
        cell=cell,
        counts=counts,
        advice=formats.markdown(next(one for one in report.tables if one.name == recommendation.NAME)).strip(),
        run=run,
        again=model.again,
        shape=trained.described.shape,
        adjusted=any(trained.described.offset),
        onnx=onnx,
        classes=formats.markdown(_classes(trained.class_names, counts)).strip(),
        skipped=len(model.dataset.skipped),
        fingerprint=model.cell.fingerprint,
        commits=report.recorded.origins.get("git commit", ["unknown"]),
        settings=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
    )


def _classes(names: Sequence[str], counts: Sequence[int]) -> Sheet:
    header = ("Logit", "Class", "Training images")
    lines = [(str(index), name, str(count)) for index, (name, count) in enumerate(zip(names, counts, strict=True))]
    return Sheet("classes", "What it was trained on", header, tuple(lines), pd.DataFrame(), left=2)
