"""Hashes that stand for a data set's, where a test needs no images."""

from __future__ import annotations

from tune_lt.config import ImageHashes

IMAGES, OTHERS = (ImageHashes(text, text) for text in ("images", "other images"))
