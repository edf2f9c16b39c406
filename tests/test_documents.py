"""The documents of a study: each is read back as it was written, also by an older version; a damaged one is named."""

from __future__ import annotations

import json
import shutil
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest

from tune_lt.documents import (
    BY_IMAGE,
    CONTENTS,
    NORMS,
    PER_CLASS,
    ByImage,
    Contents,
    Norms,
    PerClass,
    Recommended,
    SearchResult,
    TableCell,
    Trial,
    search_file,
)
from tune_lt.errors import InputError
from tune_lt.store import Store

FOUND = {"loss/alpha": 0.7, "loss/aura": True}
BEST = Trial(FOUND, "complete", {"val/top1": 0.8}, {"val/top1": [0.75, 0.85]}, 8)
PLAIN = Trial({"loss/alpha": 1.0}, "complete", {"val/top1": 0.79}, {"val/top1": [0.79, 0.79]}, 8)
STOPPED = Trial({"loss/alpha": 0.1}, "pruned", {"val/top1": 0.2}, {"val/top1": [0.2]}, 3)
LIMITS = ({"val/many": 0.01}, {"val/many": 0.9})
SEARCH = partial(SearchResult.of, "own")
CELLS = {"softmax": (TableCell("a1", 100.0, 0, 0), TableCell("a2", None, 1, 1)), "own": (TableCell("b1", 100.0, 0, 0),)}
LOSSES = {"softmax": "softmax", "own": "ghm_cwap"}
TAIL = {"largest": None, "imbalance": 100.0, "profile": "exponential", "sealed": None}
DOCUMENTS = [
    (
        SearchResult(
            "own", "5ea1", 3, ("val/top1",), *LIMITS, (PLAIN, STOPPED, BEST), BEST, PLAIN, (BEST,), ("seed 0, 1/2",)
        ),
        SEARCH,
    ),
    (SearchResult("own", "5ea1", 3, ("val/top1",), {}, {}, (BEST,), BEST), SEARCH),
    (
        Contents(
            {"own": FOUND}, {"own": search_file("own")}, TAIL, "resnet8", "ghm_cwap",
            Recommended("own", "own", "b1"), (100.0, None), CELLS, LOSSES,
        ),
        Contents.of,
    ),
    (Contents({}, {}, TAIL, "resnet8", "softmax", None, (None,), {}, {}), Contents.of),
    (PerClass(("cat", "lynx"), (100, 3), val=(0.9, 0.3)), PerClass.of),
    (PerClass(("cat", "lynx"), (100, 3), test=(0.9, 0.3)), PerClass.of),
    (Norms(2, {"all": [3, 1]}, 0, 4, None, classes={"largest": "cat", "smallest": "lynx"}), Norms.of),
    (Norms(2, {"all": [3, 1]}, 0, 4, {"largest": [0.0, 1.0]}, {"own": [0.1, None], "equal": [0.2, None]}), Norms.of),
    (ByImage([0, 1], [1, 0], [0.75, 0.2]), ByImage.of),
]  # fmt: skip


@pytest.mark.parametrize(("document", "of"), DOCUMENTS, ids=lambda value: type(value).__name__)
def test_a_document_is_read_back_as_it_was_written(document: Any, of: Any) -> None:
    assert of(json.loads(json.dumps(document.content()))) == document


def test_a_value_that_is_not_a_number_is_read_back_as_nan() -> None:
    """A fold without images of a class: JSON for other programs has no NaN among the units of a trial."""
    trial = Trial({}, "complete", units={"val/rare": [0.5, nan]})
    text = json.dumps(trial.content(), allow_nan=False)
    first, second = Trial.of(json.loads(text)).units["val/rare"]
    assert first == 0.5
    assert isnan(second)
    (value,) = PerClass.of(json.loads(json.dumps(PerClass(("cat",), (3,), val=(nan,)).content()))).val or ()
    assert isnan(value)


def _old_trial(found: dict[str, Any], value: float, units: list[float]) -> dict[str, Any]:
    values = {"found": found, "values": {"val/top1": value}, "standard_error": 0.05}
    return {**values, "units": {"val/top1": units}, "epochs": 8}


OLD_SEARCH = {
    **_old_trial(FOUND, 0.8, [0.75, 0.85]),
    "signature": "5ea1",
    "trials": 3,
    "objectives": ["val/top1"],
    "mode": "max",
    "constraints": {"val/many": 0.01},
    "reference": {"val/many": 0.9},
    "order": ["seed 0, 1/2"],
    "epochs": 19,
    "one_standard_error": _old_trial({"loss/alpha": 1.0}, 0.79, [0.79, 0.79]),
    "front": [_old_trial(FOUND, 0.8, [0.75, 0.85])],
    "points": [
        {**_old_trial({"loss/alpha": 1.0}, 0.79, [0.79, 0.79]), "outcome": "complete"},
        {**_old_trial({"loss/alpha": 0.1}, 0.2, [0.2]), "epochs": 3, "outcome": "pruned"},
        {**_old_trial(FOUND, 0.8, [0.75, 0.85]), "outcome": "complete"},
    ],
}
OLD_CONTENTS = {
    "found": {"own": FOUND},
    "searches": {"own": "search.own.json"},
    "data": TAIL,
    "model": "resnet8",
    "searched": "ghm_cwap",
    "recommended": {"search": "own", "row": "own", "fingerprint": "b1"},
    "columns": [100.0, None],
    "rows": {
        "softmax": [
            {"fingerprint": "a1", "imbalance": 100.0, "data_seed": 0, "init_seed": 0},
            {"fingerprint": "a2", "imbalance": None, "data_seed": 1, "init_seed": 1},
        ],
        "own": [{"fingerprint": "b1", "imbalance": 100.0, "data_seed": 0, "init_seed": 0}],
    },
    "losses": LOSSES,
}
OLD_PER_CLASS = {"class_names": ["cat", "lynx"], "class_counts": [100, 3], "val": [0.9, 0.3]}
OLD_NORMS = {
    "bins": 2, "counts": {"all": [3, 1]}, "largest": 0, "smallest": 4, "edges": None,
    "classes": {"largest": "cat", "smallest": "lynx"},
}  # fmt: skip
OLD_BY_IMAGE = {"label": [0, 1], "right": [1, 0], "p": [0.75, 0.2]}


@pytest.mark.parametrize(
    ("old", "new"),
    [(OLD_SEARCH, 0), (OLD_CONTENTS, 2), (OLD_PER_CLASS, 4), (OLD_NORMS, 6), (OLD_BY_IMAGE, 8)],
    ids=["search", "contents", "per class", "norms", "by image"],
)
def test_a_document_of_an_older_version_is_read(old: dict[str, Any], new: int) -> None:
    """As the drivers wrote them before documents had types: a search's mode was recorded, norms without precision."""
    document, of = DOCUMENTS[new]
    assert of(json.loads(json.dumps(old))) == document


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Store:
    return Store(f"sqlite:///{shutil.copy(empty_store, tmp_path_factory.mktemp('documents') / 'mlflow.db')}")


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "of", "content"),
    [
        (search_file("own"), SEARCH, OLD_SEARCH | {"points": [{"found": {}}]}),
        (search_file("own"), SEARCH, OLD_SEARCH | {"found": {"loss/alpha": 0.1}}),  # that trial was stopped
        (search_file("own"), SEARCH, [1, 2]),
        (CONTENTS, Contents.of, {"rows": {}}),
        (CONTENTS, Contents.of, OLD_CONTENTS | {"rows": {"own": [{"fingerprint": "b1"}]}}),
        (PER_CLASS, PerClass.of, [1, 2]),
        (PER_CLASS, PerClass.of, {"class_names": ["cat"]}),
        (NORMS, Norms.of, {"bins": 2}),
        (BY_IMAGE, ByImage.of, {"label": [1]}),
        (BY_IMAGE, ByImage.of, "text"),
    ],
)
def test_a_damaged_document_is_named_with_its_run(store: Store, name: str, of: Any, content: object) -> None:
    run = store.ensure_parent("s")
    store.log_json(run, name, content)
    with pytest.raises(InputError) as caught:
        store.read(run, name, of)
    assert f"{name} of run {run}" in str(caught.value)
