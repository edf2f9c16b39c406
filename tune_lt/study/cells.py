"""The cells of a study: what is trained without a search, for a row of its tables, and in a trial of a search."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tune_lt.config import CellConfig, Recipe
from tune_lt.study import Space, Study, nested, overlay, ranges
from tune_lt.study.checks import section
from tune_lt.study.rows import ONE_SE, REFERENCE
from tune_lt.study.sections import configuration, with_defaults

Found = Mapping[str, Mapping[str, Any]]  # search -> path -> value, see `row_config`


def row_config(study: Study, row: str, found: Found) -> dict[str, Any]:
    """A row's configuration ``{data, model, loss, recipe}``, checked, with every default filled in. Raises Problems.

    A row whose ``loss`` has a name is trained with that loss at its defaults; otherwise with the loss that a search
    found, updated with the row's values. ``best`` says which search: ``true``, the default, the one over the study's
    own loss; ``one_standard_error`` that one too, but the plainest configuration within a standard error of its best;
    the name of a compared loss its search. ``model`` and ``recipe`` update the study's.

    ``found``: a search's name (or that and ``/one_standard_error``) -> flat values. A search that is not in it has
    what stands in the file.
    """
    changes = {key: dict(value) for key, value in study.rows[row].items()}
    loss = changes.pop("loss", {})
    best = loss.pop("best", True)
    name = best if isinstance(best, str) and best != ONE_SE else study.loss["name"]
    base = study.base()
    if name in study.searches:
        space = study.searches[name]
        base |= {"loss": dict(space.loss), "model": dict(space.model)}
        plainest = found.get(f"{name}/{ONE_SE}") if best == ONE_SE else None
        chosen = plainest or found.get(name)  # the best itself where nothing plainer is as good
        values = space.complete(chosen) if chosen is not None else {}
        if "name" in loss:  # another loss shares what was found of the recipe, not of the loss
            values = {path: value for path, value in values.items() if not path.startswith("loss/")}
        base = overlay(base, nested(values))
    base["loss"] = loss if "name" in loss else overlay(base["loss"], loss)
    if "name" in changes.get("model", {}):
        base["model"] = {}  # another network does not inherit this one's parameters
    return configuration(overlay(base, changes), f"rows.{row}.")


def cell(
    config: Mapping[str, Any],
    *,
    data_seed: int = 0,
    init_seed: int = 0,
    fold: str | None = None,
    holdout: float | None = None,
) -> CellConfig:
    """The cell of a configuration that `row_config` or `sections.configuration` returned.

    ``fold`` is ``full``, ``holdout`` or ``k/K``; by default ``holdout`` where that is given, else ``full``.
    """
    fold = fold or ("full" if holdout is None else "holdout")
    aside = holdout if fold == "holdout" else None
    return CellConfig(**config, data_seed=data_seed, init_seed=init_seed, fold=fold, holdout=aside)


def base_cell(study: Study, **options: Any) -> CellConfig:
    """The study's own configuration as a cell; ``options`` as in `cell`."""
    return cell({**study.base(), "recipe": study.recipe}, **options)


def row_cell(study: Study, row: str, found: Found) -> CellConfig:
    """The cell of a row (`row_config`) with seeds 0, trained on the whole training split."""
    return cell(row_config(study, row, found))


def trial_cells(study: Study, space: Space, found: Mapping[str, Any]) -> list[CellConfig]:
    """The cells of a search's trial, which tries the values ``found``, in the order they are trained."""
    changes = nested(space.complete(found))
    config = overlay(study.base() | {"loss": dict(space.loss), "model": dict(space.model)}, changes)
    config["recipe"] = section(Recipe, "recipe", config["recipe"])
    return [
        cell(config, data_seed=seed, init_seed=seed, fold=fold, holdout=study.validation.holdout)
        for seed, fold in study.units(space)
    ]


def reference_cells(study: Study, space: Space) -> list[CellConfig]:
    """The cells of plain cross-entropy on the images that the search's trials are judged on.

    Where the recipe is searched, the reference has the default recipe.
    """
    softmax = with_defaults("loss", {"name": REFERENCE}, "loss")
    plain = dataclasses.replace(space, loss=softmax, model=study.model, space={}, plain={})
    recipe = {path: ranges.parameter(space.name, path)[1] for path in space.space if path.startswith("recipe/")}
    return trial_cells(study, plain, recipe)
