"""What is kept of a training: the numbers of each epoch, and the files and tags of its end.

A study's driver records this in the store, and `tune_lt.training.cells` writes the same to files.
"""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_lt.training import EpochResult

FILES = ("per_class.json", "norms.json", "by_image.json")
METRICS = ("train/", "val/", "test/")


def content(result: EpochResult) -> dict[str, Any]:
    """An epoch's numbers under the names they are recorded by; after the last epoch also what `files` is made of."""
    found: dict[str, Any] = {"epoch": result.epoch, "seconds": result.seconds, **result.as_metrics()}
    if result.final:
        found["memory"] = peak_memory()
        found["norms"], found["by_image"] = result.norms, result.by_image
        found["classes"] = {
            "class_counts": list(result.class_counts),
            **{name: list(scores.per_class) for name, scores in (("val", result.val), ("test", result.test)) if scores},
        }
    return found


def metrics(content: Mapping[str, Any]) -> dict[str, float]:
    """The metrics among an epoch's numbers."""
    return {name: value for name, value in content.items() if name.startswith(METRICS)}


def tags(content: Mapping[str, Any], seconds: Sequence[float]) -> dict[str, str]:
    """What a training took: its last epoch, the median of the ``seconds`` of an epoch, the most memory in bytes."""
    found = {"epochs": str(content.get("epoch", 0))}
    if seconds:
        found["epoch_seconds"] = f"{statistics.median(seconds):.4g}"
    if "memory" in content:
        found["memory"] = str(content["memory"])
    return found


def files(content: Mapping[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """JSON content by file: the accuracy of each class and, where there are any, gradient norms and test images."""
    if "classes" not in content:
        return {}
    found: dict[str, Any] = {"per_class.json": {"class_names": list(class_names), **content["classes"]}}
    if norms := content["norms"]:
        named = {name: class_names[norms[name]] for name in ("largest", "smallest")}
        found["norms.json"] = {**norms, "classes": named}
    if content["by_image"]:
        found["by_image.json"] = content["by_image"]
    return found


def peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
