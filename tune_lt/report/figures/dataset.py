"""What a study trains on, before it trains: counts by class and group, the long tail, the folds, some images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tune_lt import config, data
from tune_lt.config import fold_of, long_tail
from tune_lt.report import formats
from tune_lt.report.of_rows import hardest, of_column
from tune_lt.report.tables.sheet import NONE, Sheet
from tune_lt.study import Study
from tune_lt.training import accuracies

COLOURS = {"many": "#0072B2", "medium": "#009E73", "few": "#E69F00", "rare": "#D55E00"}  # Okabe & Ito's
SHOWN_CLASSES, SHOWN_IMAGES = 12, 8
INCHES, LARGEST_INCHES = 0.85, 1.2


def classes(study: Study, dataset: data.Dataset) -> pd.DataFrame:
    """A line for each imbalance factor and class, largest first: its name, group and numbers of images.

    ``train``: of the whole training split with the first data seed's sub-sample; ``test``: sealed. A column for what
    a search holds out, or for each fold: how many of ``train`` that takes.
    """
    parts = []
    for factor in study.columns:
        whole = _cut(study, dataset, factor, "full")
        sealed = np.bincount(dataset.test_labels[whole.test_index].numpy(), minlength=len(dataset.class_names))
        groups = {label: name for name, labels in accuracies.groups(whole.split_counts).items() for label in labels}
        part = pd.DataFrame(
            {
                "imbalance": factor,
                "class": range(len(dataset.class_names)),
                "name": dataset.class_names,
                "group": [groups[label] for label in range(len(groups))],
                "available": dataset.available,
                "train": whole.split_counts,
                "test": sealed,
            }
        )
        for fold in _folds(study):
            kept = _cut(study, dataset, factor, fold).class_counts
            part[fold] = np.array(whole.split_counts) - np.array(kept)
        parts.append(part.sort_values("train", ascending=False, kind="stable"))
    return pd.concat(parts, ignore_index=True)


def sheet(study: Study, frame: pd.DataFrame) -> Sheet:
    """The groups of classes at each imbalance factor, and what is held out of each."""
    folds = _folds(study)
    lines = []
    for factor in study.columns:
        own = frame[of_column(frame, factor)]
        for group in (*config.GROUPS, "all"):
            some = own if group == "all" else own[own["group"] == group]
            if some.empty:
                lines.append((_factor(factor), group, "0", *[NONE] * (4 + len(folds))))
                continue
            ends = f"{some['train'].max()} to {some['train'].min()}"
            sums = [str(int(some[name].sum())) for name in ("available", "train", *folds, "test")]
            lines.append((_factor(factor), group, str(len(some)), ends, *sums))
    lacking = {fold: int(((frame[fold] == 0) & (frame["train"] > 0)).sum()) for fold in folds}
    notes = [
        "Groups: four nearly equal parts of the classes by training size. Available: before the long tail is laid over "
        f"the data set; training: after it, with data seed {study.seeds[0][0]}. Test images are sealed.",
        *(f"{fold}: {count} classes without an image in it." for fold, count in lacking.items() if count),
    ]
    return Sheet(
        "data",
        f"{study.name}: {study.data['name']}, profile {study.data['profile']}",
        ("Imbalance", "Group", "Classes", "Images a class", "Available", "Training", *map(_fold_name, folds), "Test"),
        tuple(lines),
        frame,
        tuple(notes),
        left=2,
    )


def profile(study: Study, frame: pd.DataFrame) -> Figure:
    """The images of every class from head to tail, a panel for each imbalance factor."""
    figure = Figure(figsize=(7, 0.8 + 2.1 * len(study.columns)), layout="constrained")
    panels = figure.subplots(len(study.columns), 1, squeeze=False)[:, 0]
    for axes, factor in zip(panels, study.columns, strict=True):
        own = frame[of_column(frame, factor)]
        places = np.arange(len(own))
        for group, colour in COLOURS.items():
            here = (own["group"] == group).to_numpy()
            if here.any():
                axes.bar(places[here], own["train"].to_numpy()[here], width=1.0, color=colour, label=group)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        axes.set_ylabel("training images")
        axes.set_title(f"imbalance {_factor(factor)}: {int(own['train'].sum()):,} images", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
        if len(own) <= SHOWN_CLASSES and axes is panels[-1]:  # the order is the same at every factor
            axes.set_xticks(places, own["name"], rotation=30, ha="right")
        else:
            axes.set_xticks([])
    panels[-1].set_xlabel("classes from head to tail")
    panels[0].legend(ncols=4, frameon=False, loc="upper right", fontsize=8)
    return figure


def samples(study: Study, dataset: data.Dataset, frame: pd.DataFrame) -> Figure:
    """Some training images of up to twelve classes from head to tail, at the largest imbalance factor."""
    factor = hardest(study.columns)
    own = frame[of_column(frame, factor) & (frame["train"] > 0)]
    chosen = own.iloc[np.unique(np.linspace(0, len(own) - 1, min(len(own), SHOWN_CLASSES)).round().astype(int))]
    index = _cut(study, dataset, factor, "full").train_index
    labels = dataset.train_labels[index]
    inch = min(LARGEST_INCHES, max(INCHES, dataset.train_images.shape[-1] / 100))
    figure = Figure(figsize=(2.2 + inch * SHOWN_IMAGES, 0.5 + inch * len(chosen)), layout="constrained")
    panels = figure.subplots(len(chosen), SHOWN_IMAGES, squeeze=False)
    for line, (_, row) in zip(panels, chosen.iterrows(), strict=True):
        members = index[labels == row["class"]][:SHOWN_IMAGES]
        images = dataset.train_images[members].permute(0, 2, 3, 1).numpy()
        for place, axes in enumerate(line):
            axes.set_axis_off()
            if place < len(images):
                grey = images.shape[-1] != 3
                axes.imshow(images[place, :, :, 0] if grey else images[place], cmap="gray" if grey else None)
        line[0].text(
            -0.1, 0.5, f"{row['name']}\n{row['train']} images, {row['group']}", transform=line[0].transAxes,
            ha="right", va="center", fontsize=8,
        )  # fmt: skip
    figure.suptitle(f"{study.name}: images head to tail, imbalance {_factor(factor)}", fontsize=10)
    return figure


def write(study: Study, dataset: data.Dataset, folder: Path) -> tuple[Sheet, list[Path]]:
    """Everything above below ``folder``: classes.csv, profile.png, samples.png; the sheet and the files' paths."""
    frame = classes(study, dataset)
    table = sheet(study, frame)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("classes.csv", "profile.png", "samples.png")]
    files[0].write_text(formats.csv(table), encoding="utf-8")
    profile(study, frame).savefig(files[1], dpi=150)
    samples(study, dataset, frame).savefig(files[2], dpi=150)
    return table, files


def _cut(study: Study, dataset: data.Dataset, factor: float | None, fold: str) -> data.CellData:
    return data.cell_data(
        dataset,
        **long_tail({**study.data, "imbalance": factor}),
        data_seed=study.seeds[0][0],
        holdout=study.validation.holdout if fold == "holdout" else None,
        fold=fold_of(fold),
    )


def _folds(study: Study) -> Sequence[str]:
    folds = study.validation.folds
    if not study.searches:
        return []  # nothing is chosen, so nothing held out
    return [f"{k}/{folds}" for k in range(1, folds + 1)] if folds else ["holdout"]


def _fold_name(fold: str) -> str:
    return "Held out" if fold == "holdout" else f"Fold {fold}"


def _factor(factor: float | None) -> str:
    return "as it is" if factor is None or math.isnan(factor) else f"{factor:g}"
