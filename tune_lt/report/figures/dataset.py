"""A study's images, before anything is trained: counts by class, group and fold, the long tail, some samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from tune_lt import config, data
from tune_lt.config import fold_of, long_tail
from tune_lt.report import formats
from tune_lt.report.figures import plain
from tune_lt.report.of_rows import hardest, of_column
from tune_lt.report.tables.sheet import NONE, Sheet
from tune_lt.study import Study
from tune_lt.training import accuracies

COLOURS = {"many": "#0072B2", "medium": "#009E73", "few": "#E69F00", "rare": "#D55E00"}  # Okabe & Ito's
SHOWN_CLASSES, SHOWN_IMAGES = 12, 8  # at most, in the figure of samples
INCHES = (0.85, 1.2)  # the width of a sample: at least, at most


def classes(study: Study, dataset: data.Dataset) -> pd.DataFrame:
    """A line for each imbalance factor and class, the largest class first: its name, group and numbers of images.

    ``available``: training images in the data set; ``train``: those in the long-tailed sub-sample of the first data
    seed; ``test``: sealed ones. A column for the hold-out of a search, or for each fold, has its share of ``train``.
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
    """The numbers of images of each group of classes at each imbalance factor; ``frame`` is that of `classes`."""
    folds = _folds(study)
    lines = []
    for factor in study.columns:
        own = frame[of_column(frame, factor)]
        for group in (*config.GROUPS, "all"):
            some = own if group == "all" else own[own["group"] == group]
            ends = NONE if some.empty else f"{some['train'].max()} to {some['train'].min()}"
            sums = [str(int(some[name].sum())) for name in ("available", "train", *folds, "test")]
            lines.append((_factor(factor), group, str(len(some)), ends, *sums))
    names = ["Held out" if fold == "holdout" else f"Fold {fold}" for fold in folds]
    lacking = {fold: int(((frame[fold] == 0) & (frame["train"] > 0)).sum()) for fold in folds}
    notes = [
        "Groups: four nearly equal parts of the classes by training images. Available: training images in the data "
        f"set; training: those in the long-tailed sub-sample of data seed {study.seeds[0][0]}. Test images are sealed.",
        *(f"{fold}: {count} classes without an image in it." for fold, count in lacking.items() if count),
    ]
    return Sheet(
        "data",
        f"{study.name}: {study.data['name']}, profile {study.data['profile']}",
        ("Imbalance", "Group", "Classes", "Images a class", "Available", "Training", *names, "Test"),
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
        own = frame[of_column(frame, factor)].reset_index(drop=True)
        for group, part in own.groupby("group", sort=False):
            axes.bar(part.index, part["train"], width=1.0, color=COLOURS[str(group)], label=group)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        axes.set_ylabel("training images")
        axes.set_title(f"imbalance {_factor(factor)}: {int(own['train'].sum()):,} images", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
        if len(own) <= SHOWN_CLASSES and axes is panels[-1]:  # the order is the same at every factor
            axes.set_xticks(own.index, [plain(name) for name in own["name"]], rotation=30, ha="right")
        else:
            axes.set_xticks([])
    panels[-1].set_xlabel("classes from head to tail")
    panels[0].legend(ncols=4, frameon=False, loc="upper right", fontsize=8)
    return figure


def samples(study: Study, dataset: data.Dataset, frame: pd.DataFrame) -> Figure:
    """Up to eight training images of up to twelve classes from head to tail, at the largest imbalance factor."""
    factor = hardest(study.columns)
    own = frame[of_column(frame, factor) & (frame["train"] > 0)]
    chosen = own.iloc[np.unique(np.linspace(0, len(own) - 1, min(len(own), SHOWN_CLASSES)).round().astype(int))]
    index = _cut(study, dataset, factor, "full").train_index
    labels = dataset.train_labels[index]
    inch = float(np.clip(dataset.train_images.shape[-1] / 100, *INCHES))
    figure = Figure(figsize=(2.2 + inch * SHOWN_IMAGES, 0.5 + inch * len(chosen)), layout="constrained")
    panels = figure.subplots(len(chosen), SHOWN_IMAGES, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for line, (_, row) in zip(panels, chosen.iterrows(), strict=True):
        members = index[labels == row["class"]][:SHOWN_IMAGES]
        images = dataset.train_images[members].permute(0, 2, 3, 1).numpy()
        for axes, image in zip(line, images, strict=False):  # a small class leaves places empty
            axes.imshow(image, cmap="gray")  # the colours of an image with one channel
        label = f"{plain(row['name'])}\n{row['train']} images, {row['group']}"
        line[0].text(-0.1, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    figure.suptitle(f"{study.name}: images head to tail, imbalance {_factor(factor)}", fontsize=10)
    return figure


def write(study: Study, dataset: data.Dataset, folder: Path) -> tuple[Sheet, list[Path]]:
    """Write classes.csv, profile.png and samples.png into ``folder``; return the sheet and the files' paths."""
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
    """What the study's searches hold out; nothing where it has none."""
    folds = study.validation.folds
    if not study.searches:
        return []
    return [f"{k}/{folds}" for k in range(1, folds + 1)] if folds else ["holdout"]


def _factor(factor: float | None) -> str:
    return "as it is" if factor is None else f"{factor:g}"
