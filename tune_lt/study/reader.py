"""Reading a study file strictly: every mistake is one line naming file, field, what was found and what is valid."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from tune_lt.config import STUDY_NAME, CellConfig, Recipe, Seed
from tune_lt.errors import InputError, printable
from tune_lt.plugins import load_plugins
from tune_lt.study import FULL, SMALL, Resources, Seeds, Space, Study, Validation, ranges, rows, searches, yaml_text
from tune_lt.study.checks import KINDS, Problems, known_fields, section
from tune_lt.study.mappings import overlay
from tune_lt.study.rows import Found, cell
from tune_lt.study.sections import configuration
from tune_lt.texts import some

__all__ = ["Problems", "cell", "from_dict", "load_plugins", "parse", "read", "row_config"]
SECTIONS = (
    "name", "plugins", "data", "model", "recipe", "loss", "search", "compare", "rows", "ablation", "cross", "seeds",
    "resources", "table", "small",
)  # fmt: skip
MAY_CHANGE = ("data", "model", "recipe", "loss", "search", "compare", "rows", "cross", "seeds", "resources")  # in small
MOST_CELLS = 100_000  # as many as a search may have trials
MOST_PROBLEMS, LONGEST_PROBLEM = 20, 1000  # lines of a message, characters of one
NAME_BYTES = 200  # folders are called by it, with a little more


def read(path: Path, small: bool = False) -> Study:
    """The study in the YAML file ``path``, or its small form; raises InputError for every mistake found, by line."""
    try:
        with open(path, "rb") as file:
            content = file.read(yaml_text.MOST_BYTES + 1)  # never more: it may be no study file but a disk
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: cannot be read: line {line} is not UTF-8; save it as UTF-8") from None
    if len(content) > yaml_text.MOST_BYTES:
        raise InputError(f"{path}: larger than {yaml_text.MOST_BYTES:,} bytes; valid: a study file")
    try:
        return parse(text, path.resolve().parent, small)
    except Problems as problems:
        lines = [f"{path}: {_one_line(problem)}" for problem in problems.args]
        raise InputError(some(lines, MOST_PROBLEMS, separator="\n")) from None


def _one_line(problem: str) -> str:
    """A problem as one printable line; what was found may be anything, and long."""
    line = printable(problem).replace("\n", "\\n")
    return line if len(line) <= LONGEST_PROBLEM else f"{line[:300]} … {line[-300:]}"


def parse(text: str, folder: Path, small: bool = False) -> Study:
    """The study written in ``text``, or its small form; plugins are looked for in ``folder`` first. Raises Problems."""
    raw = yaml_text.load(text)
    if not isinstance(raw, dict):
        raise Problems(f"found {type(raw).__name__}; valid: a mapping with {', '.join(SECTIONS)}")
    known_fields("", raw, SECTIONS)
    raw = content(raw, small)
    for required in ("name", "data", "model", "loss"):
        if required not in raw:
            raise Problems(f"{required}: missing")
    plugins = section(tuple[str, ...], "plugins", raw.get("plugins", []))
    try:
        sources = load_plugins(plugins, folder)
    except InputError as error:
        raise Problems(str(error)) from None
    plain, space = ranges.split({key: raw[key] for key in ("data", "model", "recipe", "loss") if key in raw})
    if isinstance(plain["data"], dict) and isinstance(root := plain["data"].get("root"), str):
        try:
            plain["data"]["root"] = str(folder / Path(root).expanduser())  # workers may run in another folder
        except RuntimeError:
            raise Problems(f"data.root: found {root!r}; there is no such user's folder") from None
    validation = plain["data"].pop("validation", {}) if isinstance(plain["data"], dict) else {}
    base = configuration(plain)
    checked = _validation(validation)
    compared = searches.comparison(raw.get("compare", {}))
    spaces = searches.searches(raw, plain, ranges.ordered(space), checked, compared)
    study = Study(
        name=section(str, "name", raw["name"]) + ("-small" if small else ""),
        text=text,
        **base,
        validation=checked,
        searches=spaces,
        rows=_rows(raw, spaces, [changes for changes, _ in compared] if "compare" in raw else None),
        columns=_columns(raw.get("cross", {}), base["data"]["imbalance"]),
        seeds=_seeds(raw.get("seeds", [0, 1, 2])),
        resources=section(Resources, "resources", raw.get("resources", {})),
        plugins=plugins,
        folder=folder,
        sources=sources,
        table=section(Literal[1, 2, 3] | None, "table", raw.get("table")),
        scale=SMALL if small else FULL,
    )
    if not re.fullmatch(STUDY_NAME, study.name):
        raise Problems(f"name: found {study.name!r}; valid: 1 to 100 letters, digits and . _ + -, no dot or dash first")
    if len(study.name.encode()) > NAME_BYTES:
        raise Problems(f"name: found {study.name!r}; valid: up to {NAME_BYTES} bytes in UTF-8")
    cells = len(study.rows) * len(study.columns) * len(study.seeds)
    if cells > MOST_CELLS:
        raise Problems(f"rows: found {cells:,} cells, of rows, factors and seeds; valid: up to {MOST_CELLS:,}")
    storage = study.resources.storage
    if storage is not None and not Path(storage).is_absolute():
        raise Problems(f"resources.storage: found {storage!r}; valid: an absolute path, the same on every host")
    others = {name for name, one in study.searches.items() if one is not study.own_search()}
    rows.check_best(study.rows, study.own_search() is not None, others)
    for name in study.rows:
        row_config(study, name, {})  # a row's mistakes come out now, not after the search
    return study


def content(raw: Mapping[str, Any], small: bool) -> dict[str, Any]:
    """A study file's content without its section ``small``; for the small form, with that section laid over the rest.

    Mappings are merged. What has another ``name`` takes the place of the old one with its parameters; so do a range and
    a ``validation``; null takes a section away. Raises Problems.
    """
    known_fields("small", raw.get("small", {}), MAY_CHANGE)
    whole = {key: value for key, value in raw.items() if key != "small"}
    if not small:
        return whole
    if "small" not in raw:
        raise Problems("small: missing; valid: a section with what the small form changes, such as {seeds: [0]}")
    merged = overlay(whole, raw["small"], _replaces)
    return {key: value for key, value in merged.items() if value is not None}


def _replaces(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a mapping is another thing than the old one, not a change of it."""
    ranged = any(kind in one for kind in KINDS for one in (old, new))
    return key == "validation" or ranged or ("name" in new and new["name"] != old.get("name"))


def row_config(study: Study, row: str, found: Found) -> dict[str, Any]:
    """A row's resolved configuration ``{data, model, loss, recipe}``, checked by `rows`. Raises Problems."""
    return rows.row_config(study, row, found, configuration)


def with_loss(study: Study, name: str) -> dict[str, Any]:
    """The loss ``name`` at its defaults, as a study would have it."""
    return dict(configuration(study.base() | {"loss": {"name": name}, "recipe": study.recipe})["loss"])


def from_dict(config: Mapping[str, Any]) -> CellConfig:
    """The cell that ``dataclasses.asdict`` made a dictionary of."""
    recipe = section(Recipe, "recipe", config["recipe"])
    return CellConfig(**{**config, "recipe": recipe})


def _validation(raw: Any) -> Validation:
    checked: Validation = section(Validation, "data.validation", raw)
    if checked.holdout is not None and checked.folds is not None:
        raise Problems("data.validation: found holdout and folds; valid: one of the two")
    if checked.seeds is not None:
        _different("data.validation.seeds", checked.seeds)
    if checked.folds is None and checked.holdout is None:
        return dataclasses.replace(checked, holdout=0.2)
    return checked


def _rows(
    raw: Mapping[str, Any], searches: Mapping[str, Space], compared: Sequence[dict[str, Any]] | None
) -> dict[str, rows.Row]:
    """The rows written out, the ablation's, and one for each loss of a comparison that none of them has.

    ``compared``: what each loss to compare with changes, None in a study that is no comparison.
    """
    named = rows.written(raw.get("rows", {}))
    for name, row in (rows.designed(raw["ablation"]) if "ablation" in raw else {}).items():
        if name in named:
            raise Problems(f"ablation.factors: a row {name!r} is written in rows, too")
        named[name] = row
    if compared is None:
        return named
    used = [row.get("loss", {}).get("best") for row in named.values()]
    untouched = {changes["loss"]["name"]: changes for changes in compared}
    own = raw["loss"].get("name")
    for name in dict.fromkeys([*untouched, *searches]):
        row = {"loss": {"best": True if name == own else name}} if name in searches else untouched[name]
        label = f"{name} (searched)" if name in searches else name
        if row["loss"].get("best") in used and "best" in row["loss"]:
            continue  # a row has it already
        if label in named:
            raise Problems(f"rows.{label}: is the name of a row that compare makes; rename yours")
        named[label] = row
    return named


def _columns(raw: Any, imbalance: float | None) -> tuple[float | None, ...]:
    known_fields("cross", raw, ("imbalance",))
    factors = section(tuple[Annotated[float, Ge(1)], ...], "cross.imbalance", raw.get("imbalance", []))
    if "imbalance" in raw:
        _different("cross.imbalance", factors)
    return factors or (imbalance,)


def _seeds(raw: Any) -> tuple[tuple[int, int], ...]:
    """Pairs of data seed and init seed: alike for a list, all combinations for a mapping."""
    if isinstance(raw, dict):
        crossed: Seeds = section(Seeds, "seeds", raw)
        if len(crossed.data) * len(crossed.init) > MOST_CELLS:
            raise Problems(f"seeds: found {len(crossed.data)} times {len(crossed.init)}; valid: up to {MOST_CELLS:,}")
        _different("seeds.data", crossed.data)
        _different("seeds.init", crossed.init)
        return tuple((one, other) for one in crossed.data for other in crossed.init)
    seeds = section(tuple[Seed, ...], "seeds", raw)
    _different("seeds", seeds)
    return tuple((seed, seed) for seed in seeds)


def _different(field: str, values: tuple[Any, ...]) -> None:
    if not values or len(set(values)) < len(values):
        raise Problems(f"{field}: found {list(values)}; valid: at least one, none twice")
