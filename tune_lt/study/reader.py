"""Reading a study file strictly: every mistake is one line naming file, field, what was found and what is valid."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, MinLen

from tune_lt.config import _STRICT, STUDY_NAME, Seed
from tune_lt.errors import InputError, printable
from tune_lt.plugins import load_plugins, sources
from tune_lt.study import FULL, SMALL, Resources, Search, Space, Study, Validation, ranges, searches, yaml_text
from tune_lt.study.cells import cell, row_config
from tune_lt.study.checks import RANGES, Problems, section
from tune_lt.study.mappings import overlay
from tune_lt.study.rows import Ablation, Row, check_best, designed, written
from tune_lt.study.sections import check_name, configuration
from tune_lt.texts import some

__all__ = ["File", "Problems", "cell", "content", "parse", "read", "row_config"]
MOST_CELLS = 100_000  # of the tables: as many as a search may have trials
MOST_PROBLEMS, LONGEST_PROBLEM = 20, 1000  # lines of a message, characters of one
NAME_BYTES = 200  # of a study: folders are called by its name and a suffix


@dataclass(frozen=True, kw_only=True)
class File:
    """The sections of a study file. Data set, network, loss and recipe may hold ranges and are checked apart."""

    __pydantic_config__ = _STRICT
    name: str
    plugins: tuple[str, ...] = ()
    plugin_files: tuple[str, ...] = ()
    data: Any
    model: Any
    recipe: Any = field(default_factory=dict)
    loss: Any
    search: Search | None = None
    compare: Annotated[dict[Literal["losses"], Annotated[list[Any], MinLen(1)]], MinLen(1)] | None = None
    rows: Any = field(default_factory=dict)
    ablation: Ablation | None = None
    cross: dict[Literal["imbalance"], Annotated[tuple[Annotated[float, Ge(1)], ...], MinLen(1)]] = field(
        default_factory=dict
    )
    seeds: Any = (0, 1, 2)
    resources: Resources = field(default_factory=Resources)
    table: Literal[1, 2, 3] | None = None
    replace: bool = False
    small: dict[
        Literal["data", "model", "recipe", "loss", "search", "compare", "rows", "cross", "seeds", "resources"], Any
    ] = field(default_factory=dict)


def read(path: Path, small: bool = False) -> Study:
    """The study in the YAML file ``path``, or its small form. Raises InputError with one line for each mistake."""
    if path.is_fifo() and path.parts[1:2] not in (("dev",), ("proc",)):  # a shell's <(command) has its end there
        raise InputError(f"{path}: found a pipe, which may never have an end; valid: a file")
    try:
        with open(path, "rb") as file:
            whole = file.read(yaml_text.MOST_BYTES + 1)  # no more, since the path may be a device's
        text = whole.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = whole.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: cannot be read: line {line} is not UTF-8; save it as UTF-8") from None
    if len(whole) > yaml_text.MOST_BYTES:
        raise InputError(f"{path}: larger than {yaml_text.MOST_BYTES:,} bytes; valid: a study file")
    try:
        return parse(text, path.resolve().parent, small)
    except InputError as error:
        lines = [f"{path}: {_one_line(problem)}" for problem in error.args]
        raise InputError(some(lines, MOST_PROBLEMS, separator="\n")) from None


def _one_line(problem: str) -> str:
    """A problem as one printable line, shortened, since it may quote anything from the file."""
    line = printable(problem).replace("\n", "\\n")
    return line if len(line) <= LONGEST_PROBLEM else f"{line[:300]} … {line[-300:]}"


def parse(text: str, folder: Path, small: bool = False) -> Study:
    """The study written in ``text``, or its small form; plugins are looked for in ``folder`` first.

    Raises Problems, and InputError for a plugin that cannot be imported.
    """
    raw = yaml_text.load(text)
    if not isinstance(raw, dict):
        found = "nothing" if raw is None else "a list" if isinstance(raw, list) else "a single value"
        raise Problems(f"found {found}; valid: a mapping with name, data, model, loss")
    section(File, "", raw)
    file: File = section(File, "", content(raw, small))
    name = file.name + ("-small" if small else "")
    if not re.fullmatch(STUDY_NAME, name) or len(name.encode()) > NAME_BYTES:
        valid = f"1 to 100 letters, digits and . _ + -, no dot or dash first, up to {NAME_BYTES} bytes in UTF-8"
        raise Problems(f"name: found {name!r}; valid: {valid}")
    load_plugins(file.plugins, folder)
    check_name("data", file.data, "data.name")
    plain, space = ranges.split({key: getattr(file, key) for key in ("data", "model", "recipe", "loss")})
    validation = _validation(plain["data"].pop("validation", {}))
    if isinstance(root := plain["data"].get("root"), str):
        try:
            plain["data"]["root"] = str(folder / Path(root).expanduser())  # workers may run in another folder
        except RuntimeError:
            raise Problems(f"data.root: found {root!r}; there is no such user's folder") from None
    base = configuration(plain)
    entries = (file.compare or {}).get("losses", [])
    compared = [searches.comparison(entry, f"compare.losses[{index}]") for index, entry in enumerate(entries)]
    spaces = searches.searches(file.search, plain, ranges.ordered(space), validation, compared)
    study = Study(
        name=name,
        text=text,
        **base,
        validation=validation,
        searches=spaces,
        rows=_rows(file, spaces, [changes for changes, _ in compared]),
        columns=_different("cross.imbalance", file.cross.get("imbalance", (base["data"]["imbalance"],))),
        seeds=_seeds(file.seeds),
        resample="resample" in file.seeds,
        resources=file.resources,
        plugins=file.plugins,
        folder=folder,
        plugin_files=file.plugin_files,
        sources=sources(file.plugins, file.plugin_files, folder),
        table=file.table,
        replace=file.replace,
        scale=SMALL if small else FULL,
    )
    _check_draws(study)
    cells = len(study.rows) * len(study.columns) * len(study.seeds)
    if cells > MOST_CELLS:
        raise Problems(f"rows: found {cells:,} cells (rows x factors x seeds); valid: up to {MOST_CELLS:,}")
    _check_resources(study.resources)
    for row in study.rows:
        row_config(study, row, {})  # raises Problems for a row's mistakes now, not after the search
    return study


def content(raw: Mapping[str, Any], small: bool) -> dict[str, Any]:
    """A study file's content without its section ``small``; for the small form, updated with that section.

    Mappings are merged. A range, a ``validation`` and a mapping with another ``name`` take the place of the old one;
    null takes a section away. Raises Problems if the small form is asked for and there is none.
    """
    whole = {key: value for key, value in raw.items() if key != "small"}
    if not small:
        return whole
    if "small" not in raw:
        raise Problems("small: missing; valid: a section with what the small form changes, such as {seeds: [0]}")
    merged = overlay(whole, raw["small"], _replaces)
    return {key: value for key, value in merged.items() if value is not None}


def _replaces(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the small form's mapping takes the place of the file's, instead of being merged with it."""
    ranged = any(kind in one for kind in RANGES for one in (old, new))
    return key == "validation" or ranged or ("name" in new and new["name"] != old.get("name"))


def _validation(raw: Any) -> Validation:
    checked: Validation = section(Validation, "data.validation", raw)
    if checked.holdout is not None and checked.folds is not None:
        raise Problems("data.validation: found holdout and folds; valid: one of the two")
    if checked.seeds is not None:
        _different("data.validation.seeds", checked.seeds)
    return checked if checked.folds else dataclasses.replace(checked, holdout=checked.holdout or 0.2)


def _rows(file: File, searches: Mapping[str, Space], compared: list[dict[str, Any]]) -> dict[str, Row]:
    """The rows of the file, those of its ablation, and one for each search and compared loss that has no row yet.

    ``compared``: what each compared loss changes in the study's configuration.
    """
    rows = written(file.rows)
    for name, row in (designed(file.ablation) if file.ablation else {}).items():
        if name in rows:
            raise Problems(f"ablation.factors: found a row {name!r} that is in rows, too; valid: different names")
        rows[name] = row
    own, losses = file.loss["name"], {changes["loss"]["name"]: changes for changes in compared}
    check_best(rows, own, searches)
    used = [row.get("loss", {}).get("best") for row in rows.values()]
    for name in dict.fromkeys([*losses, *searches]) if file.compare is not None else ():
        best = True if name == own else name
        if name in searches and best in used:
            continue  # a row has it already
        label, row = (f"{name} (searched)", {"loss": {"best": best}}) if name in searches else (name, losses[name])
        if label in rows:
            raise Problems(f"rows.{label}: found a name that compare gives to a row of its own; valid: another name")
        rows[label] = row
    return rows


def _seeds(raw: Any) -> tuple[tuple[int, int], ...]:
    """Pairs of data seed (which images) and init seed (network, order, augmentation).

    They are (s, s) for each s of a list, or of a mapping's ``resample``, and all combinations of a mapping's ``data``
    and ``init``, by default (0,).
    """
    if not isinstance(raw, dict):
        seeds: tuple[int, ...] = section(tuple[Seed, ...], "seeds", raw)
        return tuple((seed, seed) for seed in _different("seeds", seeds))
    given = section(dict[Literal["data", "init", "resample"], tuple[Seed, ...]], "seeds", raw)
    if "resample" in given:
        if len(given) > 1:
            raise Problems(f"seeds: found {', '.join(given)}; valid: resample alone, or data and init")
        return tuple((seed, seed) for seed in _different("seeds.resample", given["resample"]))
    data, init = (_different(f"seeds.{kind}", given.get(kind, (0,))) for kind in ("data", "init"))
    if len(data) * len(init) > MOST_CELLS:
        raise Problems(f"seeds: found {len(data)} times {len(init)}; valid: up to {MOST_CELLS:,}")
    return tuple(itertools.product(data, init))


def _check_resources(resources: Resources) -> None:
    gpus, storage = resources.gpus or 0, resources.storage
    if gpus % 1 and (gpus > 1 or resources.workers > 1):
        raise Problems(
            f"resources.gpus: found {gpus:g}; valid: a whole number, or a part of one GPU for a trial of one worker"
        )
    if storage is not None and not Path(storage).is_absolute():
        raise Problems(f"resources.storage: found {storage!r}; valid: an absolute path, the same on every host")


def _check_draws(study: Study) -> None:
    """Raise Problems where data seeds would draw sub-samples and resample them too."""
    if study.resample and (study.columns != (None,) or study.data["largest"] is not None):
        factors = ", ".join(map(str, study.columns))
        raise Problems(
            f"seeds.resample: found with imbalance {factors} and largest {study.data['largest']}; valid: a list of "
            "seeds, or neither of them, so that all images are taken"
        )


def _different(field: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values or len(set(values)) < len(values):
        raise Problems(f"{field}: found {list(values)}; valid: at least one, none twice")
    return values
