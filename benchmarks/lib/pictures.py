"""Folders of made-up images in the form of the `image_folder` data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10


def folder(root: Path, *, count: int, side: int, kind: str = "jpg") -> None:
    """``count`` images of ``side`` pixels in ten class folders; ``kind``: png (noise) or jpg (smooth)."""
    generator = np.random.default_rng(0)
    for label in range(CLASSES):
        (root / f"class{label}").mkdir(parents=True)
    for number in range(count):
        grain = side if kind == "png" else max(2, side // 8)
        pixels = Image.fromarray(generator.integers(0, 256, (grain, grain, 3), dtype=np.uint8))
        image = pixels.resize((side, side), Image.Resampling.BICUBIC)
        image.save(root / f"class{number % CLASSES}" / f"{number}.{kind}", **({"quality": 90} if kind == "jpg" else {}))
