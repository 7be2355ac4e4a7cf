"""IDX files, the form in which MNIST and Fashion-MNIST are published (http://yann.lecun.com/exdb/mnist).

Two zero bytes, the element type (8: uint8), the number of dimensions, each dimension as big-endian uint32, then the elements.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from lrdan_edge.errors import DataError

Array = npt.NDArray[np.uint8]

PARTS = {"train": "train", "test": "t10k"}  # names of the parts, with the prefix of their files
_UINT8 = 8
_MOST_INFLATION = 1032  # largest compression ratio of deflate (zlib's technical notes)
_FIX = "download the file again"


def find(folder: Path, part: str, kind: str, dimensions: int) -> Path | None:
    """The IDX file ``<part>-<kind>-idx<dimensions>-ubyte`` (also with ``.idx``, also gzipped), or None."""
    for separator in "-.":
        for suffix in ("", ".gz"):
            path = folder / f"{PARTS[part]}-{kind}{separator}idx{dimensions}-ubyte{suffix}"
            if path.is_file():
                return path
    return None


def read_part(folder: Path, part: str, classes: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Read one part's images and labels.

    Args:
        folder: The folder of the files.
        part: ``train`` or ``test``.
        classes: Number of classes.

    Returns:
        Images uint8 [N, 1, H, W] and labels int64 [N] in [0, classes).

    Raises:
        DataError: A file is missing or damaged, a label is out of range, or the numbers of labels and images differ.
    """
    paths = {kind: find(folder, part, kind, dimensions) for kind, dimensions in (("images", 3), ("labels", 1))}
    for (kind, path), dimensions in zip(paths.items(), (3, 1), strict=True):
        if path is None:
            raise DataError(f"{folder} has no file {PARTS[part]}-{kind}-idx{dimensions}-ubyte[.gz]", _FIX)
    images_path, labels_path = cast(Path, paths["images"]), cast(Path, paths["labels"])
    images, labels = read(images_path, 3), read(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path} has {len(labels)} labels, {images_path.name} has {len(images)} images; "
            "they come from different data sets",
            "download both again",
        )
    if labels.max() >= classes:
        place = int(labels.argmax())
        raise DataError(f"{labels_path} has label {labels[place]} at {place}; labels are 0 to {classes - 1}", _FIX)
    return images[:, None], labels.astype(np.int64)


def read(path: Path, dimensions: int) -> Array:
    """Read an IDX file of uint8, plain or gzipped.

    Args:
        path: The file; gzipped if it ends in ``.gz``.
        dimensions: The expected number of dimensions.

    Returns:
        The elements, uint8, with no side of 0.

    Raises:
        DataError: The file cannot be read, has another format, or does not have the length in its header.
    """
    packed = path.suffix == ".gz"
    try:
        most = path.stat().st_size * (_MOST_INFLATION if packed else 1)
        with cast(BinaryIO, gzip.open(path)) if packed else path.open("rb") as file:
            shape = _header(path, file.read(4 + 4 * dimensions), dimensions)
            size = math.prod(shape)
            # A header may claim more data than memory holds, so nothing larger than the possible content is allocated.
            elements = file.read(size + 1) if size <= most else b""
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise DataError(f"{path} cannot be read ({error})", _FIX) from error
    if len(elements) != size:
        seen = "more" if len(elements) > size else "fewer"
        raise DataError(f"{path} holds {seen} bytes than the {size} its header says ({_text(shape)})", _FIX)
    return np.frombuffer(elements, np.uint8).reshape(shape)


def _header(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    magic = bytes([0, 0, _UINT8, dimensions])
    if header[:4] != magic:
        raise DataError(
            f"{path} begins with bytes {header[:4].hex(' ') or '(none)'}, not {magic.hex(' ')}, as an IDX file of uint8 with "
            f"{dimensions} dimensions does",
            _FIX,
        )
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{path} ends inside its header, after {len(header)} bytes", _FIX)
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape:
        raise DataError(f"{path} is empty ({_text(shape)})", _FIX)
    return shape


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
