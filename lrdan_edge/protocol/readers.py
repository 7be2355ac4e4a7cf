"""Readers for the data sets of the one-class protocol. Nothing is downloaded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from lrdan_edge.errors import DataError
from lrdan_edge.protocol import cifar, folders, idx

DatasetName = Literal["mnist", "fashion-mnist", "cifar10"]

CLASSES: dict[DatasetName, tuple[str, ...]] = {
    "mnist": tuple(map(str, range(10))),
    "fashion-mnist": ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
"""The classes' names in the order of their labels; image folders have these names."""

_CHANNELS: dict[DatasetName, int] = {"mnist": 1, "fashion-mnist": 1, "cifar10": 3}
_TORCHVISION: dict[DatasetName, str] = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}


@dataclass(frozen=True)
class Part:
    """Training or test images.

    Attributes:
        frames: uint8 [N, C, H, W], C 1 (grey) or 3 (blue, green, red).
        labels: int64 [N], the index of the class of each image.
    """

    frames: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """A data set: every class has at least 2 training images and 1 test image, and all images have the same shape."""

    name: DatasetName
    root: Path
    classes: tuple[str, ...]
    train: Part
    test: Part

    def fingerprint(self) -> str:
        """Sha256 (hex) over all pixels and labels."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            digest.update(repr(part.frames.shape).encode())
            digest.update(np.ascontiguousarray(part.frames).data)
            digest.update(part.labels.tobytes())
        return digest.hexdigest()


def read_dataset(name: DatasetName, root: Path) -> Dataset:
    """Read a data set: its published files, or else image folders.

    Published files are IDX, plain or gzipped (MNIST, Fashion-MNIST; also in torchvision's ``MNIST/raw``), and the binary version
    (CIFAR-10). Image folders are ``train/<class>`` and ``test/<class>``.

    Args:
        name: The data set.
        root: Its folder.

    Raises:
        DataError: There are no such files, or they are damaged, incomplete or have different sizes.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", "give the folder with the files of {name} as {root}", name=name)
    classes = CLASSES[name]
    parts = _published(name, root)
    if parts is None:
        if not (root / "train").is_dir():
            if name == "cifar10":
                cifar.refuse_pickles(root)
            wanted = "data_batch_1.bin to test_batch.bin" if name == "cifar10" else "train-images-idx3-ubyte[.gz] and so on"
            raise DataError(f"{root} holds neither {name}'s files ({wanted}) nor image folders train/<class>", "check {root}")
        parts = {part: folders.read_part(root / part, classes, _CHANNELS[name]) for part in ("train", "test")}
    dataset = Dataset(name, root, classes, Part(*parts["train"]), Part(*parts["test"]))
    _require_complete(dataset)
    return dataset


def _published(name: DatasetName, root: Path) -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]] | None:
    if name == "cifar10":
        folder = cifar.find(root)
        return None if folder is None else cifar.read(folder)
    for folder in (root, root / _TORCHVISION[name]):
        if any(idx.find(folder, part, kind, n) for part in idx.PARTS for kind, n in (("images", 3), ("labels", 1))):
            return {part: idx.read_part(folder, part, len(CLASSES[name])) for part in idx.PARTS}
    return None


def _require_complete(dataset: Dataset) -> None:
    train, test = dataset.train.frames.shape[1:], dataset.test.frames.shape[1:]
    if train != test:
        raise DataError(
            f"{dataset.root}: training images are {_text(train)}, test images {_text(test)}; they come from different data sets"
        )
    for part, least, title in ((dataset.train, 2, "training"), (dataset.test, 1, "test")):
        counts = np.bincount(part.labels, minlength=len(dataset.classes))
        rarest = int(counts.argmin())
        if counts[rarest] < least:
            raise DataError(
                f"{dataset.root} has {counts[rarest]} {title} images of class {dataset.classes[rarest]}; the protocol needs at least "
                f"{least} of every class",
                "use the whole data set",
            )


def _text(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[2]} with {shape[0]} channel{'s' if shape[0] > 1 else ''}"
