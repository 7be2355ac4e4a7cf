"""A tiny MNIST, made here: every class is a bar at its own place, in noise."""

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from parts import good_image, write

Images = npt.NDArray[np.uint8]

SIDE = 28


def idx(array: Images) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def bars(rng: np.random.Generator, per_class: int) -> tuple[Images, Images]:
    labels = rng.permutation(np.repeat(np.arange(10), per_class))
    images = rng.normal(60, 25, (len(labels), SIDE, SIDE))
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * label + 3 : 2 * label + 6] += 60
    return np.clip(images, 0, 255).astype(np.uint8), labels.astype(np.uint8)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROOT of IDX files: 20 training and 6 test images per class, one of the four files gzipped."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(5)
    for part, per_class in (("train", 20), ("t10k", 6)):
        images, labels = bars(rng, per_class)
        (root / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (root / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    plain = root / "train-images-idx3-ubyte"
    (root / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return root


@pytest.fixture
def good_images(tmp_path: Path) -> Path:
    """Folder with 30 training images and 6 held out."""
    rng = np.random.default_rng(0)
    for folder, count in (("train", 30), ("calibration", 6)):
        for index in range(count):
            write(tmp_path / "data" / folder / "good" / f"{index:02d}.png", good_image(rng))
    return tmp_path / "data"
