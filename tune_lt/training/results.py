"""What is recorded of a training: the metrics of each epoch, and the files and tags of its end.

A study's driver records this in MLflow, and `tune_lt.training.cells` writes the same to files.
"""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tune_lt.documents import BY_IMAGE, NORMS, PER_CLASS, PerClass

if TYPE_CHECKING:
    from tune_lt.training import EpochResult

FILES = (PER_CLASS, NORMS, BY_IMAGE)
METRICS = ("train/", "val/", "test/")


def content(result: EpochResult) -> dict[str, Any]:
    """An epoch's metrics and some more numbers, by name; after the last epoch also the documents for `files`."""
    found: dict[str, Any] = {"epoch": result.epoch, "seconds": result.seconds, **result.as_metrics()}
    if result.final:
        found["memory"] = peak_memory()
        found["norms"], found["by_image"] = result.norms, result.by_image
        scores = {name: one.per_class for name, one in (("val", result.val), ("test", result.test)) if one}
        found["classes"] = PerClass((), result.class_counts, **scores)
    return found


def metrics(content: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an epoch's `content`."""
    return {name: value for name, value in content.items() if name.startswith(METRICS)}


def tags(content: Mapping[str, Any], seconds: Sequence[float]) -> dict[str, str]:
    """The cost of a training: its number of epochs, the median of their ``seconds``, the peak of memory in bytes.

    ``content``: of its last epoch, empty if it failed before one ended.
    """
    found = {"epochs": str(content.get("epoch", 0))}
    if seconds:
        found["epoch_seconds"] = f"{statistics.median(seconds):.4g}"
    if "memory" in content:
        found["memory"] = str(content["memory"])
    return found


def files(content: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """File name -> JSON: the accuracies by class and, if the test was scored, gradient norms and test images.

    ``content``: of the last epoch; there are no files before that.
    """
    if "classes" not in content:
        return {}
    found = {PER_CLASS: replace(content["classes"], class_names=tuple(class_names)).content()}
    if norms := content["norms"]:
        named = {"largest": class_names[norms.largest], "smallest": class_names[norms.smallest]}
        found[NORMS] = replace(norms, classes=named).content()
    if content["by_image"]:
        found[BY_IMAGE] = content["by_image"].content()
    return found


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
