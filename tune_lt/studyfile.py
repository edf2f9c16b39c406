"""Reading a study file strictly: every mistake is one line naming file, field, what was found and what is valid."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge

from tune_lt import data, losses, models, ranges, registry, rows, scales
from tune_lt.config import CellConfig, Recipe, Seed
from tune_lt.errors import InputError
from tune_lt.rows import Found, cell
from tune_lt.strict import Problems, dotted, known_fields, section
from tune_lt.study import (
    FULL,
    MOST_TRIALS,
    Dimension,
    Resources,
    Search,
    Seeds,
    Space,
    Study,
    Trials,
    Validation,
    nested,
    overlay,
)

__all__ = ["Problems", "cell", "from_dict", "load_plugins", "parse", "read", "row_config"]
SECTIONS = (
    "name", "plugins", "data", "model", "recipe", "loss", "search", "compare", "rows", "ablation", "cross", "seeds",
    "resources", "table", "scales",
)  # fmt: skip
NAME = r"[\w+-][\w.+-]{0,99}"
TRIALS = 20  # of a search, unless the file says otherwise
LONG_TAIL: dict[str, tuple[Any, Any]] = {
    "imbalance": (Annotated[float, Ge(1)] | None, None),
    "profile": (Literal[tuple(data.PROFILES)], "exponential"),
    "head": (Annotated[int, Ge(1)] | None, None),
    "sealed": (Annotated[int, Ge(1)] | None, None),
}
Parameters = Mapping[str, tuple[Any, Any]]
Compared = tuple[dict[str, Any], dict[str, Dimension]]  # a loss to compare with: what it changes, its ranges


def read(path: Path, scale: str = FULL) -> Study:
    """The study in the YAML file ``path``, in one of its scales; raises InputError for every mistake found, by line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        return parse(text, path.resolve().parent, scale)
    except Problems as problems:
        raise InputError("\n".join(f"{path}: {problem}" for problem in problems.args)) from None


def parse(text: str, folder: Path, scale: str = FULL) -> Study:
    """The study written in ``text``, in one of its scales; plugins are looked for in ``folder`` first.

    Raises Problems.
    """
    raw = _load_yaml(text)
    known_fields("", raw, SECTIONS)
    raw = scales.scaled(raw, scale)
    for required in ("name", "data", "model", "loss"):
        if required not in raw:
            raise Problems(f"{required}: missing")
    plugins = section(tuple[str, ...], "plugins", raw.get("plugins", []))
    sources = load_plugins(plugins, folder)
    plain, space = ranges.split({key: raw[key] for key in ("data", "model", "recipe", "loss") if key in raw})
    if isinstance(plain["data"], dict) and isinstance(root := plain["data"].get("root"), str):
        plain["data"]["root"] = str(folder / Path(root).expanduser())  # workers may run in another folder
    validation = plain["data"].pop("validation", {}) if isinstance(plain["data"], dict) else {}
    base = _configuration(plain)
    checked = _validation(validation)
    compared = _comparison(raw.get("compare", {}))
    searches = _searches(raw, plain, ranges.ordered(space), checked, compared)
    study = Study(
        name=section(str, "name", raw["name"]),
        text=text,
        **base,
        validation=checked,
        searches=searches,
        rows=_rows(raw, searches, [changes for changes, _ in compared] if "compare" in raw else None),
        columns=_columns(raw.get("cross", {}), base["data"]["imbalance"]),
        seeds=_seeds(raw.get("seeds", [0, 1, 2])),
        resources=section(Resources, "resources", raw.get("resources", {})),
        plugins=plugins,
        folder=folder,
        sources=sources,
        table=section(Literal[1, 2, 3] | None, "table", raw.get("table")),
        scale=scale,
    )
    if not re.fullmatch(NAME, study.name):
        raise Problems(f"name: found {study.name!r}; valid: 1 to 100 letters, digits and . _ + -, no dot first")
    storage = study.resources.storage
    if storage is not None and not Path(storage).is_absolute():
        raise Problems(f"resources.storage: found {storage!r}; valid: an absolute path, the same on every host")
    others = {name for name, one in study.searches.items() if one is not study.own_search()}
    rows.check_best(study.rows, study.own_search() is not None, others)
    for name in study.rows:
        row_config(study, name, {})  # a row's mistakes come out now, not after the search
    return study


def row_config(study: Study, row: str, found: Found) -> dict[str, Any]:
    """A row's resolved configuration ``{data, model, loss, recipe}``, checked (`tune_lt.rows`). Raises Problems."""
    return rows.row_config(study, row, found, _configuration)


def with_loss(study: Study, name: str) -> dict[str, Any]:
    """The loss ``name`` at its defaults, as a study would have it."""
    return dict(_configuration(study.base() | {"loss": {"name": name}, "recipe": study.recipe})["loss"])


def from_dict(config: Mapping[str, Any]) -> CellConfig:
    """The cell that ``dataclasses.asdict`` made a dictionary of."""
    recipe = section(Recipe, "recipe", config["recipe"])
    return CellConfig(**{**config, "recipe": recipe})


def load_plugins(names: tuple[str, ...], folder: Path) -> dict[str, str]:
    """Import the user's modules, from ``folder`` first; module -> hash of its source, which fingerprints include.

    Modules of the folder that they import count too: a helper's change may change a result as well.
    """
    if names and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    for name in names:
        try:
            module = importlib.import_module(name)
        except Exception as error:
            raise Problems(f"plugins: importing {name!r} failed: {type(error).__name__}: {error}") from None
        file = getattr(module, "__file__", None)
        own = folder / f"{name.replace('.', '/')}.py"
        if file is None or (own.exists() and not own.samefile(file)):
            raise Problems(f"plugins: {name!r} is a module of Python's or of a library ({file}) too; rename {own.name}")
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return {
        name: hashlib.sha256(Path(file).read_bytes()).hexdigest()
        for name, file in files.items()
        if names and file and (name in names or _belongs(Path(file), folder)) and Path(file).is_file()
    }


def _belongs(file: Path, folder: Path) -> bool:
    """Whether a module's file is the user's own: below the study's folder, and no library installed there."""
    inside = file.is_relative_to(folder) and "site-packages" not in file.parts
    return inside and not file.is_relative_to(Path(__file__).parent)


def component_parameters(kind: str, name: str) -> Parameters:
    """What ``{name: ..., ...}`` may hold for a loss, model or data set: name -> (annotation, default)."""
    if kind == "loss":
        return {**registry.parameters(losses.LOSSES[name]), "drw": (dict[str, Any] | None, None)}
    if kind == "model":
        return registry.parameters(models.MODELS[name])
    return {**LONG_TAIL, **registry.parameters(data.DATASETS[name])}


REGISTRIES: dict[str, Mapping[str, Any]] = {"loss": losses.LOSSES, "model": models.MODELS, "data": data.DATASETS}


class _UniqueKeys(yaml.SafeLoader):
    """YAML as it is, but a key written twice in one mapping is a mistake, not a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise Problems(f"line {key_node.start_mark.line + 1}: the key {key!r} is not a text; put it in quotes")
            if key in seen:
                raise Problems(f"line {key_node.start_mark.line + 1}: {key!r} is written twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _load_yaml(text: str) -> dict[str, Any]:
    try:
        raw = yaml.load(text, Loader=_UniqueKeys)  # a SafeLoader
        if not isinstance(raw, dict):
            raise Problems(f"found {type(raw).__name__}; valid: a mapping with {', '.join(SECTIONS)}")
        _check_leaves("", raw)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise Problems(f"{where}not YAML: {getattr(error, 'problem', None) or error}") from None
    except RecursionError:
        raise Problems("nested too deeply, or an anchor refers to itself") from None
    return raw


def _check_leaves(path: str, value: Any) -> None:
    """Only what JSON has too: the same file must mean the same everywhere it is stored."""
    if isinstance(value, dict):
        for key, member in value.items():
            _check_leaves(f"{path}.{key}" if path else key, member)
    elif isinstance(value, list):
        for index, member in enumerate(value):
            _check_leaves(f"{path}[{index}]", member)
    elif isinstance(value, float) and not math.isfinite(value):
        raise Problems(f"{path}: found {value}; valid: a finite number")
    elif not isinstance(value, str | int | float | None):
        raise Problems(f"{path}: found {value!r} ({type(value).__name__}); valid: text, number, true, false, null")


def _configuration(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Data, model, loss and recipe checked against their signatures, every default filled in."""
    recipe = plain.get("recipe", {})
    return {
        "data": _component("data", plain["data"], prefix),
        "model": _component("model", plain["model"], prefix),
        "loss": _component("loss", plain["loss"], prefix),
        "recipe": _check_recipe(section(Recipe, f"{prefix}recipe", recipe), f"{prefix}recipe"),
    }


def _component(kind: str, raw: Any, prefix: str) -> dict[str, Any]:
    field = f"{prefix}{kind}"
    if not isinstance(raw, dict) or "name" not in raw:
        raise Problems(f"{field}.name: missing; {registry.names(REGISTRIES[kind])}")
    if not isinstance(raw["name"], str):
        raise Problems(f"{field}.name: found {raw['name']!r}; {registry.names(REGISTRIES[kind])}")
    if raw["name"] not in REGISTRIES[kind]:
        raise Problems(
            f"{field}.name: unknown {kind} {raw['name']!r}; {registry.names(REGISTRIES[kind], str(raw['name']))}"
        )
    known = component_parameters(kind, raw["name"])
    values = _parameters(field, {key: value for key, value in raw.items() if key != "name"}, known)
    if values.get("drw") is not None:
        values["drw"] = _parameters(f"{field}.drw", values["drw"], registry.parameters(losses.DRW))
    return {"name": raw["name"], **values}


def _parameters(field: str, raw: Mapping[str, Any], known: Parameters) -> dict[str, Any]:
    known_fields(field, raw, known)
    values = {}
    for name, (annotation, default) in known.items():
        if name in raw:
            values[name] = section(annotation, f"{field}.{name}", raw[name])
        elif default is registry.REQUIRED:
            raise Problems(f"{field}.{name}: missing")
        else:
            values[name] = default
    return values


def _check_recipe(recipe: Recipe, field: str) -> Recipe:
    schedule = recipe.schedule
    if len(schedule.milestones) != len(schedule.factors) or list(schedule.milestones) != sorted(schedule.milestones):
        raise Problems(
            f"{field}.schedule: found milestones {list(schedule.milestones)}, factors {list(schedule.factors)}; "
            "valid: rising milestones, one factor for each"
        )
    return recipe


def _validation(raw: Any) -> Validation:
    checked: Validation = section(Validation, "data.validation", raw)
    if checked.holdout is not None and checked.folds is not None:
        raise Problems("data.validation: found holdout and folds; valid: one of the two")
    if checked.seeds is not None:
        _different("data.validation.seeds", checked.seeds)
    if checked.folds is None and checked.holdout is None:
        return dataclasses.replace(checked, holdout=0.2)
    return checked


def _comparison(raw: Any) -> list[Compared]:
    """The losses of the section ``compare``, with what each changes."""
    known_fields("compare", raw, ("losses", "trials"))
    entries = section(list[Any], "compare.losses", raw.get("losses", []))
    compared = [_compared(entry, f"compare.losses[{index}]") for index, entry in enumerate(entries)]
    names = [changes["loss"]["name"] for changes, _ in compared]
    if len(set(names)) < len(names):
        raise Problems(f"compare.losses: found {', '.join(names)}; valid: each loss once")
    return compared


def _searches(
    raw: Mapping[str, Any],
    plain: Mapping[str, Any],
    space: Mapping[str, Dimension],
    validation: Validation,
    compared: Sequence[Compared],
) -> dict[str, Space]:
    """Everything the study searches, by name, with one budget for all."""
    bases: dict[str, tuple[dict[str, Any], dict[str, Dimension]]] = {}
    if space:
        bases[str(plain["loss"]["name"])] = ({}, dict(space))
    shared = {path: dimension for path, dimension in space.items() if not path.startswith("loss/")}
    for index, (changes, own) in enumerate(compared):
        name = changes["loss"]["name"]
        if name in bases:
            raise Problems(f"compare.losses[{index}]: {name!r} is searched already")
        if shared | own:  # else it is trained as it is, nothing in it can be searched
            bases[name] = (changes, ranges.ordered(shared | own))
    searching = bool(bases)
    if searching != ("search" in raw):
        raise Problems(
            f"search: missing, but {', '.join(dotted(path) for path in space) or 'compare'} has a range to search"
            if searching
            else "search: the file searches nothing; give a parameter a range such as loss.alpha: {uniform: [0.3, 1.0]}"
        )
    trials = section(Trials | None, "compare.trials", raw.get("compare", {}).get("trials"))
    search = _search(raw.get("search", {}), trials, validation)
    searches = {}
    for name, (changes, own) in bases.items():
        start = overlay(plain, changes) | ({"loss": changes["loss"]} if changes else {})
        if "name" in changes.get("model", {}):
            start["model"] = changes["model"]
        for path, dimension in own.items():  # both ends of every range, and every choice, must be what the field takes
            for value in dimension.values:
                _configuration(overlay(start, nested({path: value})))
        config = _configuration(overlay(start, nested({path: own[path].values[0] for path in own})))
        defaults = ranges.defaults(name, own)
        searches[name] = Space(name, config["loss"], config["model"], own, _budget(search, own, len(bases)), defaults)
    return searches


def _compared(entry: Any, field: str) -> Compared:
    """What a loss to compare with changes of the study's configuration, and its ranges: the signature's, or its own."""
    if isinstance(entry, str):
        entry = {"loss": {"name": entry}}
    if isinstance(entry, dict) and "name" in entry:
        entry = {"loss": entry}
    known_fields(field, entry, ("loss", "model"))
    loss = entry.get("loss")
    name = loss.get("name") if isinstance(loss, dict) else loss
    if not isinstance(loss, dict) or not isinstance(name, str) or name not in losses.LOSSES:
        raise Problems(f"{field}: unknown loss {name!r}; {registry.names(losses.LOSSES, str(name))}")
    if not isinstance(entry.get("model", {}), dict):
        raise Problems(f"{field}.model: found {entry['model']!r}; valid: a mapping with {', '.join(models.MODELS)}")
    changes, own = ranges.split(entry)
    if not own:
        own = {
            path: knob
            for path, knob in ranges.knobs(changes["loss"]["name"]).items()
            if path[5:] not in changes["loss"]
        }
    return changes, own


def _search(raw: Any, trials: int | None, validation: Validation) -> Search:
    """The section ``search`` with the scheduler that suits the validation where it names none."""
    search: Search = section(Search, "search", raw)
    if None not in (trials, search.trials) and trials != search.trials:
        raise Problems(f"compare.trials: found {trials}, but search.trials is {search.trials}; budgets must be equal")
    search = dataclasses.replace(search, trials=search.trials or trials)
    several = validation.folds is not None or len(validation.seeds or ()) > 1
    if len(search.objectives) != len(set(search.objectives)):
        raise Problems(f"search.metric: found {list(search.objectives)}; valid: one metric, or two different ones")
    whole = search.sampler == "grid" or len(search.objectives) > 1 or bool(search.constraints)
    if search.scheduler is None:
        pruning: Literal["asha", "racing", "none"] = "none" if whole else "racing" if several else "asha"
        return dataclasses.replace(search, scheduler=pruning)
    if len(search.objectives) > 1 and search.scheduler != "none":
        raise Problems(f"search.scheduler: found {search.scheduler} with two metrics; valid: none")
    if search.constraints and search.scheduler != "none":  # it would stop what keeps them for what does not
        raise Problems(f"search.scheduler: found {search.scheduler} with constraints; valid: none")
    if search.scheduler == "racing" and not several:
        raise Problems("search.scheduler: found racing without folds; valid: asha, none, or data.validation.folds")
    return search


def _budget(search: Search, space: Mapping[str, Dimension], searches: int) -> Search:
    """The search with its number of trials."""
    if search.sampler != "grid":
        return dataclasses.replace(search, trials=search.trials or TRIALS)
    if searches > 1:
        raise Problems("search.sampler: found grid with compare; valid: tpe, random, so that budgets are equal")
    endless = [dotted(path) for path, dimension in space.items() if dimension.points() is None]
    if endless:
        raise Problems(f"search.sampler: found grid, but {endless[0]} is continuous; valid there: choice, int")
    if any(dimension.when for dimension in space.values()):
        raise Problems("search.sampler: found grid with a when; valid: tpe, random, or rows for such a grid")
    size = math.prod(len(dimension.points() or ()) for dimension in space.values())
    if size > MOST_TRIALS:
        raise Problems(f"search.sampler: found grid over {size} points; valid: at most {MOST_TRIALS}")
    if search.trials not in (None, size):
        raise Problems(f"search.trials: found {search.trials}, but the grid has {size} points; leave it out")
    return dataclasses.replace(search, trials=size)


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
        _different("seeds.data", crossed.data)
        _different("seeds.init", crossed.init)
        return tuple((one, other) for one in crossed.data for other in crossed.init)
    seeds = section(tuple[Seed, ...], "seeds", raw)
    _different("seeds", seeds)
    return tuple((seed, seed) for seed in seeds)


def _different(field: str, values: tuple[Any, ...]) -> None:
    if not values or len(set(values)) < len(values):
        raise Problems(f"{field}: found {list(values)}; valid: at least one, none twice")
