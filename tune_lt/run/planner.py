"""What is to be trained: the trials of a search and the cells of the tables, with what is recorded of each."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tune_lt import data
from tune_lt.config import CellConfig, determining, fingerprint
from tune_lt.run.search.trial_result import averages
from tune_lt.store import TAG, Store
from tune_lt.study import Space, Study, file_part, flattened, nested, overlay, ranges, reader
from tune_lt.study.rows import ONE_SE, REFERENCE


@dataclass(frozen=True)
class PlannedCell:
    """A cell of a table: the row it stands in, its imbalance factor, and its fingerprint."""

    row: str
    imbalance: float | None
    cell: CellConfig
    fingerprint: str


def planned_cells(study: Study, found: Mapping[str, Mapping[str, Any]], content_hash: str) -> list[PlannedCell]:
    """Every cell of the study's tables, all rows of one seed before those of the next. ``found``: by search."""
    configs = {row: reader.row_config(study, row, found) for row in study.rows}
    cells = []
    for data_seed, init_seed in study.seeds:
        for imbalance in study.columns:
            for row, config in configs.items():
                content = config | {"data": config["data"] | {"imbalance": imbalance}}
                cell = reader.cell(content, data_seed=data_seed, init_seed=init_seed)
                cells.append(PlannedCell(row, imbalance, cell, fingerprint(cell, content_hash, study.sources)))
    return cells


def cells_at_both_ends(
    study: Study, found: Mapping[str, Mapping[str, Any]], content_hash: str
) -> list[tuple[PlannedCell, PlannedCell]]:
    """Every cell of the tables twice: what no search has found yet has its lowest values once, and once its highest.

    Where both have the same fingerprint, the cell does not depend on what is yet to be found.
    """
    low, high = ({name: at_end(space, end) for name, space in study.searches.items()} for end in (0, -1))
    cells = planned_cells(study, {**low, **found}, content_hash)
    others = cells if study.searches.keys() <= found.keys() else planned_cells(study, {**high, **found}, content_hash)
    return list(zip(cells, others, strict=True))


def at_end(space: Space, end: Literal[0, -1]) -> dict[str, Any]:
    """The lowest (0) or highest (-1) value of every dimension; of a choice the first or last."""
    return {path: dimension.values[end] for path, dimension in space.space.items()}


def artifact(search: str) -> str:
    """The name of the artifact of the study's run that holds what a search found."""
    return f"search.{file_part(search)}.json"


def recorded_search(
    study: Study, space: Space, store: Store, parent_id: str, content_hash: str
) -> dict[str, Any] | None:
    """What an earlier run of exactly this search, with as many trials, concluded, or None."""
    recorded = store.read_json(parent_id, artifact(space.name))
    if recorded is None or recorded["signature"] != study.search_signature(space, content_hash):
        return None
    return dict(recorded) if recorded["trials"] == space.search.budget else None


def found_by(name: str, concluded: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What rows take from a concluded search: its best values, and the plainest within a standard error if others."""
    best, plainest = concluded["found"], concluded.get(ONE_SE)
    return {name: best} | ({f"{name}/{ONE_SE}": plainest["found"]} if plainest and plainest["found"] != best else {})


@dataclass(frozen=True)
class Recommended:
    """What held-out images choose: the ``search`` whose best configuration did best, and the ``row`` trained with it.

    ``fingerprint``: its cell of the first seed, the one whose network is handed out.
    """

    search: str
    row: str
    fingerprint: str


def recommended(
    study: Study,
    found: Mapping[str, Mapping[str, Any]],
    values: Mapping[str, Mapping[str, float]],
    cells: Sequence[PlannedCell],
) -> Recommended | None:
    """The choice between the study's searches by their ``values``, the best means of each, which the test never enters.

    None where nothing was searched, or no row was trained with the best configuration as it was found, on such data.
    ``cells``: of the tables.
    """
    if not study.searches:
        return None

    def quality(space: Space) -> float:
        return sum(values[space.name][name] for name in space.search.objectives)

    space = max(study.searches.values(), key=quality)
    wanted = trial_cells(study, space, found[space.name])[0]
    alike = [
        planned
        for planned in cells
        if (planned.cell.loss, planned.cell.model, planned.cell.recipe) == (wanted.loss, wanted.model, wanted.recipe)
        and planned.cell.data == wanted.data  # the imbalance that the search was judged at
    ]
    return Recommended(space.name, alike[0].row, alike[0].fingerprint) if alike else None


def trial_cells(study: Study, space: Space, found: Mapping[str, Any]) -> list[CellConfig]:
    """The cells of a search's trial, in the order they are trained."""
    changes = nested(space.complete(found))
    base = overlay(study.base() | {"loss": dict(space.loss), "model": dict(space.model)}, changes)
    base["recipe"] = reader.from_dict(base).recipe
    return [
        reader.cell(base, data_seed=seed, init_seed=seed, fold=fold, holdout=study.validation.holdout)
        for seed, fold in study.units(space)
    ]


def table_of_contents(
    study: Study, cells: Sequence[PlannedCell], found: Mapping[str, Mapping[str, Any]], chosen: Recommended | None
) -> dict[str, Any]:
    """What the reporter needs to assemble the tables from the store alone: each row's cells by fingerprint."""
    rows: dict[str, list[dict[str, Any]]] = {row: [] for row in study.rows}
    for planned in cells:
        seeds = {"data_seed": planned.cell.data_seed, "init_seed": planned.cell.init_seed}
        rows[planned.row].append({"fingerprint": planned.fingerprint, "imbalance": planned.imbalance, **seeds})
    return {
        "found": {name: dict(values) for name, values in found.items()},
        "searches": {name: artifact(name) for name in study.searches},
        "data": determining(study.data, "full"),
        "model": study.model["name"],
        "searched": study.loss["name"],
        "recommended": dataclasses.asdict(chosen) if chosen else None,
        "columns": list(study.columns),
        "rows": rows,
        "losses": {planned.row: planned.cell.loss["name"] for planned in cells},
    }


def study_tags(study: Study) -> dict[str, str]:
    """Tags that every cell of a study has, wherever it is trained."""
    return {"study": study.name, "dataset": str(study.data["name"]), "protocol": "sealed", "scale": study.scale}


def parent_tags(study: Study) -> dict[str, str]:
    """Tags of the study's own run, wherever its cells are trained, as MLflow has them."""
    tags = {"dataset": str(study.data["name"]), "scale": study.scale}
    tags |= {"table": str(study.table)} if study.table else {}
    return {f"{TAG}{name}": value for name, value in tags.items()}


class Planner:
    """Makes what a trial's config holds: its cells, their fingerprints, what is known of them, what to record."""

    def __init__(self, study: Study, content_hash: str, tags: Mapping[str, str]) -> None:
        self._study, self._content_hash, self._tags = study, content_hash, tags

    def cell(self, planned: PlannedCell, *, keep: bool = False) -> dict[str, Any]:
        """A trial of its own for one cell of a table. ``keep``: the state of its last epoch."""
        record = self.record(planned.cell, planned.fingerprint, planned.row, planned.fingerprint)
        trial = self._trial([(planned.cell, planned.fingerprint)], {}, planned.fingerprint, record, ())
        return trial | ({"keep": True} if keep else {})

    def trial(
        self, space: Space, found: Mapping[str, Any], finished: Mapping[str, Mapping[str, float]]
    ) -> dict[str, Any]:
        """A trial of a search; ``finished``: the metrics of cells that are trained already, by fingerprint."""
        study, watched = self._study, space.search.watched
        signature = study.search_signature(space, self._content_hash)
        cells = [
            (cell, fingerprint(cell, self._content_hash, study.sources)) for cell in trial_cells(study, space, found)
        ]
        known = {
            name: finished[name]
            for _, name in cells  # a group without held-out images has no metric
            if name in finished and ("val/many" in finished[name] or set(watched) <= finished[name].keys())
        }
        several = len(cells) > 1
        name = hashlib.sha256(json.dumps([name for _, name in cells]).encode()).hexdigest()[:24]
        name = name if several else cells[0][1]
        record = self.record(cells[0][0], name, "search", f"{name}.{signature}")
        record["tags"] |= {"search": signature, "searched": space.name, "found": json.dumps(dict(found))}
        if several:
            record["tags"] |= {"kind": "trial", "fold": "all"}
        return self._trial(cells, known, name, record, watched)

    def reference(self, space: Space) -> list[PlannedCell]:
        """The cells of plain cross-entropy on the images that the search's trials are judged on."""
        softmax = reader.with_loss(self._study, REFERENCE)
        plain = dataclasses.replace(space, loss=softmax, model=self._study.model, space={}, plain={})
        recipe = {path: ranges.recipe_default(path) for path in space.space if path.startswith("recipe/")}
        cells = trial_cells(self._study, plain, recipe)  # where the recipe is searched, the reference has the default
        return [
            PlannedCell(
                "reference", cell.data["imbalance"], cell, fingerprint(cell, self._content_hash, self._study.sources)
            )
            for cell in cells
        ]

    def _trial(
        self,
        cells: list[tuple[CellConfig, str]],
        known: Mapping[str, Mapping[str, float]],
        name: str,
        record: dict[str, Any],
        watched: tuple[str, ...],
    ) -> dict[str, Any]:
        several = len(cells) > 1
        units = [
            {
                "cell": dataclasses.asdict(cell),
                "fingerprint": own,
                "known": _scores(known[own]) if own in known else None,
                "record": self.record(cell, own, "fold", own) if several else None,
            }
            for cell, own in cells
        ]
        values = None
        if all(unit["known"] is not None for unit in units):
            values = averages([known[own] for _, own in cells], watched)
            values = values if all(map(math.isfinite, values.values())) else None
        return {"units": units, "fingerprint": name, "record": record, "watched": watched, "values": values}

    def record(self, cell: CellConfig, name: str, row: str, key: str) -> dict[str, Any]:
        """What is recorded of a cell, with the fingerprint ``name``, at its start: ``key``, name, parameters, tags."""
        content = dataclasses.asdict(cell)
        label = f"{row} · seed {cell.init_seed}" + (f" · fold {cell.fold}" if "/" in cell.fold else "")
        tags = dict(self._tags) | {
            "kind": "cell",
            "row": row,
            "fingerprint": name,
            "fold": cell.fold,
            "imbalance": str(cell.data["imbalance"] or "as it is"),
            "data_seed": str(cell.data_seed),
            "init_seed": str(cell.init_seed),
        }
        params = flattened({section: content[section] for section in ("data", "model", "loss", "recipe")})
        return {"key": key, "name": label, "params": params, "tags": tags}


def _scores(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith(("val/", "train/"))}


@dataclass(frozen=True)
class Model:
    """The network of a ``cell`` that is trained to its end: its ``state``, from which `training.trained` makes it.

    ``again``: it was trained once more, after its cell had been recorded.
    """

    cell: PlannedCell
    state: Path
    dataset: data.Dataset
    again: bool
