"""One file at a time: every kind of image comes out as upright, plain RGB, every bad file with a reason."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import center_crop, resize

from tune_lt.data.decode import Unreadable, decode, read

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def _corners(image: np.ndarray) -> list[tuple[int, ...]]:
    """The colours at the corners of (3, H, W): top left, top right, bottom left, bottom right."""
    return [tuple(image[:, y, x].tolist()) for y in (0, -1) for x in (0, -1)]


def _quarters(mode: str = "RGB") -> Image.Image:
    """16 × 16: red, green over blue, white."""
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8, :8], pixels[:8, 8:], pixels[8:, :8], pixels[8:, 8:] = RED, GREEN, BLUE, WHITE
    return Image.fromarray(pixels).convert(mode)


def _saved(folder: Path, image: Image.Image, name: str = "image.png", **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def _close(found: list[tuple[int, ...]], expected: list[tuple[int, ...]], tolerance: int) -> None:
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize(
    ("mode", "name", "tolerance"),
    [
        ("RGB", "a.png", 0),
        ("RGBA", "a.png", 0),
        ("P", "a.png", 0),
        ("P", "a.gif", 0),
        ("RGB", "a.bmp", 0),
        ("RGB", "a.ppm", 0),
        ("RGB", "a.tif", 0),
        ("CMYK", "a.tif", 0),
        ("RGB", "A.JPG", 12),
        ("CMYK", "a.jpeg", 12),
        ("RGB", "a.webp", 12),
    ],
)
def test_colour_modes_and_formats(tmp_path: Path, mode: str, name: str, tolerance: int) -> None:
    options = {"quality": 98, "subsampling": 0} if name.lower().endswith(("jpg", "jpeg")) else {}
    found = read(_saved(tmp_path, _quarters(mode), name, **options), 16)
    assert (found.shape, found.dtype) == ((3, 16, 16), np.uint8)
    _close(_corners(found), [RED, GREEN, BLUE, WHITE], tolerance)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_modes_have_three_equal_channels(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.repeat([[0, 255]], 8, 0).repeat(8, 1).astype(np.uint8)).convert(mode)
    found = read(_saved(tmp_path, grey.resize((16, 16))), 16)
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()
    assert _corners(found) == [(0, 0, 0), WHITE, (0, 0, 0), WHITE]


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path, name: str) -> None:
    levels = np.linspace(0, 65535, 16).astype(np.uint16)
    path = tmp_path / name
    if name.endswith("pgm"):
        path.write_bytes(b"P5 16 16 65535\n" + np.tile(levels, (16, 1)).astype(">u2").tobytes())
    else:
        _saved(tmp_path, Image.fromarray(np.tile(levels, (16, 1))), name)
    assert read(path, 16)[1, 3].tolist() == (levels >> 8).tolist()


def test_floating_point_grey(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 1, 16, dtype=np.float32), (16, 1))
    path = _saved(tmp_path, Image.fromarray(ramp), "f.tiff")
    assert read(path, 16)[0, 0].tolist() == np.rint(ramp[0] * 255).astype(int).tolist()
    for value in (2.0, -0.1, np.nan):
        _saved(tmp_path, Image.fromarray(np.full((16, 16), value, dtype=np.float32)), "f.tiff")
        with pytest.raises(Unreadable, match=r"outside \[0, 1\]"):
            read(path, 16)


def test_integers_of_no_known_range_are_refused(tmp_path: Path) -> None:
    for value in (70_000, -1):
        path = _saved(tmp_path, Image.fromarray(np.full((16, 16), value, dtype=np.int32)), "i.tif")
        with pytest.raises(Unreadable, match="outside 0 … 65535"):
            read(path, 16)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "colour key"])
def test_transparent_pixels_are_white(tmp_path: Path, kind: str) -> None:
    """The hidden colour below a transparent pixel must not show."""
    if kind in ("RGBA", "LA"):
        image = _quarters("L").convert("RGBA") if kind == "LA" else _quarters("RGBA")
        alpha = np.full((16, 16), 255, dtype=np.uint8)
        alpha[:8, :8] = 0
        image.putalpha(Image.fromarray(alpha))
        path = _saved(tmp_path, image.convert(kind))
    elif kind == "palette":
        image = _quarters("P")
        path = _saved(tmp_path, image, transparency=image.getpixel((0, 0)))
    else:
        path = _saved(tmp_path, _quarters(), transparency=RED)
    found = _corners(read(path, 16))
    assert found[0] == WHITE
    assert found[3] == WHITE
    assert WHITE not in found[1:3]


def test_half_transparent_pixels_are_blended(tmp_path: Path) -> None:
    path = _saved(tmp_path, Image.new("RGBA", (16, 16), (0, 0, 0, 128)))
    assert _corners(read(path, 16))[0] == (127, 127, 127)


_TURNS = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize(("orientation", "expected"), _TURNS.items())
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_exif_orientation(tmp_path: Path, name: str, orientation: int, expected: list[tuple[int, ...]]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 98, "subsampling": 0} if name.endswith("jpg") else {}
    _close(_corners(read(_saved(tmp_path, _quarters(), name, exif=exif, **options), 16)), expected, 12)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (33, 100), (20, 20), (7, 9), (32, 32)])
def test_scaled_and_cut_like_torchvision(tmp_path: Path, width: int, height: int) -> None:
    """Against Resize and CenterCrop, which round the cut to whole pixels: the difference is below a pixel's worth."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], 2)
    image = Image.fromarray(pixels.astype(np.uint8))
    found = read(_saved(tmp_path, image), 32).astype(int)
    expected = np.asarray(center_crop(resize(image, 32), [32, 32])).transpose(2, 0, 1).astype(int)
    assert np.abs(found - expected).max() <= 255 / 32
    if width == height:
        np.testing.assert_array_equal(found, expected)


def test_centre_is_kept_sides_are_cut(tmp_path: Path) -> None:
    for size, side in (((48, 16), 1), ((16, 48), 0)):
        pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
        pixels[(slice(None), slice(16, 32)) if side else slice(16, 32)] = 255
        assert (read(_saved(tmp_path, Image.fromarray(pixels)), 16) == 255).all()


def test_long_thin_image_stays_small(tmp_path: Path) -> None:
    """Scaling 1 × 60,000 to a shorter side of 1,024 and cutting afterwards would take 180 GB."""
    assert read(_saved(tmp_path, Image.new("RGB", (60_000, 1), BLUE)), 1024)[2].min() == 255


def test_large_jpeg_at_a_fraction_of_its_size(tmp_path: Path) -> None:
    """Draft mode decodes at 1/8: the picture must be the same up to a few grey levels."""
    image = _quarters().resize((1024, 1024), Image.Resampling.BICUBIC)
    found = read(_saved(tmp_path, image, "large.jpg", quality=95), 32)
    expected = read(_saved(tmp_path, image, "large.png"), 32)
    assert np.abs(found.astype(int) - expected).mean() < 2
    _close(_corners(found), [RED, GREEN, BLUE, WHITE], 6)


def _jpeg() -> bytes:
    buffer = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def _png() -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", r"empty file \(0 bytes\)"),
        ("text.jpg", b"<html>404 Not Found</html>", "no image of a known format"),
        ("notes.txt", b"hello", "not an image file by its name"),
        ("none", b"hello", "not an image file by its name"),
        ("head.jpg", _jpeg()[:20], "damaged|no image"),
        ("half.jpg", _jpeg()[: len(_jpeg()) // 2], "damaged"),
        ("half.png", _png()[: len(_png()) // 2], "damaged"),
        ("broken.png", _png()[:200] + b"\0" * 500 + _png()[700:], "damaged"),
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no image of a known format"),
    ],
)
def test_bad_files_have_a_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Unreadable, match=reason):
        read(tmp_path / name, 16)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.webp"])
def test_a_file_cut_short_is_refused_or_complete(tmp_path: Path, name: str) -> None:
    """A cut that leaves every pixel there (a checksum at the end is gone) may pass; a wrong pixel may not."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8))
    path = _saved(tmp_path, noise, name)
    content, expected = path.read_bytes(), read(path, 20)
    refused = 0
    for length in range(1, len(content), 13):
        path.write_bytes(content[:length])
        try:
            assert (read(path, 20) == expected).all()
        except Unreadable:
            refused += 1
    assert refused >= 0.9 * len(range(1, len(content), 13))


def test_links_pipes_and_folders_have_a_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in (
        ("broken.png", "No such file"),
        ("self.png", "symbolic link"),
        ("folder.png", "not a regular file"),
        ("pipe.png", "not a regular file"),
    ):
        with pytest.raises(Unreadable, match=reason):
            read(tmp_path / name, 16)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("pixels", [300, 199])
def test_decompression_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """Pillow warns above its limit (20 × 10 above 199) and raises above twice of it (20 × 31 above 300)."""
    path = _saved(tmp_path, Image.new("RGB", (20, 31 if pixels == 300 else 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    with pytest.raises(Unreadable, match="pixels"):
        read(path, 16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read(path, 16).shape == (3, 16, 16)


def test_many_files_keep_their_order(tmp_path: Path) -> None:
    paths = [_saved(tmp_path, Image.new("L", (8, 8), level), f"{level}.png") for level in range(200)]
    paths[17].write_bytes(b"")
    (tmp_path / "150.png").write_bytes(b"no")
    images, reasons = decode(paths, 8)
    assert images.shape == (200, 3, 8, 8)
    assert sorted(reasons) == [17, 150]
    assert [int(image.max()) for i, image in enumerate(images) if i not in reasons] == [
        level for level in range(200) if level not in reasons
    ]
    assert torch.from_numpy(images).dtype == torch.uint8
