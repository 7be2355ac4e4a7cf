"""Readers against files built here byte by byte, and against damage."""

import gzip
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parts import shared_data

from lrdan_edge.errors import DataError
from lrdan_edge.protocol import cifar
from lrdan_edge.protocol import idx as idx_files
from lrdan_edge.protocol.readers import CLASSES, read_dataset

PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4) * 7
WHOLE = struct.pack(">HBBIII", 0, 8, 3, 2, 3, 4) + PIXELS.tobytes()
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def put(root: Path, name: str, data: bytes) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)
    return root / name


def labels_of(values: list[int]) -> bytes:
    return struct.pack(">HBBI", 0, 8, 1, len(values)) + bytes(values)


@pytest.mark.parametrize("name", ["x-idx3-ubyte", "x-idx3-ubyte.gz"])
def test_idx_round_trip(tmp_path: Path, name: str) -> None:
    path = put(tmp_path, name, gzip.compress(WHOLE) if name.endswith(".gz") else WHOLE)
    assert np.array_equal(idx_files.read(path, 3), PIXELS)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images.idx3-ubyte", "train-images.idx3-ubyte.gz"])
def test_idx_files_are_found_under_their_usual_names(tmp_path: Path, name: str) -> None:
    assert idx_files.find(tmp_path, "train", "images", 3) is None
    assert idx_files.find(put(tmp_path, name, b"").parent, "train", "images", 3) == tmp_path / name


@FEW
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_damaged_header_or_a_truncated_file_is_refused(tmp_path: Path, place: int, flip: int) -> None:
    with pytest.raises(DataError, match="cut"):
        idx_files.read(put(tmp_path, "cut", WHOLE[:place]), 3)
    header = bytearray(WHOLE)
    header[place % 16] ^= flip
    with pytest.raises(DataError, match="flipped"):
        idx_files.read(put(tmp_path, "flipped", bytes(header)), 3)
    with pytest.raises(DataError, match="more bytes"):
        idx_files.read(put(tmp_path, "longer", WHOLE + bytes(flip)), 3)


@FEW
@given(st.data())
def test_a_damaged_gzip_is_refused_or_read_correctly(tmp_path: Path, data: st.DataObject) -> None:
    packed = bytearray(gzip.compress(WHOLE, mtime=0))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    del packed[data.draw(st.integers(len(packed) // 2, len(packed))) :]
    path = put(tmp_path, "x.gz", bytes(packed))
    try:
        found = idx_files.read(path, 3)
    except DataError:
        return
    assert np.array_equal(found, PIXELS)  # some bytes of gzip's header mean nothing


def test_a_header_with_a_huge_size_allocates_nothing(tmp_path: Path) -> None:
    huge = struct.pack(">HBBIII", 0, 8, 3, 1 << 31, 1 << 31, 1 << 31)
    for name, data in (("huge", huge), ("huge.gz", gzip.compress(huge))):
        with pytest.raises(DataError, match="fewer bytes"):
            idx_files.read(put(tmp_path, name, data), 3)


def test_labels_and_images_must_agree(tmp_path: Path) -> None:
    put(tmp_path, "train-images-idx3-ubyte", WHOLE)
    with pytest.raises(DataError, match="no file train-labels-idx1-ubyte"):
        idx_files.read_part(tmp_path, "train", 10)
    put(tmp_path, "train-labels-idx1-ubyte", labels_of([1, 2, 3]))
    with pytest.raises(DataError, match=r"3 labels.* 2 images"):
        idx_files.read_part(tmp_path, "train", 10)
    put(tmp_path, "train-labels-idx1-ubyte", labels_of([1, 10]))
    with pytest.raises(DataError, match="label 10 at 1"):
        idx_files.read_part(tmp_path, "train", 10)
    put(tmp_path, "train-labels-idx1-ubyte", labels_of([1, 9]))
    images, labels = idx_files.read_part(tmp_path, "train", 10)
    assert images.shape == (2, 1, 3, 4)
    assert labels.tolist() == [1, 9]


def write_cifar(root: Path, per_file: int = 20) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """All six files; what the training files hold as red, green, blue [N, 3, 32, 32], and its labels."""
    rng = np.random.default_rng(3)
    pixels, labels = [], []
    for name in [*cifar.FILES["train"], *cifar.FILES["test"]]:
        found = rng.integers(0, 256, (per_file, 3, 32, 32), dtype=np.uint8)
        numbers = np.arange(per_file, dtype=np.uint8) % 10
        records = b"".join(bytes([number]) + image.tobytes() for number, image in zip(numbers, found, strict=True))
        put(root, name, records)
        pixels.append(found)
        labels.append(numbers)
    return np.concatenate(pixels[:5]), np.concatenate(labels[:5])


def test_cifar_is_read_as_blue_green_red(tmp_path: Path) -> None:
    rgb, labels = write_cifar(tmp_path / "cifar-10-batches-bin")
    dataset = read_dataset("cifar10", tmp_path)
    assert np.array_equal(dataset.train.labels, labels)
    assert dataset.test.frames.shape == (20, 3, 32, 32)
    first = cv2.cvtColor(np.ascontiguousarray(rgb[0].transpose(1, 2, 0)), cv2.COLOR_RGB2BGR)
    assert np.array_equal(dataset.train.frames[0].transpose(1, 2, 0), first)


@settings(FEW, max_examples=20)
@given(st.integers(1, 20 * cifar.RECORD))
def test_a_truncated_cifar_file_is_refused(tmp_path: Path, missing: int) -> None:
    write_cifar(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(DataError, match=r"data_batch_3\.bin (has|holds)"):
        read_dataset("cifar10", tmp_path)


def test_incomplete_or_mislabelled_cifar_files_are_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    damaged = bytearray((tmp_path / "test_batch.bin").read_bytes())
    damaged[cifar.RECORD] = 10
    put(tmp_path, "test_batch.bin", bytes(damaged))
    with pytest.raises(DataError, match="label 10 at image 1"):
        read_dataset("cifar10", tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"test_batch\.bin cannot be read"):
        read_dataset("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["cifar-10-batches-py/data_batch_1", "data_batch_1", "cifar-10-python.tar.gz"])
def test_pickles_are_named_and_never_opened(tmp_path: Path, name: str) -> None:
    put((tmp_path / name).parent, Path(name).name, b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(DataError, match=r"pickled.*cifar-10-binary\.tar\.gz"):
        read_dataset("cifar10", tmp_path)


def write_folders(root: Path, names: tuple[str, ...], suffix: str = "png", size: int = 32) -> None:
    for part in ("train", "test"):
        for label, name in enumerate(names):
            for index in range(2):
                image = np.full((size, size, 3), (20 * label, 100, index), np.uint8)
                (root / part / name).mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(root / part / name / f"{index}.{suffix}"), image)


@pytest.mark.parametrize("names", [CLASSES["cifar10"], tuple("0123456789")])
def test_folders_of_images_are_labelled_by_their_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    write_folders(tmp_path, names)
    dataset = read_dataset("cifar10", tmp_path)
    assert dataset.train.labels.tolist() == sorted(list(range(10)) * 2)
    assert dataset.train.frames[::2, 0, 0, 0].tolist() == [20 * label for label in range(10)]  # blue first, as cv2 reads
    assert dataset.test.frames.shape == (20, 3, 32, 32)


def test_grey_data_sets_are_read_grey_from_colour_files(tmp_path: Path) -> None:
    write_folders(tmp_path, CLASSES["fashion-mnist"], "jpg", 28)
    assert read_dataset("fashion-mnist", tmp_path).train.frames.shape == (20, 1, 28, 28)


def test_inconsistent_folders_are_refused(tmp_path: Path) -> None:
    write_folders(tmp_path, (*CLASSES["cifar10"][:9], "lorry"))
    with pytest.raises(DataError, match=r"lorry.*name them airplane"):
        read_dataset("cifar10", tmp_path)
    (tmp_path / "train" / "lorry").rename(tmp_path / "train" / "truck")
    with pytest.raises(DataError, match="test has the folders"):
        read_dataset("cifar10", tmp_path)
    (tmp_path / "test" / "lorry").rename(tmp_path / "test" / "truck")
    cv2.imwrite(str(tmp_path / "test" / "truck" / "1.png"), np.zeros((20, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"1\.png is 20x32"):
        read_dataset("cifar10", tmp_path)


def test_folders_without_data_name_the_expected_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder"):
        read_dataset("mnist", tmp_path / "nowhere")
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        read_dataset("mnist", tmp_path)
    with pytest.raises(DataError, match=r"data_batch_1\.bin"):
        read_dataset("cifar10", tmp_path)


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        put(tmp_path, f"{part}-images-idx3-ubyte", WHOLE)
        put(tmp_path, f"{part}-labels-idx1-ubyte", labels_of([1, 1]))
    with pytest.raises(DataError, match="0 training images of class 0"):
        read_dataset("mnist", tmp_path)


def test_published_mnist_files_are_read() -> None:
    dataset = read_dataset("mnist", shared_data("mnist"))
    assert dataset.train.frames.shape == (60000, 1, 28, 28)
    assert dataset.test.frames.shape == (10000, 1, 28, 28)
    assert np.bincount(dataset.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # as published
    assert dataset.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
