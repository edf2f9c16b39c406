"""Image files to small square RGB arrays; whatever is wrong with a file is a reason in words, not a crash."""

from __future__ import annotations

import math
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no format that runs other programs, such as EPS
_LARGE = 25_000_000  # pixels: a camera's photograph is not
_TURN = threading.Lock()
_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 exchange rows and columns
Box = tuple[float, float, float, float]


class Unreadable(Exception):
    """One file cannot be used; the message is the reason, without the path."""


def decode(paths: Sequence[Path], size: int) -> tuple[np.ndarray, dict[int, str]]:
    """Images uint8 (n, 3, size, size) of n files, and the reason for each position that could not be read.

    Decoding releases the interpreter's lock, so threads share the work.
    """
    images = np.zeros((len(paths), 3, size, size), dtype=np.uint8)

    def fill(position: int) -> None:
        images[position] = read(paths[position], size)

    return images, _reasons(fill, len(paths))


def check_headers(paths: Sequence[Path]) -> dict[int, str]:
    """The reason for each position whose file is no image by its first bytes; damaged pixels are not noticed."""

    def check(position: int) -> None:
        with opened(paths[position]):
            pass

    return _reasons(check, len(paths))


def _reasons(task: Callable[[int], None], count: int) -> dict[int, str]:
    """Carry out ``task`` for 0 … count − 1 in threads; position -> why it was Unreadable."""

    def attempt(position: int) -> str | None:
        try:
            task(position)
        except Unreadable as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        reasons = list(pool.map(attempt, range(count)))
    return {position: reason for position, reason in enumerate(reasons) if reason is not None}


def read(path: Path, size: int) -> np.ndarray:
    """One file as uint8 (3, size, size): upright, RGB, shorter side scaled to ``size``, centre cut out.

    Raises Unreadable with the reason.
    """
    with opened(path) as image:
        image.draft(None, (2 * size, 2 * size))  # large JPEGs: decode at a fraction of the size, much faster
        with _in_turn(image):
            return np.asarray(_square(_upright(image), size)).transpose(2, 0, 1)


def cut(path: Path, size: int, choose: Callable[[int, int], Box]) -> np.ndarray:
    """A part of one file as uint8 (size, size, 3): upright, RGB, the part scaled to ``size`` without keeping its shape.

    ``choose`` gives, of the width and height of the upright image, the part (left, top, right, bottom) in its pixels.
    Raises Unreadable with the reason.
    """
    with opened(path) as image:
        if image.format != "JPEG":
            whole = _upright(image)
            return np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=choose(*whole.size)))
        turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        width, height = reversed(image.size) if turned else image.size
        left, top, right, bottom = choose(width, height)
        enough = 2 * size / min(right - left, bottom - top)
        if enough < 1:  # decode a large one at a fraction of the size, as `read` does
            image.draft(None, (math.ceil(image.width * enough), math.ceil(image.height * enough)))
        whole = _upright(image)
        across, down = whole.width / width, whole.height / height
        box = (left * across, top * down, right * across, bottom * down)
        return np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=box))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A file as Pillow opens it: its header read, its pixels not yet. Whatever fails in the block is Unreadable too."""
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
        with Image.open(path, formats=_FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                size = f"{image.width} x {image.height}"
                raise Unreadable(f"{size} pixels, more than the {limit} that Pillow takes for safe")
            yield image
    except (Unreadable, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise Unreadable("its content is no image of a known format") from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged files
        raise Unreadable(f"damaged: {error or type(error).__name__}") from error


def _in_turn(image: Image.Image) -> AbstractContextManager[Any]:
    """While its pixels are in memory: the threads take turns at large images, of which each may need over a GB."""
    return _TURN if image.width * image.height > _LARGE else nullcontext()


def _upright(image: Image.Image) -> Image.Image:
    """The pixels, as the camera was held, in RGB."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return _rgb(image)


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


def middle(width: int, height: int, *, size: int, resize: int) -> Box:
    """The centre, ``size`` pixels wide once the shorter side of an image is scaled to ``resize``, in its own pixels.

    In one step, so that a long thin image stays small in memory.
    """
    side = min(width, height) * size / resize
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _square(image: Image.Image, size: int) -> Image.Image:
    """Shorter side to ``size``, centre cut out."""
    box = middle(*image.size, size=size, resize=size)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)
