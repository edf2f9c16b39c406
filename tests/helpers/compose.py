"""docker/compose.yaml as the tests read it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:[-?]([^}]*))?\}")


def interpolated(text: str, given: dict[str, str]) -> str:
    """With the settings that are ``given`` and the file's own defaults for the others."""
    return VARIABLE.sub(lambda match: given.get(match[1]) or match[3] or "", text)
