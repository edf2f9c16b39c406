"""What is to be trained: the trials of a search and the cells of the tables, with what is recorded of each."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tune_lt import data
from tune_lt.config import CellConfig, Recipe, determining, fingerprint
from tune_lt.documents import Contents, Recommended, SearchResult, TableCell, search_file
from tune_lt.run.search.planned import PlannedTrial, Record, Unit
from tune_lt.store import TAG, Store
from tune_lt.study import Space, Study, flattened, nested, overlay, ranges, reader
from tune_lt.study.checks import section
from tune_lt.study.rows import ONE_SE, REFERENCE
from tune_lt.study.sections import with_defaults


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


def recorded_search(study: Study, space: Space, store: Store, parent_id: str, content_hash: str) -> SearchResult | None:
    """What an earlier run of exactly this search, with as many trials, concluded, or None."""
    recorded = store.read(parent_id, search_file(space.name), partial(SearchResult.of, space.name))
    if recorded is None or recorded.signature != study.search_signature(space, content_hash):
        return None
    return recorded if recorded.trials == space.search.budget else None


def found_by(searched: SearchResult) -> dict[str, dict[str, Any]]:
    """What rows take from a search: its best values, and the plainest within a standard error if they are others."""
    found = {searched.name: dict(searched.best.found)}
    if searched.plain and searched.plain.found != searched.best.found:
        found[f"{searched.name}/{ONE_SE}"] = dict(searched.plain.found)
    return found


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
    base["recipe"] = section(Recipe, "recipe", base["recipe"])
    return [
        reader.cell(base, data_seed=seed, init_seed=seed, fold=fold, holdout=study.validation.holdout)
        for seed, fold in study.units(space)
    ]


def table_of_contents(
    study: Study, cells: Sequence[PlannedCell], found: Mapping[str, Mapping[str, Any]], chosen: Recommended | None
) -> Contents:
    """What the report needs to assemble the tables from the store alone: each row's cells by fingerprint."""
    rows: dict[str, list[TableCell]] = {row: [] for row in study.rows}
    for planned in cells:
        seeds = planned.cell.data_seed, planned.cell.init_seed
        rows[planned.row].append(TableCell(planned.fingerprint, planned.imbalance, *seeds))
    return Contents(
        found={name: dict(values) for name, values in found.items()},
        searches={name: search_file(name) for name in study.searches},
        data=determining(study.data, "full"),
        model=study.model["name"],
        searched=study.loss["name"],
        recommended=chosen,
        columns=study.columns,
        rows={row: tuple(own) for row, own in rows.items()},
        losses={planned.row: planned.cell.loss["name"] for planned in cells},
    )


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

    def cell(self, planned: PlannedCell, *, keep: bool = False) -> PlannedTrial:
        """A trial of its own for one cell of a table. ``keep``: the state of its last epoch."""
        record = self.record(planned.cell, planned.fingerprint, planned.row, planned.fingerprint)
        return PlannedTrial((Unit(planned.cell, planned.fingerprint),), planned.fingerprint, record, keep=keep)

    def trial(
        self, space: Space, found: Mapping[str, Any], finished: Mapping[str, Mapping[str, float]]
    ) -> PlannedTrial:
        """A trial of a search; ``finished``: the metrics of cells that are trained already, by fingerprint."""
        study, watched = self._study, space.search.watched
        signature = study.search_signature(space, self._content_hash)
        cells = [
            (cell, fingerprint(cell, self._content_hash, study.sources)) for cell in trial_cells(study, space, found)
        ]
        several, name = len(cells) > 1, cells[0][1]
        if several:
            name = hashlib.sha256(json.dumps([own for _, own in cells]).encode()).hexdigest()[:24]
        runs = [self.record(cell, own, "fold", own) if several else None for cell, own in cells]
        units = tuple(
            Unit(cell, own, _known(finished.get(own), watched), run)
            for (cell, own), run in zip(cells, runs, strict=True)
        )
        record = self.record(cells[0][0], name, "search", f"{name}.{signature}")
        tags = {"search": signature, "searched": space.name, "found": json.dumps(dict(found))}
        tags |= {"kind": "trial", "fold": "all"} if several else {}
        record = dataclasses.replace(record, tags={**record.tags, **tags})
        return PlannedTrial(units, name, record, watched, dict(found))

    def reference(self, space: Space) -> list[PlannedCell]:
        """The cells of plain cross-entropy on the images that the search's trials are judged on."""
        softmax = with_defaults("loss", {"name": REFERENCE}, "loss")
        plain = dataclasses.replace(space, loss=softmax, model=self._study.model, space={}, plain={})
        recipe = {path: ranges.parameter(space.name, path)[1] for path in space.space if path.startswith("recipe/")}
        cells = trial_cells(self._study, plain, recipe)  # where the recipe is searched, the reference has the default
        return [
            PlannedCell(
                "reference", cell.data["imbalance"], cell, fingerprint(cell, self._content_hash, self._study.sources)
            )
            for cell in cells
        ]

    def record(self, cell: CellConfig, name: str, row: str, key: str) -> Record:
        """What is recorded of a cell, with the fingerprint ``name``, at its start."""
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
        return Record(key, label, params, tags)


def _known(metrics: Mapping[str, float] | None, watched: Sequence[str]) -> dict[str, float] | None:
    """The scores of a trained cell if a search can go by them; a group without held-out images has no metric."""
    if metrics is None or not ("val/many" in metrics or set(watched) <= metrics.keys()):
        return None
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
