"""The footnote that says which code, devices and libraries the runs of a table come from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from tune_lt.store import CellRecord


def provenance(records: Sequence[CellRecord]) -> str:
    """One sentence on where the runs come from; it says so if they differ in commit, versions or device."""
    parts = []
    for tag, label in (("git", "code"), ("device", "device")):
        values = different(records, tag)
        shown = ", ".join(re.sub(r"^([0-9a-f]{12})[0-9a-f]+", r"\1", value) for value in values)
        parts.append(f"{label} {shown}" if len(values) == 1 else f"MIXED {label}: {shown}")
    versions = different(records, "versions", "{}")
    names = ", ".join(f"{name} {json.loads(versions[0]).get(name, '?')}" for name in ("torch", "ray", "optuna"))
    parts.append(names if len(versions) == 1 else f"MIXED versions, {names} among them")
    sentence = "Runs: " + "; ".join(parts) + "."
    elsewhere = [record for record in records if "elsewhere" in record.tags]
    if elsewhere:
        count = "" if len(elsewhere) == len(records) else f" ({len(elsewhere)} of {len(records)})"
        sentence += f" Trained elsewhere{count}: {'; '.join(different(elsewhere, 'elsewhere'))}."
    return sentence


def different(records: Iterable[CellRecord], tag: str, unknown: str = "unknown") -> list[str]:
    """The different values of a tag."""
    return sorted({record.tags.get(tag, unknown) for record in records})
