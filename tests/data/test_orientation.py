"""Photographs are turned upright by the orientation that they record, as Pillow turns them."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lrdan_edge.data.check import check
from lrdan_edge.data.images import read_image, read_with_form
from lrdan_edge.data.orientation import IN_WORDS, orientation_of
from lrdan_edge.data.scan import Scan

pillow = pytest.importorskip("PIL.Image")
oracle = pytest.importorskip("PIL.ImageOps")

LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "JPEG": {"quality": 95}}


def photograph(path: Path, orientation: int | None, kind: str = "JPEG", *, seed: int = 0) -> Path:
    """A photograph whose corners differ, stored as the sensor saw it."""
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(0, 256, (3, 5, 3)).astype(np.uint8), (80, 48), interpolation=cv2.INTER_CUBIC)
    exif = pillow.Exif()
    if orientation is not None:
        exif[274] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    pillow.fromarray(pixels).save(path, kind, exif=exif, **LOSSLESS[kind])
    return path


def upright(path: Path) -> Any:
    """What Pillow shows: uint8 [H, W, 3], BGR."""
    return np.asarray(oracle.exif_transpose(pillow.open(path)).convert("RGB"))[..., ::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", LOSSLESS)
def test_is_turned_as_pillow_turns_it(tmp_path: Path, kind: str, orientation: int) -> None:
    path = photograph(tmp_path / f"photo.{kind.lower()}", orientation, kind)
    image, form = read_with_form(path)
    expected = upright(path)
    assert image.shape == expected.shape == ((80, 48, 3) if orientation > 4 else (48, 80, 3))
    # Two decoders of JPEG may differ by the last bit.
    assert np.abs(image.astype(int) - expected).max() <= (2 if kind == "JPEG" else 0)
    assert (form.height, form.width, form.orientation) == (*image.shape[:2], orientation)


@pytest.mark.parametrize("orientation", [None, 0, 9, 65535])
def test_no_valid_orientation_turns_nothing(tmp_path: Path, orientation: int | None) -> None:
    path = photograph(tmp_path / "photo.jpg", orientation)
    assert orientation_of(path.read_bytes()) == 1
    assert read_image(path).shape == (48, 80, 3)


def test_any_bytes_have_an_orientation(tmp_path: Path) -> None:
    """A damaged header is never an error of its own: decoding says what is wrong with the file."""
    rng = np.random.default_rng(0)
    for kind in LOSSLESS:
        whole = photograph(tmp_path / "photo", 6, kind).read_bytes()
        for cut in range(0, min(400, len(whole))):
            assert orientation_of(whole[:cut]) in range(1, 9)
        for _ in range(300):
            damaged = bytearray(whole)
            damaged[int(rng.integers(4, min(len(whole), 200)))] = int(rng.integers(256))
            assert orientation_of(bytes(damaged)) in range(1, 9)


def test_grey_sixteen_bits_are_turned_too(tmp_path: Path) -> None:
    pixels = np.arange(48 * 80, dtype=np.uint16).reshape(48, 80) * 17
    exif = pillow.Exif()
    exif[274] = 6
    buffer = io.BytesIO()
    pillow.fromarray(pixels).save(buffer, "PNG", exif=exif)
    path = tmp_path / "deep.png"
    path.write_bytes(buffer.getvalue())
    scan = Scan()
    scan.require([path])
    assert scan.images[path].size == (80, 48)
    assert scan.images[path].orientation == 6
    assert read_image(path).shape == (80, 48)


def test_the_check_counts_turned_images_and_how(tmp_path: Path) -> None:
    for index in range(8):
        photograph(tmp_path / f"{index}.jpg", 6 if index < 3 else 3 if index < 4 else 1, seed=index)
    report = check(tmp_path)
    assert report.folders[0].turned == {IN_WORDS[6]: 3, IN_WORDS[3]: 1}
    (line,) = [line for line in report.warnings if "EXIF" in line]
    assert line.startswith("4 of 8 images of ")
    assert line.endswith("are turned upright by their EXIF orientation: 3 turned by 90° clockwise, 1 turned by 180°")
