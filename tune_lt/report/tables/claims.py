"""The paper's two claims about what its loss does, measured on a study's runs: hard images of the head, AURA's regions.

Hard images: each run recorded what became of every sealed image. A head image's difficulty is the probability that the
reference's runs give its class, those of other seeds than the run that is judged: a network that made a mistake by
chance would else be said to fail at images that are hard because it failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan

import numpy as np
import pandas as pd

from tune_lt.documents import ByImage, Norms
from tune_lt.report.tables.differences import Difference, Pair, corrected, difference
from tune_lt.report.tables.sheet import Sheet, difference_text, mean_std
from tune_lt.report.tables.summary import summarise
from tune_lt.training import accuracies

TERCILES = ("easy", "middle", "hard")
MOST_RUNS = 300  # whose images are read, an artifact each


def terciles(frame: pd.DataFrame, reference: str, images_of: Callable[[str], ByImage | None]) -> Sheet | None:
    """Accuracy on the head's images (group Many) by how hard they are for ``reference``, a line for each row.

    ``frame``: of one imbalance factor, as `tables` has it; ``images_of``: what a run recorded, by its
    id. None with fewer than two seeds of the reference, or where
    runs did not record their images.
    """
    known = frame[frame["class_counts"].notna()]
    pairs = {row: {_pair(line) for _, line in own.iterrows()} for row, own in known.groupby("row")}
    wanted = pairs.get(reference, set())
    known = known[known["row"].map(lambda row: pairs[row] == wanted)]  # no mean over what is there
    if len(wanted) < 2 or len(known) > MOST_RUNS:
        return None
    images = {run_id: _arrays(images_of(run_id)) for run_id in dict.fromkeys(known["run_id"])}
    if not all(images.values()):
        return None
    base = {_pair(line): images[line["run_id"]] for _, line in known[known["row"] == reference].iterrows()}
    scored: dict[tuple[str, str], dict[Pair, float]] = {}
    for _, line in known.iterrows():
        content = images[line["run_id"]]
        others = [one["p"] for pair, one in base.items() if pair != _pair(line)]
        head = accuracies.groups(line["class_counts"])["many"]
        own = np.isin(content["label"], head)
        mean = np.mean(others, axis=0)[own]
        drawn = np.random.default_rng(0).permutation(len(mean))  # images lie by class: ties must not
        order = np.lexsort((drawn, -mean))
        for name, part in zip(TERCILES, np.array_split(np.array(content["right"])[own][order], 3), strict=True):
            scored.setdefault((line["row"], name), {})[_pair(line)] = float(part.mean())
    return _terciles_sheet(scored, list(dict.fromkeys(known["row"])), reference)


def _arrays(images: ByImage | None) -> dict[str, np.ndarray]:
    """In little memory; nothing where a run has none."""
    kinds = {"label": np.int32, "right": np.bool_, "p": np.float32}
    return {name: np.array(getattr(images, name), kind) for name, kind in kinds.items()} if images else {}


def _pair(line: pd.Series) -> Pair:
    return int(line["data_seed"]), int(line["init_seed"])


def _terciles_sheet(
    scored: Mapping[tuple[str, str], Mapping[Pair, float]], rows: Sequence[str], reference: str
) -> Sheet:
    differences: dict[tuple[str, str], Difference] = {}
    for name in TERCILES:
        compared = {
            (row, name): difference(scored[row, name], scored[reference, name]) for row in rows if row != reference
        }
        differences |= corrected(compared)
    lines, data = [], []
    for row in rows:
        cells = [summarise(scored[row, name].values()) for name in TERCILES]
        gains = [difference_text(differences.get((row, name))) for name in TERCILES]
        lines.append((row, *map(mean_std, cells), *gains))
        for name, cell in zip(TERCILES, cells, strict=True):
            one = differences.get((row, name))
            extra = {"difference": one.mean, "low": one.low, "high": one.high, "p_holm": one.holm} if one else {}
            data.append({"row": row, "tercile": name, "mean": cell.mean, "std": cell.std, "n": cell.n, **extra})
    notes = (
        "Accuracy in % on sealed images of the largest classes (Many): mean ± standard deviation over runs. Terciles "
        f"by the probability that {reference}'s runs of the other seeds give an image's class.",
        f"Δ: points more than {reference}, paired by seeds, with the 95 % interval; p: paired t-test, two-sided, "
        "Holm's correction over a column.",
    )
    return Sheet(
        "difficulty",
        "Images of the head by difficulty",
        ("Method", *TERCILES, *(f"Δ {name} [95 % CI]" for name in TERCILES)),
        tuple(lines),
        pd.DataFrame(data),
        notes,
    )


def precision(frame: pd.DataFrame, norms_of: Callable[[str], Norms | None]) -> Sheet | None:
    """How well unit regions follow the density of gradient norms, by group of classes; None where no row has any.

    ``frame``: as `terciles` has it. A row is there if all its runs recorded their
    gradient norms (`tune_lt.training.gradient_norms`).
    """
    known = frame[frame["class_counts"].notna()]
    if known.empty or len(known) > MOST_RUNS:
        return None
    content = {run_id: norms_of(run_id) for run_id in dict.fromkeys(known["run_id"])}
    groups = {name: labels for name, labels in accuracies.groups(known.iloc[0]["class_counts"]).items() if labels}
    most = known.groupby("row").size().max()
    lines, data = [], []
    for row, own in known.groupby("row", sort=False):
        norms = {_pair(line): content[line["run_id"]] for _, line in own.iterrows()}
        found = {pair: one.precision for pair, one in norms.items() if one and one.precision}
        if len(found) < most:  # no mean over what is there
            continue
        texts: list[str] = []
        for name, labels in groups.items():
            errors = {
                kind: {pair: _mean(one[kind], labels) / 100 for pair, one in found.items()}  # a summary has percent
                for kind in ("equal", "own")
            }
            gain = difference(errors["own"], errors["equal"])
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
        "equal: N regions of one width (URA); own: those of the loss (AURA, where it is on); Δ: own less equal, run by "
        "run. Bins of small classes hold an image or none, so what is measured there is their noise more than the "
        "regions.",
    )
    return Sheet(
        "precision", "Precision of the unit regions", ("Method", *header), tuple(lines), pd.DataFrame(data), notes
    )


def _mean(errors: Sequence[float | None], labels: Sequence[int]) -> float:
    """The mean error over those classes that have images; NaN where none has."""
    known = [errors[label] for label in labels if errors[label] is not None]
    return float(np.mean(known)) if known else nan  # type: ignore[arg-type]
