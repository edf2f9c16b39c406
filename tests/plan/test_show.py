"""What `plan` shows of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tune_lt.plan import show
from tune_lt.study import reader


@pytest.mark.parametrize("seeds", [[3, 1], {"data": [0, 1], "init": [0, 2]}, {"resample": [0, 4]}])
def test_seeds_are_shown_as_the_file_says_them(tmp_path: Path, tiny_text: str, seeds: Any) -> None:
    content = yaml.safe_load(tiny_text) | {"seeds": seeds}
    content["data"] |= {"imbalance": None}
    assert show._seeds(reader.parse(yaml.safe_dump(content), tmp_path)) == seeds
