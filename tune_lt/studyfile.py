"""Reading a study file strictly: every mistake is one line naming file, field, what was found and what is valid."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge
from pydantic import TypeAdapter, ValidationError

from tune_lt import data, losses, models, registry
from tune_lt.config import CellConfig, Recipe, Seed
from tune_lt.errors import InputError
from tune_lt.study import Dimension, Resources, Search, Study, Validation, nested, overlay

SECTIONS = ("name", "plugins", "data", "model", "recipe", "loss", "search", "rows", "seeds", "resources")
NAME = r"[\w+-][\w.+-]{0,99}"
KINDS = ("uniform", "loguniform", "int", "choice")
SEARCHABLE = re.compile(r"loss/(?!name$).+|recipe/optimizer/(lr|weight_decay)")
LONG_TAIL: dict[str, tuple[Any, Any]] = {
    "imbalance": (Annotated[float, Ge(1)] | None, None),
    "profile": (Literal[tuple(data.PROFILES)], "exponential"),
}
Parameters = Mapping[str, tuple[Any, Any]]


class Problems(Exception):
    """Mistakes in a study file, each "field: what is wrong"; `read` turns them into one InputError."""


def read(path: Path) -> Study:
    """The study in the YAML file ``path``; raises InputError listing every mistake found, one a line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    try:
        return parse(text, path.resolve().parent)
    except Problems as problems:
        raise InputError("\n".join(f"{path}: {problem}" for problem in problems.args)) from None


def parse(text: str, folder: Path) -> Study:
    """The study written in ``text``; plugins are looked for in ``folder`` first. Raises Problems."""
    raw = _load_yaml(text)
    _known_fields("", raw, SECTIONS)
    for section in ("name", "data", "model", "loss"):
        if section not in raw:
            raise Problems(f"{section}: missing")
    plugins = _section(tuple[str, ...], "plugins", raw.get("plugins", []))
    sources = load_plugins(plugins, folder)
    plain, space = _split_dimensions({key: raw[key] for key in ("data", "model", "recipe", "loss") if key in raw})
    if isinstance(plain["data"], dict) and isinstance(root := plain["data"].get("root"), str):
        plain["data"]["root"] = str(folder / Path(root).expanduser())  # workers may run in another folder
    validation = plain["data"].pop("validation", {}) if isinstance(plain["data"], dict) else {}
    base = _configuration(plain)
    _check_space(plain, space)
    search = _section(Search, "search", raw["search"]) if "search" in raw else None
    if bool(search) != bool(space):
        raise Problems(
            "search: the file searches nothing; give a parameter a range such as loss.alpha: {uniform: [0.3, 1.0]}"
            if search
            else f"search: missing, but {', '.join(_dotted(path) for path in space)} has a range to search"
        )
    study = Study(
        name=_section(str, "name", raw["name"]),
        text=text,
        **base,
        validation=_section(Validation, "data.validation", validation),
        space=space,
        search=search,
        rows=_rows(raw.get("rows", {}), searching=search is not None),
        seeds=_section(tuple[Seed, ...], "seeds", raw.get("seeds", [0, 1, 2])),
        resources=_section(Resources, "resources", raw.get("resources", {})),
        plugins=plugins,
        folder=folder,
        sources=sources,
    )
    if not re.fullmatch(NAME, study.name):
        raise Problems(f"name: found {study.name!r}; valid: 1 to 100 letters, digits and . _ + -, no dot first")
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise Problems(f"seeds: found {list(study.seeds)}; valid: at least one, none twice")
    for name in study.rows:
        row_config(study, name, {})  # a row's mistakes come out now, not after the search
    return study


def row_config(study: Study, row: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """A row's resolved configuration ``{data, model, loss, recipe}``; ``found`` is flat, ``{"loss/alpha": 0.8}``.

    ``loss: {best: true, ...}`` is the study's loss with what the search found, the row's own values laid over it;
    ``loss: {name: ...}`` is another loss at its defaults. ``model`` and ``recipe`` are laid over the study's.
    """
    changes = {key: dict(value) for key, value in study.rows[row].items()}
    config = overlay(study.base(), nested(found))
    loss = changes.pop("loss", {"best": True})
    best = loss.pop("best", False)
    config["loss"] = overlay(config["loss"], loss) if best else loss
    if "name" in changes.get("model", {}):
        config["model"] = {}  # another network does not inherit this one's parameters
    return _configuration(overlay(config, changes), f"rows.{row}.")


def cell(config: Mapping[str, Any], *, data_seed: int, init_seed: int, holdout: float | None = None) -> CellConfig:
    """The cell of a resolved configuration: trained on the full training split, or on all but ``holdout`` of it."""
    fold: Literal["full", "holdout"] = "full" if holdout is None else "holdout"
    return CellConfig(**config, data_seed=data_seed, init_seed=init_seed, fold=fold, holdout=holdout)


def from_dict(config: Mapping[str, Any]) -> CellConfig:
    """The cell that ``dataclasses.asdict`` made a dictionary of."""
    recipe = _section(Recipe, "recipe", config["recipe"])
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


def _split_dimensions(raw: Any, path: str = "") -> tuple[Any, dict[str, Dimension]]:
    """``raw`` with every range replaced by its first value, and the ranges by path."""
    if not isinstance(raw, dict):
        return raw, {}
    if len(raw) == 1 and (kind := next(iter(raw))) in KINDS:
        dimension = _dimension(path, kind, raw[kind])
        return dimension.values[0], {path: dimension}
    plain, space = {}, {}
    for key, value in raw.items():
        plain[key], found = _split_dimensions(value, f"{path}/{key}" if path else key)
        space.update(found)
    return plain, space


def _dimension(path: str, kind: Any, values: Any) -> Dimension:
    field = _dotted(path)
    if not SEARCHABLE.fullmatch(path):
        raise Problems(
            f"{field}: cannot be searched; searchable: the loss's parameters, "
            "recipe.optimizer.lr, recipe.optimizer.weight_decay"
        )
    if not isinstance(values, list) or not values or (kind != "choice" and len(values) != 2):
        raise Problems(
            f"{field}: found {kind}: {values!r}; valid: {kind}: {'[value, ...]' if kind == 'choice' else '[low, high]'}"
        )
    if kind == "choice":
        if any(isinstance(value, dict | list) for value in values) or len(set(map(repr, values))) < len(values):
            raise Problems(f"{field}: found choice: {values!r}; valid: different plain values")
        return Dimension("choice", tuple(values))
    wanted = int if kind == "int" else (int, float)
    if any(isinstance(value, bool) or not isinstance(value, wanted) for value in values) or values[0] >= values[1]:
        raise Problems(
            f"{field}: found {kind}: {values!r}; valid: two {'whole ' if kind == 'int' else ''}numbers, low < high"
        )
    if kind == "loguniform" and values[0] <= 0:
        raise Problems(f"{field}: found loguniform: {values!r}; valid: a low end above 0")
    return Dimension(kind, tuple(values) if kind == "int" else tuple(map(float, values)))


def _check_space(plain: Mapping[str, Any], space: Mapping[str, Dimension]) -> None:
    """Both ends of every range, and every choice, must be values the field takes."""
    for path, dimension in space.items():
        for value in dimension.values:
            _configuration(overlay(plain, nested({path: value})))


def _configuration(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Data, model, loss and recipe checked against their signatures, every default filled in."""
    recipe = plain.get("recipe", {})
    return {
        "data": _component("data", plain["data"], prefix),
        "model": _component("model", plain["model"], prefix),
        "loss": _component("loss", plain["loss"], prefix),
        "recipe": _check_recipe(_section(Recipe, f"{prefix}recipe", recipe), f"{prefix}recipe"),
    }


def _component(kind: str, raw: Any, prefix: str) -> dict[str, Any]:
    field = f"{prefix}{kind}"
    if not isinstance(raw, dict) or "name" not in raw:
        raise Problems(f"{field}.name: missing; {registry.names(REGISTRIES[kind])}")
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
    _known_fields(field, raw, known)
    values = {}
    for name, (annotation, default) in known.items():
        if name in raw:
            values[name] = _section(annotation, f"{field}.{name}", raw[name])
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


def _rows(raw: Any, *, searching: bool) -> dict[str, dict[str, Any]]:
    rows = _section(dict[str, dict[str, dict[str, Any]]], "rows", raw)
    for name, row in rows.items():
        if not name.strip() or not name.isprintable() or len(name) > 100:
            raise Problems(f"rows: found a row called {name!r}; valid: up to 100 printable characters")
        _known_fields(f"rows.{name}", row, ("loss", "model", "recipe"))
        if "loss" not in row:
            continue  # the study's own, with what was found
        loss = row["loss"]
        if loss.get("best", False) is not True and "name" not in loss:
            raise Problems(f"rows.{name}.loss: needs best: true or a name; {registry.names(losses.LOSSES)}")
        if loss.get("best") is True and "name" in loss:
            raise Problems(f"rows.{name}.loss: found best: true and a name; valid: one of the two")
        if loss.get("best") is True and not searching:
            raise Problems(f"rows.{name}.loss.best: the study has no search to take the best of")
    return rows


def _known_fields(field: str, raw: Any, known: Any) -> None:
    where = f"{field}." if field else ""
    if not isinstance(raw, dict):
        raise Problems(f"{field}: found {raw!r}; valid: a mapping with {', '.join(known) or 'nothing'}")
    unknown = [f"{where}{key}: unknown; {registry.names(known, key)}" for key in raw if key not in known]
    if unknown:
        raise Problems(*unknown)


def _section(annotation: Any, field: str, raw: Any) -> Any:
    """``raw`` checked against a type or dataclass with its bounds, without any conversion (1.0 for 1 apart)."""
    if dataclasses.is_dataclass(annotation) and dataclasses.is_dataclass(raw):
        return raw
    try:
        return TypeAdapter(annotation).validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        raise Problems(*(_describe(field, annotation, item) for item in error.errors(include_url=False))) from None


def _describe(field: str, annotation: Any, item: Any) -> str:
    inner = [
        str(part)
        for part in item["loc"]
        if not (isinstance(part, str) and re.search(r"[\[\]]|^(int|float|str|none|bool)$", part))
    ]
    where = ".".join([field, *inner])
    if item["type"] == "unexpected_keyword_argument":
        target = annotation
        for part in inner[:-1]:
            target = next(f.default_factory for f in dataclasses.fields(target) if f.name == part)
        return f"{where}: unknown; {registry.names([f.name for f in dataclasses.fields(target)], inner[-1])}"
    hint = f", or a range: one of {', '.join(KINDS)}" if isinstance(item["input"], dict) else ""
    return f"{where}: found {json.dumps(item['input'])}; {item['msg'][0].lower()}{item['msg'][1:]}{hint}"


def _dotted(path: str) -> str:
    return path.replace("/", ".")
