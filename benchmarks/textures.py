"""Surfaces that the recipe was hardly tuned on: brick, gravel and grass, with defect kinds that training never paints.

    python benchmarks/textures.py --output textures
    python benchmarks/detection.py textures/brick --image-size 128x128

Each texture is one photograph (scikit-image's): its upper part gives the good training images, its lower part the test images,
so that no pixel is in both.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from skimage import data
from skimage.transform import swirl

Image = npt.NDArray[np.float32]

TEXTURES = ("brick", "gravel", "grass")
SIDE, UPPER = 128, 320  # pixels: of a crop, and of the photograph's part for training
TRAIN_STRIDE, TEST_STRIDE = 24, 16
PER_KIND = 40


def _place(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(28, SIDE - 28)), int(rng.integers(28, SIDE - 28))


def _swirl(image: Image, rng: np.random.Generator) -> Image:
    radius = float(rng.uniform(25, 40))
    strength = float(rng.choice([-1, 1]) * rng.uniform(2.5, 5))
    twisted = swirl(image, center=_place(rng), strength=strength, radius=radius, mode="reflect")  # type: ignore[no-untyped-call]
    return np.asarray(twisted, np.float32)


def _ring(image: Image, rng: np.random.Generator) -> Image:
    canvas = np.zeros_like(image)
    cv2.circle(canvas, _place(rng), int(rng.integers(7, 15)), 1.0, int(rng.integers(2, 4)), cv2.LINE_AA)
    return np.asarray(image + canvas * rng.choice([-1, 1]) * rng.uniform(0.2, 0.4), np.float32)


def _letter(image: Image, rng: np.random.Generator) -> Image:
    canvas = np.zeros(image.shape, np.uint8)
    letter = str(rng.choice(list("AEKRSXZ")))
    cv2.putText(canvas, letter, _place(rng), cv2.FONT_HERSHEY_SIMPLEX, rng.uniform(0.6, 1.0), 255, 2, cv2.LINE_AA)
    return np.asarray(image + canvas / 255 * rng.choice([-1, 1]) * rng.uniform(0.2, 0.4), np.float32)


def _spot(image: Image, rng: np.random.Generator) -> Image:
    """A soft stain: no edge anywhere."""
    (x, y), sigma = _place(rng), rng.uniform(6, 12)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    bump = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))
    return np.asarray(image + bump * rng.choice([-1, 1]) * rng.uniform(0.2, 0.35), np.float32)


def _specks(image: Image, rng: np.random.Generator) -> Image:
    canvas = np.zeros_like(image)
    centre = np.array(_place(rng))
    for place in (centre + rng.normal(0, 9, (int(rng.integers(8, 20)), 2))).astype(int):
        cv2.circle(canvas, (int(place[0]), int(place[1])), 1, 1.0, -1, cv2.LINE_AA)
    return np.asarray(image + canvas * rng.choice([-1, 1]) * rng.uniform(0.3, 0.5), np.float32)


KINDS: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    "swirl": _swirl,
    "ring": _ring,
    "letter": _letter,
    "spot": _spot,
    "specks": _specks,
}


def _crops(photograph: Image, stride: int) -> list[Image]:
    height, width = photograph.shape
    return [
        photograph[top : top + SIDE, left : left + SIDE]
        for top in range(0, height - SIDE + 1, stride)
        for left in range(0, width - SIDE + 1, stride)
    ]


def _write(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.clip(np.round(image * 255), 0, 255).astype(np.uint8))


def write_texture(name: str, folder: Path, seed: int = 0) -> None:
    """Write one texture's data set: ``train/good``, ``test/good``, ``test/<kind>`` and ``ground_truth/<kind>``.

    Args:
        name: One of `TEXTURES`.
        folder: Where to.
        seed: Of the defects.
    """
    rng = np.random.default_rng(seed)
    photograph = getattr(data, name)().astype(np.float32) / 255
    for index, crop in enumerate(_crops(photograph[:UPPER], TRAIN_STRIDE)):
        _write(folder / "train/good" / f"{index:03}.png", crop)
    good = _crops(photograph[UPPER:], TEST_STRIDE)
    for index, crop in enumerate(good):
        _write(folder / "test/good" / f"{index:03}.png", crop)
    for kind, paint in KINDS.items():
        for index in range(PER_KIND):
            crop = good[rng.integers(len(good))]
            painted = np.clip(paint(crop, rng), 0, 1)
            changed = cv2.blur(np.abs(painted - crop), (3, 3)) > 0.03
            _write(folder / "test" / kind / f"{index:03}.png", painted)
            _write(folder / "ground_truth" / kind / f"{index:03}_mask.png", changed.astype(np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="A folder; each texture gets its own below it.")
    folder: Path = parser.parse_args().output
    for name in TEXTURES:
        write_texture(name, folder / name)


if __name__ == "__main__":
    main()
