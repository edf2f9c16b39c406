"""Image files to small square RGB arrays; whatever is wrong with a file is a reason in words, not a crash."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no format that runs other programs, such as EPS


class Unreadable(Exception):
    """One file cannot be used; the message is the reason, without the path."""


def decode(paths: Sequence[Path], size: int) -> tuple[np.ndarray, dict[int, str]]:
    """Images uint8 (n, 3, size, size) of n files, and the reason for each position that could not be read.

    Decoding releases the interpreter's lock, so threads share the work.
    """
    images = np.zeros((len(paths), 3, size, size), dtype=np.uint8)

    def fill(position: int) -> str | None:
        try:
            images[position] = read(paths[position], size)
        except Unreadable as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        reasons = list(pool.map(fill, range(len(paths))))
    return images, {position: reason for position, reason in enumerate(reasons) if reason is not None}


def read(path: Path, size: int) -> np.ndarray:
    """One file as uint8 (3, size, size): upright, RGB, shorter side scaled to ``size``, centre cut out.

    Raises Unreadable with the reason.
    """
    if path.suffix.lower() not in EXTENSIONS:
        raise Unreadable(f"not an image file by its name (valid: {' '.join(EXTENSIONS)})")
    try:
        status = path.stat()
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
        raise Unreadable("not a regular file")
    if status.st_size == 0:
        raise Unreadable("empty file (0 bytes)")
    try:
        return _decoded(path, size)
    except (Unreadable, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise Unreadable("its content is no image of a known format") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise Unreadable(f"damaged: {error or type(error).__name__}") from error


def _decoded(path: Path, size: int) -> np.ndarray:
    with Image.open(path, formats=_FORMATS) as image:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and image.width * image.height > limit:
            raise Unreadable(f"{image.width} x {image.height} pixels, more than the {limit} that Pillow takes for safe")
        image.draft(None, (2 * size, 2 * size))  # large JPEGs: decode at a fraction of the size, much faster
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(_square(_rgb(image), size)).transpose(2, 0, 1)


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB; transparent pixels are laid on white, as a browser shows them."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey images of 16 bits (integers) or in [0, 1] (floating point) to 8 bits; Pillow itself would clip them."""
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):  # also true of NaN
            raise Unreadable("floating-point pixels outside [0, 1]")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if values.min() < 0 or values.max() > 65535:
        raise Unreadable("integer pixels outside 0 … 65535")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _square(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to ``size``, centre cut out; in one step, so that a long thin image stays small in memory."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
