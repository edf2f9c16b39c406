"""Image files to small square RGB arrays; a file that cannot be used gives a reason in words, not a crash."""

from __future__ import annotations

import math
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no format that runs other programs, such as EPS
_LARGE = 25_000_000  # pixels: more than most cameras' photographs have
_ONE_LARGE = threading.Lock()
_ORIENTATION = 0x0112  # the EXIF tag; its values 5 to 8 exchange rows and columns
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


class Unreadable(Exception):
    """An image file cannot be used; the message has the reason, but not the path."""


def decode(paths: Sequence[Path], size: int) -> tuple[np.ndarray, dict[int, str]]:
    """`read` n files in threads: images uint8 (n, 3, size, size), and position -> reason for files that are unreadable.

    Pillow releases the interpreter's lock while it decodes.
    """
    images = np.zeros((len(paths), 3, size, size), dtype=np.uint8)

    def fill(position: int) -> None:
        images[position] = read(paths[position], size)

    return images, _reasons(fill, len(paths))


def _check_header(path: Path) -> None:
    """Raise Unreadable for a file whose header is not that of an image; damaged pixels are not noticed."""
    with opened(path):
        pass


def _check_pixels(path: Path) -> None:
    """Raise Unreadable for a file that `read` or `cut` cannot decode."""
    read(path, 8)


CHECKS: dict[str, Callable[[Path], None]] = {"header": _check_header, "pixels": _check_pixels}


def _reasons(task: Callable[[int], None], count: int) -> dict[int, str]:
    """Call ``task`` with 0 … count − 1 in threads; position -> reason for those that raised Unreadable."""

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

    Raises Unreadable.
    """
    with opened(path) as image:
        image.draft(None, (2 * size, 2 * size))  # decodes large JPEGs at a fraction of their size: much faster
        with _ONE_LARGE if image.width * image.height > _LARGE else nullcontext():  # one may take over a GB
            whole = _upright(image)
            box = middle(*whole.size, size=size, resize=size)
            return np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=box)).transpose(2, 0, 1)


def cut(path: Path, size: int, choose: Callable[[int, int], Box]) -> np.ndarray:
    """A part of one file as uint8 (size, size, 3): upright, RGB, both sides of the part scaled to ``size``.

    ``choose`` gets the width and height of the upright image and returns the part. Raises Unreadable.
    """
    with opened(path) as image:
        if image.format != "JPEG":
            whole = _upright(image)
            return np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=choose(*whole.size)))
        turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
        width, height = reversed(image.size) if turned else image.size
        left, top, right, bottom = choose(width, height)
        enough = 2 * size / min(right - left, bottom - top)
        if enough < 1:  # decode a large JPEG at a fraction of its size, as `read` does
            image.draft(None, (math.ceil(image.width * enough), math.ceil(image.height * enough)))
        whole = _upright(image)
        across, down = whole.width / width, whole.height / height
        box = (left * across, top * down, right * across, bottom * down)
        return np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR, box=box))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Pillow's image of a file: its header is read, its pixels are not yet. Errors in the block become Unreadable."""
    if path.suffix.lower() not in EXTENSIONS:
        raise Unreadable(f"not an image file by its name (valid: {' '.join(EXTENSIONS)})")
    regular(path)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                size = f"{image.width} x {image.height}"
                raise Unreadable(f"{size} pixels, more than the {limit} that Pillow considers safe")
            yield image
    except (Unreadable, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise Unreadable("its content is no image of a known format") from error
    except Exception as error:  # Pillow's decoders raise many kinds of errors for damaged files
        raise Unreadable(f"damaged: {error or type(error).__name__}") from error


def regular(path: str | Path) -> os.stat_result:
    """The status of a regular file that is not empty. Raises Unreadable for anything else."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise Unreadable(error.strerror or str(error)) from error
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would never return
        raise Unreadable("not a regular file")
    if status.st_size == 0:
        raise Unreadable("empty file (0 bytes)")
    return status


def _upright(image: Image.Image) -> Image.Image:
    """Any image to RGB, rotated as its EXIF orientation says; transparent pixels become white, as in a browser."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey images of 16 bits (integers) or in [0, 1] (floating point) to 8 bits; Pillow would clip them to 0 … 255."""
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):  # also true of NaN
            raise Unreadable("floating-point pixels outside [0, 1]")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if values.min() < 0 or values.max() > 65535:
        raise Unreadable("integer pixels outside 0 … 65535")
    return Image.fromarray((values >> 8).astype(np.uint8))


def middle(width: int, height: int, *, size: int, resize: int) -> Box:
    """What Resize(``resize``) and CenterCrop(``size``) keep of an image, as a box in its pixels.

    Cutting it out in one step keeps a long thin image small in memory.
    """
    side = min(width, height) * size / resize
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side
