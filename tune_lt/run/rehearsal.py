"""Checks before anything is trained: the data can be loaded, and every network and loss can be built."""

from __future__ import annotations

import dataclasses
import itertools
import os

import torch

from tune_lt import data, training
from tune_lt.data.memory import check_fits
from tune_lt.errors import InputError
from tune_lt.run.planner import Plan, at_end
from tune_lt.study import Study
from tune_lt.study.cells import base_cell, trial_cells
from tune_lt.texts import some
from tune_lt.training import accuracies


def load_data(study: Study) -> data.Dataset:
    """The study's data set; raises InputError naming what is missing or damaged."""
    return training.load_dataset(base_cell(study))


def check_memory(study: Study, dataset: data.Dataset) -> None:
    """Raise InputError unless Ray and one trial can have a copy of the images each, beside that of this process.

    A cluster's trials may run on other hosts, of which nothing is known here.
    """
    if os.environ.get("RAY_ADDRESS", "local") in ("", "local"):
        images = dataset.train_images.nbytes + dataset.test_images.nbytes
        where = study.data.get("root", study.data["name"])
        advice = "valid: a smaller data.size, or images that stay on disk (data.stream: true, if the data set has it)"
        check_fits(f"{where}: two more copies of the images, for Ray and a trial, take", 2 * images, advice)


def measured(study: Study, dataset: data.Dataset) -> list[set[str]]:
    """The metrics that each unit of a trial gives; it is the same for all searches of the study."""
    space = next(iter(study.searches.values()))
    return [accuracies.measured(training.images_of(cell, dataset)) for cell in trial_cells(study, space, {})]


def _check_metrics(study: Study, dataset: data.Dataset) -> list[str]:
    """Lines about metrics that only some units of a trial give; InputError for one that none gives."""
    search, units = next(iter(study.searches.values())).search, measured(study, dataset)
    lines = []
    for metric in search.watched:
        have = [number for number, given in enumerate(units) if metric in given]
        field = "search.metric" if metric in search.objectives else f"search.constraints.{metric}"
        if not have:
            raise InputError(f"{field}: {_unmeasured(metric, study, dataset)}; valid: another metric")
        if len(have) == len(units):
            continue
        if search.scheduler == "asha" and have[0] > 0:
            raise InputError(
                f"search.scheduler: asha compares trials on their first unit, which holds out no image that {metric} "
                "is about; valid: racing, none"
            )
        some_units = f"only {len(have)} of the {len(units)} units of a trial hold out an image that {metric} is about"
        line = f"{field}: {some_units}; a trial's value is the mean over these"
        if search.scheduler == "racing":
            line += ", and racing compares trials on these alone" if len(have) > 1 else ", and racing stops no trial"
        lines.append(line)
    return lines


def _check_draws(study: Study, dataset: data.Dataset) -> None:
    """Raise InputError if cells that differ by their data seed alone have the same images."""
    for imbalance, init in itertools.product(study.columns if study.rows else (), {init for _, init in study.seeds}):
        seeds = [seed for seed, other in study.seeds if other == init][:2]
        section = {**study.data, **study.drawn, "imbalance": imbalance}
        cells = [dataclasses.replace(base_cell(study, data_seed=seed, init_seed=init), data=section) for seed in seeds]
        drawn = [training.images_of(cell, dataset).train_index for cell in cells]
        if len(drawn) == 2 and torch.equal(*drawn):
            raise InputError(
                f"seeds.data: found {seeds[0]} and {seeds[1]}, which draw the same images at imbalance "
                f"{imbalance or 'as it is'}, so they would repeat the same trainings; valid: a list of seeds, or "
                "{resample: [0, 1, 2]} without imbalance"
            )


def _unmeasured(metric: str, study: Study, dataset: data.Dataset) -> str:
    group = metric.removeprefix("val/")
    counts = training.images_of(base_cell(study), dataset).split_counts
    names = [dataset.class_names[label] for label in accuracies.groups(counts)[group]]
    if not names:
        return f"found {metric}, but of {len(counts)} classes none is in the group {group!r}"
    return (
        f"found {metric}, but no image can be held out for it: each class of the group {group!r} ({some(names)}) has a "
        "single training image"
    )


def rehearse(study: Study, dataset: data.Dataset) -> list[str]:
    """Build every network and loss of the study once. Returns lines for the user about the images.

    Raises InputError for a cell that cannot be trained, before any GPU is used.
    """
    about_metrics = _check_metrics(study, dataset) if study.searches else []
    _check_draws(study, dataset)
    plan = Plan(study, dataset.hashes)
    lowest = {name: at_end(space, 0) for name, space in study.searches.items()}
    for planned in {cell.row: cell for cell in plan.cells(lowest)}.values():
        training.rehearse(planned.cell, dataset)
    cells = [one.cell for name, space in study.searches.items() for one in plan.units(space, lowest[name])]
    base = base_cell(study)
    split = training.rehearse(base, dataset)
    unvalidated = [
        training.rehearse(cell, dataset).unvalidated for cell in {cell.fold: cell for cell in cells}.values()
    ]
    counts = sorted(split.split_counts, reverse=True)
    sealed = len(split.test_index)
    lines = [f"data: {len(counts)} classes, {counts[0]} to {counts[-1]} training images, {sealed} images sealed"]
    if dataset.skipped:
        lines.append(f"data: {len(dataset.skipped)} unreadable files skipped: {some(dataset.skipped)}")
    never = set.intersection(*map(set, unvalidated)) if unvalidated else set()
    sometimes = set().union(*map(set, unvalidated)) - never
    if never:
        names = [dataset.class_names[label] for label in sorted(never)]
        lines.append(f"data: too few images to hold one out, so not in the validation: {some(names)}")
    if sometimes:
        names = [dataset.class_names[label] for label in sorted(sometimes)]
        lines.append(f"data: fewer images than folds, so not in the validation of every fold: {some(names)}")
    return lines + about_metrics
