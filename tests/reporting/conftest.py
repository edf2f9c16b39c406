from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan
from typing import Any

import pandas as pd
import pytest


def line(row: str, seed: int, accuracies: Sequence[float], **changes: Any) -> dict[str, Any]:
    """One finished run; ``accuracies``: many, medium, few, rare, top1 as fractions."""
    many, medium, few, rare, top1 = accuracies
    return {
        "row": row,
        "loss": "ghm_cwap",
        "data_seed": seed,
        "init_seed": seed,
        "run_id": f"{row}-{seed}",
        "test/top1": top1,
        "test/many": many,
        "test/medium": medium,
        "test/few": few,
        "test/rare": rare,
        "class_counts": [4, 100, 20],
        "per_class": [few, many, medium],
        "class_names": ["lynx", "cat", "dog"],
    } | changes


@pytest.fixture
def make_line() -> Callable[..., dict[str, Any]]:
    return line


@pytest.fixture
def frame() -> pd.DataFrame:
    """Three runs of `margin+weight_ura` and of `softmax`, one of `margin`; nobody has Rare classes."""
    runs = {
        "margin+weight_ura": [0.7, 0.8, 0.9],
        "softmax": [0.5, 0.6, 0.7],
        "margin": [0.99],
    }
    return pd.DataFrame(
        [
            line(row, seed, (0.9, top1, top1 / 2, nan, top1))
            for row, values in runs.items()
            for seed, top1 in enumerate(values)
        ]
    )
