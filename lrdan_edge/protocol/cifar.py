"""CIFAR-10's binary version (https://www.cs.toronto.edu/~kriz/cifar.html).

A record is its label (uint8), then 1024 red, 1024 green and 1024 blue pixels, each plane row by row. The Python version of the
data is a pickle, which can run code when it is read. This module detects it but never opens it.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrdan_edge.errors import DataError

Array = npt.NDArray[np.uint8]

FILES = {"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)}
CLASSES = 10
SIDE, CHANNELS = 32, 3
RECORD = 1 + CHANNELS * SIDE * SIDE
_PICKLED = ("data_batch_1", "cifar-10-batches-py", "cifar-10-python.tar.gz")
_FIX = "download 'CIFAR-10 binary version' (cifar-10-binary.tar.gz) and unpack it there"


def find(root: Path) -> Path | None:
    """The folder at or below `root` with the binary version's files, or None."""
    for folder in (root, root / "cifar-10-batches-bin"):
        if any((folder / name).is_file() for names in FILES.values() for name in names):
            return folder
    return None


def refuse_pickles(root: Path) -> None:
    """Refuse a folder that holds only the pickled version.

    Raises:
        DataError: `root` holds it.
    """
    for folder in (root, root / "cifar-10-batches-py"):
        for name in _PICKLED:
            if (folder / name).exists():
                raise DataError(
                    f"{folder / name} is the pickled python version, which is never read (a pickle can run code)", _FIX
                )


def read(folder: Path) -> dict[str, tuple[Array, npt.NDArray[np.int64]]]:
    """Read both parts.

    Args:
        folder: The folder of the files; see `find`.

    Returns:
        For ``train`` and ``test`` images uint8 [N, 3, 32, 32] in the order blue, green, red, and labels int64 [N].

    Raises:
        DataError: A file is missing, damaged, or has another length than the others (all six are equally long).
    """
    records = {name: _records(folder / name) for names in FILES.values() for name in names}
    longest = max(records, key=lambda name: len(records[name]))
    for name, found in records.items():
        if len(found) != len(records[longest]):
            raise DataError(
                f"{folder / name} holds {len(found)} images, {longest} holds {len(records[longest])}; all files hold the same "
                "number",
                _FIX,
            )
    parts = {}
    for part, names in FILES.items():
        joined = np.concatenate([records[name] for name in names])
        planes = joined[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE)
        parts[part] = np.ascontiguousarray(planes[:, ::-1]), joined[:, 0].astype(np.int64)
    return parts


def _records(path: Path) -> Array:
    """A file's records, uint8 [N, RECORD]."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", _FIX) from error
    if not data.size or data.size % RECORD:
        raise DataError(f"{path} has {data.size} bytes, not a multiple of {RECORD}, so it is not complete", _FIX)
    records = data.reshape(-1, RECORD)
    if (worst := int(records[:, 0].max())) >= CLASSES:
        place = int(records[:, 0].argmax())
        raise DataError(f"{path} has label {worst} at image {place}; labels are 0 to {CLASSES - 1}", _FIX)
    return records
