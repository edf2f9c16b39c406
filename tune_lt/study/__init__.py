"""A study: what the user writes in a file, checked and immutable. `tune_lt.study.reader` reads the file."""

from tune_lt.study.mappings import flattened, nested, overlay
from tune_lt.study.study import (
    FULL,
    MOST_TRIALS,
    SMALL,
    Dimension,
    Resources,
    Search,
    Space,
    Study,
    Validation,
    command_line,
    grid,
    smaller,
)

__all__ = [
    "FULL",
    "MOST_TRIALS",
    "SMALL",
    "Dimension",
    "Resources",
    "Search",
    "Space",
    "Study",
    "Validation",
    "command_line",
    "flattened",
    "grid",
    "nested",
    "overlay",
    "smaller",
]
