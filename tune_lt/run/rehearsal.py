"""Checks before anything is trained: the data can be loaded, and every network and loss can be built."""

from __future__ import annotations

from tune_lt import data, training
from tune_lt.run.planner import Plan, at_end
from tune_lt.study import Study
from tune_lt.study.cells import base_cell
from tune_lt.texts import some


def load_data(study: Study) -> data.Dataset:
    """The study's data set; raises InputError naming what is missing or damaged."""
    return training.load_dataset(base_cell(study))


def rehearse(study: Study, dataset: data.Dataset) -> list[str]:
    """Build every network and loss of the study once. Returns lines for the user about the images.

    Raises InputError for a cell that cannot be trained, before any GPU is used.
    """
    plan = Plan(study, dataset.content_hash)
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
    return lines
