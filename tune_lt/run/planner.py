"""What a study trains: the trials of its searches and the cells of its tables, and what is recorded of each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from tune_lt import data
from tune_lt.config import CellConfig, ImageHashes, long_tail
from tune_lt.documents import Contents, Recommended, SearchResult, TableCell, search_file
from tune_lt.run.search.planned import PlannedTrial, Record, Unit
from tune_lt.store import TAG, Store
from tune_lt.study import Space, Study, flattened
from tune_lt.study.cells import Found, reference_cells, row_cell, trial_cells
from tune_lt.study.rows import ONE_SE
from tune_lt.training.identity import fingerprint


@dataclass(frozen=True)
class PlannedCell:
    """A cell with its fingerprint; ``row``: of a table, or what it is trained for (fold, reference)."""

    row: str
    cell: CellConfig
    fingerprint: str

    @property
    def imbalance(self) -> float | None:
        """The imbalance factor of its training images; None where they are as they are."""
        imbalance: float | None = self.cell.data["imbalance"]
        return imbalance


class Plan:
    """A study resolved for the images with these hashes; ``tags`` are added to every run."""

    def __init__(self, study: Study, images: ImageHashes, tags: Mapping[str, str] | None = None) -> None:
        self.study, self.images, self._tags = study, images, tags or {}

    @cached_property
    def signatures(self) -> dict[str, str]:
        """The signature of each search."""
        return {name: self.study.search_signature(one, self.images) for name, one in self.study.searches.items()}

    def _planned(self, row: str, cell: CellConfig) -> PlannedCell:
        return PlannedCell(row, cell, fingerprint(cell, self.images, self.study.sources))

    def cells(self, found: Found) -> list[PlannedCell]:
        """Every cell of the tables, all rows of one seed before those of the next."""
        study = self.study
        rows = {row: row_cell(study, row, found) for row in study.rows}
        return [
            self._planned(
                row,
                replace(one, data={**one.data, **study.drawn, "imbalance": imbalance}, data_seed=data, init_seed=init),
            )
            for data, init in study.seeds
            for imbalance in study.columns
            for row, one in rows.items()
        ]

    def cells_at_both_ends(self, found: Found) -> list[tuple[PlannedCell, PlannedCell]]:
        """Every cell of the tables twice: parameters that no search has found yet are at their lowest, then highest.

        Where both have the same fingerprint, the cell does not depend on what is yet to be found.
        """
        spaces = self.study.searches
        cells = self.cells({**{name: at_end(space, 0) for name, space in spaces.items()}, **found})
        if spaces.keys() <= found.keys():
            return list(zip(cells, cells, strict=True))
        highest = self.cells({**{name: at_end(space, -1) for name, space in spaces.items()}, **found})
        return list(zip(cells, highest, strict=True))

    def settled(self, found: Found) -> tuple[list[PlannedCell], dict[str, str]]:
        """The cells of the rows that need no other search than those in ``found``; the other rows, each with a search.

        The search is one that the row needs and ``found`` lacks.
        """
        spaces, waiting = self.study.searches, dict[str, str]()
        lowest = {name: at_end(space, 0) for name, space in spaces.items() if name not in found}
        for name in lowest:
            others = {other: values for other, values in lowest.items() if other != name}
            ends = self.cells_at_both_ends({**found, **others})
            waiting |= {low.row: name for low, high in ends if low.fingerprint != high.fingerprint}
        return [cell for cell in self.cells({**lowest, **found}) if cell.row not in waiting], waiting

    def units(self, space: Space, found: Mapping[str, Any]) -> list[PlannedCell]:
        """The cells of a search's trial, in the order they are trained."""
        return [self._planned("fold", cell) for cell in trial_cells(self.study, space, found)]

    def reference(self, space: Space) -> list[PlannedCell]:
        """The cells of plain cross-entropy that a search's constraints compare with."""
        return [self._planned("reference", cell) for cell in reference_cells(self.study, space)]

    def cell_trial(self, planned: PlannedCell, *, keep: bool = False) -> PlannedTrial:
        """A trial of its own for one cell of a table. ``keep``: the state of its last epoch."""
        unit = Unit(planned.cell, planned.fingerprint)
        return PlannedTrial((unit,), planned.fingerprint, self.record(planned), keep=keep)

    def trial(
        self,
        space: Space,
        found: Mapping[str, Any],
        finished: Mapping[str, Mapping[str, float]],
        failing: Mapping[str, str] = MappingProxyType({}),
    ) -> PlannedTrial:
        """A trial of a search.

        ``finished``: the metrics of cells that are trained already, by fingerprint; ``failing``: the reasons of cells
        that would fail.
        """
        cells, watched, signature = self.units(space, found), space.search.watched, self.signatures[space.name]
        several, name = len(cells) > 1, cells[0].fingerprint
        if several:
            name = hashlib.sha256(json.dumps([one.fingerprint for one in cells]).encode()).hexdigest()[:24]
        units = tuple(
            Unit(
                one.cell,
                one.fingerprint,
                _known(finished.get(one.fingerprint), watched),
                self.record(one) if several else None,
            )
            for one in cells
        )
        record = self.record(PlannedCell("search", cells[0].cell, name))
        tags = {**record.tags, "search": signature, "searched": space.name, "found": json.dumps(dict(found))}
        tags |= {"kind": "trial", "fold": "all"} if several else {}
        record = replace(record, key=f"{name}.{signature}", tags=tags)
        reasons = (failing[unit.fingerprint] for unit in units if unit.known is None and unit.fingerprint in failing)
        return PlannedTrial(units, name, record, watched, dict(found), failing=next(reasons, None))

    def record(self, planned: PlannedCell) -> Record:
        """What is recorded of a cell at its start."""
        cell = planned.cell
        content = asdict(cell)
        label = f"{planned.row} · seed {cell.init_seed}" + (f" · fold {cell.fold}" if "/" in cell.fold else "")
        tags = {
            **self._tags,
            "kind": "cell",
            "row": planned.row,
            "fingerprint": planned.fingerprint,
            "fold": cell.fold,
            "imbalance": str(planned.imbalance or "as it is"),
            "data_seed": str(cell.data_seed),
            "init_seed": str(cell.init_seed),
        }
        params = flattened({section: content[section] for section in ("data", "model", "loss", "recipe")})
        return Record(planned.fingerprint, label, params, tags)

    def recorded(self, space: Space, store: Store, parent_id: str) -> SearchResult | None:
        """What an earlier run of exactly this search, with as many trials, concluded, or None."""
        wanted = self.signatures[space.name], space.search.budget

        def of(content: Mapping[str, Any]) -> SearchResult | None:  # an outdated document need not be read whole
            return SearchResult.of(space.name, content) if (content["signature"], content["trials"]) == wanted else None

        return store.read(parent_id, search_file(space.name), of)

    def recommended(self, results: Mapping[str, SearchResult], cells: Sequence[PlannedCell]) -> Recommended | None:
        """The choice between the study's searches by the `merit` of each, which the test never enters.

        None where nothing was searched, or no row was trained with the best configuration as it was found, on images
        of the imbalance that the search was judged at. ``cells``: of the tables.
        """
        if not results:
            return None
        name, result = max(results.items(), key=lambda item: item[1].merit)
        wanted = _settings(self.units(self.study.searches[name], result.best.found)[0].cell)
        first = next((planned for planned in cells if _settings(planned.cell) == wanted), None)
        return Recommended(name, first.row, first.fingerprint) if first else None

    def contents(
        self,
        cells: Sequence[PlannedCell],
        found: Found,
        chosen: Recommended | None,
        missing: Mapping[str, str] = MappingProxyType({}),
    ) -> Contents:
        """What the report needs to assemble the tables from the store alone: each row's cells by fingerprint.

        ``missing``: the rows that cannot be trained, each with the search that found nothing for it.
        """
        rows: dict[str, list[TableCell]] = {row: [] for row in self.study.rows if row not in missing}
        for one in cells:
            seeds = one.cell.data_seed, one.cell.init_seed
            rows[one.row].append(TableCell(one.fingerprint, one.imbalance, *seeds))
        model = self.study.model
        pretrained = model.get("weights") or model.get("pretrained")  # then it is not the network of a paper's table
        return Contents(
            found={name: dict(values) for name, values in found.items()},
            searches={name: search_file(name) for name in self.study.searches if name not in missing.values()},
            data=long_tail({**self.study.data, **self.study.drawn}),
            model=model["name"] if pretrained else model.get("architecture", model["name"]),
            searched=self.study.loss["name"],
            recommended=chosen,
            columns=self.study.columns,
            rows={row: tuple(own) for row, own in rows.items()},
            losses={one.row: one.cell.loss["name"] for one in cells},
            missing=dict(missing),
        )


def at_end(space: Space, end: Literal[0, -1]) -> dict[str, Any]:
    """The lowest (0) or highest (-1) value of every dimension; of a choice the first or last."""
    return {path: dimension.values[end] for path, dimension in space.space.items()}


def found_by(*results: SearchResult) -> dict[str, dict[str, Any]]:
    """What rows take from searches: the best values, and the plainest within a standard error if they are others."""
    found = {}
    for result in results:
        found[result.name] = dict(result.best.found)
        if result.plain and result.plain.found != result.best.found:
            found[f"{result.name}/{ONE_SE}"] = dict(result.plain.found)
    return found


def study_tags(study: Study) -> dict[str, str]:
    """Tags that every cell of a study has, wherever it is trained."""
    return {"study": study.name, "dataset": str(study.data["name"]), "protocol": "sealed", "scale": study.scale}


def parent_tags(study: Study, content_hash: str = "") -> dict[str, str]:
    """Tags of the study's own run, wherever its cells are trained, as MLflow has them."""
    root = study.data.get("root")
    tags = {"dataset": str(study.data["name"]), "scale": study.scale}
    tags |= {"images": content_hash} if content_hash else {}
    tags |= {"root": os.path.realpath(root)} if root else {}
    tags |= {"table": str(study.table)} if study.table else {}
    return {f"{TAG}{name}": value for name, value in tags.items()}


def _settings(cell: CellConfig) -> tuple[Any, ...]:
    """What a cell is trained with, apart from its seeds and fold and what is drawn by them."""
    data = {key: value for key, value in cell.data.items() if key != "resample"}
    return data, cell.model, cell.loss, cell.recipe


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
