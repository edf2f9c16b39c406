"""The recommended network as files for other programs, with a model card, and as a registered model of MLflow's."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    `model.pt`, read by `tune_lt.classifier.load`; `model.onnx` where ONNX can express the network; the model card
    `README.md`; MLflow's description of them. ``say`` hears of what could not be done, which loses nothing that was
    trained.
    """
    try:
        _export(report, model, store, folder, say)
    except (InputError, MlflowException, OSError, ValueError) as error:
        say(f"the recommended network could not be written to {folder}: {error}")


def _export(report: Report, model: Model, store: Store, folder: Path, say: Callable[[str], None]) -> None:
    planned = model.cell
    trained = training.trained(planned.cell, model.dataset, model.state)
    run = next((line for line in report.frame.to_dict("records") if _is(line, planned)), {})
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
    """Make the folder, with ONNX and MLflow's description of it; whether the network can be written so."""
    from tune_lt.store import model_registry

    with tempfile.TemporaryDirectory(prefix="tune_lt_") as scratch:
        file = Path(scratch) / ONNX
        try:
            classifier.to_onnx(trained, file)
        except InputError as error:
            say(f"no {ONNX}, and nothing registered: {error}")
            fresh.mkdir()
            return False
        model_registry.as_model(file, fresh, trained.shape, len(trained.class_names))
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


def _is(line: Mapping[Any, Any], planned: Any) -> bool:
    """Whether a line of the report's frame is the planned cell's."""
    seeds = (planned.cell.data_seed, planned.cell.init_seed)
    same = line["row"] == planned.row and (line["data_seed"], line["init_seed"]) == seeds
    return same and (line["imbalance"] == planned.imbalance or planned.imbalance is None)


def _card(report: Report, model: Model, trained: Classifier, run: Mapping[Any, Any], onnx: bool) -> str:
    """The model card, in Markdown."""
    cell, dataset, recorded = model.cell.cell, model.dataset, report.recorded
    channels, height, width = trained.shape
    counts = training.images_of(cell, dataset).class_counts
    advice = next(sheet for sheet in report.tables if sheet.name == recommendation.NAME)
    settings = {"model": cell.model, "loss": cell.loss, "recipe": dataclasses.asdict(cell.recipe)}
    parts = [
        f"# {report.study}: {model.cell.row}",
        f"A classifier of {len(trained.class_names)} classes, trained by tune-lt on {sum(counts):,} images "
        f"(`{cell.data['name']}`: {max(counts):,} of the largest class, {min(counts):,} of the smallest) and "
        f"recommended by the study `{report.study}`.",
        "## How good it is",
        formats.markdown(advice).strip(),
        f"The table is over seeds; this network is the run of seed {cell.init_seed}, not the best of them"
        + (f": {100 * run['test/top1']:.2f} % of the sealed images" if run else "")
        + (", computed in bfloat16" if cell.recipe.precision == "bfloat16" else "")
        + (
            ". It was trained again to have its weights: the same up to rounding and its device."
            if model.again
            else "."
        ),
        "## How to use it",
        f"Images are {channels} x {height} x {width}, as bytes; normalising is part of the network"
        + (", and so is the adjustment of its logits" if any(trained.described["offset"]) else "")
        + ". The classes, in the order of the logits, are listed below.",
        _usage(onnx, channels),
        formats.markdown(_classes(trained.class_names, counts)).strip(),
        "## What to beware of",
        "- The accuracies hold for images like the sealed ones: another camera, place or time is another question.\n"
        "- Of a rare class few sealed images were scored, so its accuracy is known roughly; see the intervals.\n"
        "- Its logits are no calibrated probabilities: losses for long tails shift them on purpose.",
        "## Where it comes from",
        f"Run `{run.get('run_id', 'unknown')}` of the store, fingerprint `{model.cell.fingerprint}`; "
        f"commit {', '.join(recorded.origins.get('git commit', ['unknown']))}.",
        f"```yaml\n{yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)}```",
    ]
    if dataset.skipped:
        parts.insert(-3, f"{len(dataset.skipped)} files could not be read and were left out.")
    return "\n\n".join(parts) + "\n"


def _classes(names: Sequence[str], counts: Sequence[int]) -> Sheet:
    header = ("Logit", "Class", "Training images")
    lines = [(str(index), name, str(count)) for index, (name, count) in enumerate(zip(names, counts, strict=True))]
    return Sheet("classes", "What it was trained on", header, tuple(lines), pd.DataFrame(), left=2)


def _usage(onnx: bool, channels: int) -> str:
    source = 'model.read(["one.jpg", "other.png"])' if channels == 3 else "...   # uint8 (n, C, H, W)"
    code = [
        "```python",
        "from tune_lt import classifier",
        "",
        'model = classifier.load("model.pt")      # a module: uint8 (n, C, H, W) -> logits',
        f"images = {source}",
        "print(model.names(images))",
        "```",
    ]
    if onnx:
        code += [
            "",
            "Without tune-lt or torch:",
            "",
            "```python",
            "import onnxruntime",
            "",
            'session = onnxruntime.InferenceSession("model.onnx")',
            'logits = session.run(["logits"], {"images": images})[0]      # images: uint8 array (n, C, H, W)',
            "```",
        ]
    return "\n".join(code)
