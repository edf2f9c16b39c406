"""The paper's two claims about its loss, measured on a study's runs: hard images of the head, and unit regions.

Hard images: each run recorded for every sealed image whether it was right, and the probability of the image's class.
An image's difficulty is that probability in the reference's runs, averaged over those of other seeds than the judged
run's: else the images that a run of the reference gets wrong by chance would count as hard because of that run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan

import numpy as np
import pandas as pd

from tune_lt.documents import ByImage, Norms
from tune_lt.report.tables.differences import LEAST, PAIRS_TO_TEST, Draw, Pair, Sample, difference
from tune_lt.report.tables.sheet import Sheet, TextColumn, difference_text, gains, mean_std, of_columns
from tune_lt.report.tables.summary import Runs, Scored, Table, summarise
from tune_lt.training import accuracies

TERCILES = ("easy", "middle", "hard")
MOST_RUNS = 300  # each has an artifact to read; of studies with more runs there is neither table


def terciles(
    frame: pd.DataFrame,
    reference: str,
    images_of: Callable[[str], ByImage | None],
    draw: Draw = "sub-sample",
) -> Sheet | None:
    """Accuracy on the head's images (group Many) by how hard they are for ``reference``, a line for each row.

    ``frame``: of one imbalance factor, as `collect` makes it; ``images_of``: what the run with this id recorded;
    ``draw``: as in `Sample`. Rows without all of the reference's seeds are left out. None if the reference has fewer
    than two runs, or if a run did not record its images.
    """
    known = frame[frame["class_counts"].notna()]
    pairs = {row: {_pair(line) for _, line in own.iterrows()} for row, own in known.groupby("row")}
    wanted = pairs.get(reference, set())
    known = known[known["row"].map(lambda row: pairs[row] == wanted)]
    if len(wanted) < 2 or len(known) > MOST_RUNS:
        return None
    images = {run_id: _arrays(images_of(run_id)) for run_id in dict.fromkeys(known["run_id"])}
    if not all(images.values()):
        return None
    base = {_pair(line): images[line["run_id"]] for _, line in known[known["row"] == reference].iterrows()}
    at = 0 if len({data for data, _ in base}) > 1 else 1  # runs of one data seed share what is hard by chance
    scored: dict[tuple[str, str], list[Scored]] = {}
    steps: dict[str, float] = {}
    for _, line in known.iterrows():
        content = images[line["run_id"]]
        others = [one["p"] for pair, one in base.items() if pair[at] != _pair(line)[at]]
        own = np.isin(content["label"], accuracies.groups(line["class_counts"])["many"])
        mean = np.mean(others, axis=0)[own]
        drawn = np.random.default_rng(0).permutation(
            len(mean)
        )  # shares out images of one difficulty, which lie by class
        order = np.lexsort((drawn, -mean))
        for name, part in zip(TERCILES, np.array_split(content["right"][own][order], 3), strict=True):
            run = Scored(line["run_id"], line["experiment"], *_pair(line), float(part.mean()))
            scored.setdefault((line["row"], name), []).append(run)
            steps[name] = 1 / max(1, len(part))
    rows = list(dict.fromkeys(known["row"]))
    found = {(row, name): Runs(tuple(runs), draw=draw, step=steps[name]) for (row, name), runs in scored.items()}
    return _terciles_sheet(Table(rows, TERCILES, found, reference))


def _arrays(images: ByImage | None) -> dict[str, np.ndarray]:
    """What a run recorded, in small types; an empty dictionary if it recorded nothing."""
    kinds = {"label": np.int32, "right": np.bool_, "p": np.float32}
    return {name: np.array(getattr(images, name), kind) for name, kind in kinds.items()} if images else {}


def _pair(line: pd.Series) -> Pair:
    return int(line["data_seed"]), int(line["init_seed"])


def _terciles_sheet(table: Table[str]) -> Sheet:
    columns, data = [], []
    for name in TERCILES:
        runs = table.column(name)
        columns.append(TextColumn(name, {row: mean_std(own.summary) for row, own in runs.items()}, runs=runs))
    columns += [gains(table, name, f"Δ {name} [95 % CI]") for name in TERCILES]
    for row in table.rows:
        for name in TERCILES:
            cell, one = table.runs[row, name].summary, table.differences.get((row, name))
            extra = {"difference": one.mean, "low": one.low, "high": one.high, "p_holm": one.holm} if one else {}
            data.append({"row": row, "tercile": name, "mean": cell.mean, "std": cell.std, "n": cell.n, **extra})
    notes = (
        "Accuracy in % on sealed images of the largest classes (Many): mean ± standard deviation over runs. Terciles "
        f"by the probability that {table.reference}'s runs of the other seeds give an image's class.",
        f"Δ: points more than {table.reference}, paired by seeds, with the 95 % interval from {LEAST} pairs on; p: "
        f"paired t-test, two-sided, Holm's correction over a column, from {PAIRS_TO_TEST} pairs on.",
    )
    return of_columns("difficulty", "Images of the head by difficulty", table.rows, columns, pd.DataFrame(data), notes)


def precision(frame: pd.DataFrame, norms_of: Callable[[str], Norms | None], draw: Draw = "sub-sample") -> Sheet | None:
    """How well unit regions follow the density of gradient norms, by group of classes.

    ``frame``, ``draw``: as in `terciles`; ``norms_of``: what the run with this id recorded. Rows are left out unless
    all their runs recorded the precision of unit regions (`tune_lt.training.gradient_norms`). None if no row is left.
    """
    known = frame[frame["class_counts"].notna()]
    if known.empty or len(known) > MOST_RUNS:
        return None
    norms = {run_id: norms_of(run_id) for run_id in dict.fromkeys(known["run_id"])}
    groups = {name: labels for name, labels in accuracies.groups(known.iloc[0]["class_counts"]).items() if labels}
    most = known.groupby("row").size().max()
    lines, data = [], []
    for row, own in known.groupby("row", sort=False):
        read = {_pair(line): norms[line["run_id"]] for _, line in own.iterrows()}
        found = {pair: one.precision for pair, one in read.items() if one and one.precision}
        if len(found) < most:
            continue
        texts: list[str] = []
        for name, labels in groups.items():
            errors = {
                kind: {pair: _mean(one[kind], labels) / 100 for pair, one in found.items()}  # a summary has percent
                for kind in ("equal", "own")
            }
            gain = difference(Sample.of(errors["own"], draw), Sample.of(errors["equal"], draw))
            texts += [*(mean_std(summarise(errors[kind].values())) for kind in ("equal", "own")), difference_text(gain)]
            means = {kind: 100 * float(np.mean(list(some.values()))) for kind, some in errors.items()}
            extra = {"difference": gain.mean, "low": gain.low, "high": gain.high, "runs": gain.pairs}
            data.append({"row": row, "group": name, **means, **extra})
        lines.append((str(row), *texts))
    if not lines:
        return None
    header = tuple(f"{name} {what}" for name in groups for what in ("equal", "own", "Δ [95 % CI]"))
    notes = (
        "Mean over images and classes of |log density of the unit region − log density in bins of 1/1000| of the "
        "gradient norms of the training images after the last epoch, mean ± standard deviation over runs: smaller is "
        "more precise.",
        "equal: N regions of one width (URA); own: those of the loss (AURA, where it is on); Δ: own less equal, paired "
        f"by seeds, with the 95 % interval from {LEAST} pairs on. Bins of small classes hold an image or none, so what "
        "is measured there is their noise more than the regions.",
    )
    return Sheet(
        "precision", "Precision of the unit regions", ("Method", *header), tuple(lines), pd.DataFrame(data), notes
    )


def _mean(errors: Sequence[float | None], labels: Sequence[int]) -> float:
    """The mean error over those classes that have images; NaN where none has."""
    known = [errors[label] for label in labels if errors[label] is not None]
    return float(np.mean(known)) if known else nan  # type: ignore[arg-type]
