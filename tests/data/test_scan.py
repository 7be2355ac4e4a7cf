"""A training folder is read and decoded once, whatever asks about it."""

import hashlib
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from parts import exposed, surface, write

from lrdan_edge.data.images import cut_frame, load_frames
from lrdan_edge.data.scan import Scan
from lrdan_edge.errors import DataError
from lrdan_edge.train import network_images
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.progress import Progress
from lrdan_edge.train.trainer import train
from lrdan_edge.train.training_data import load_training_data
from lrdan_edge.train.view import View

opened: Counter[str] | None = None


def count_opened(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and opened is not None:
        opened[str(arguments[0])] += 1


sys.addaudithook(count_opened)  # what Python itself sees: no way of reading goes around it


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Parts under two exposures, 12 bits in 16 that no first image shows, grey and colour."""
    rng = np.random.default_rng(0)
    for part in range(10):
        own = surface(rng, 48)
        for place in range(2):
            image = exposed(own, rng)
            folder = tmp_path / "data" / ("test/good" if part == 9 else "train/good")
            if part == 4:
                write(folder / f"{part}-{place}.png", np.stack([image, 255 - image, image], 2))
            elif part == 5:
                write(folder / f"{part}-{place}.png", np.stack([image] * 3, 2))
            else:
                write(folder / f"{part}-{place}.png", image.astype(np.uint16) * (2 + part) if part > 5 else image)
    return tmp_path / "data"


@pytest.mark.parametrize("group_by", [None, "auto", r"(\d+)-"])
def test_a_training_reads_and_decodes_every_file_once(
    data: Path, tmp_path: Path, group_by: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    global opened
    decoded = []
    decode = cv2.imdecode

    def counted(buffer: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], flags: int) -> object:
        decoded.append(hashlib.sha256(buffer.data).hexdigest())
        return decode(buffer, flags)

    monkeypatch.setattr(cv2, "imdecode", counted)
    opened = Counter()
    try:
        options = TrainOptions(recipe="restoration", epochs=1, device="cpu", batch_size=4, group_by=group_by)
        train(data, tmp_path / "bundle", options, Progress())
        files = sorted(map(str, data.rglob("*.png")))
        assert {path: count for path, count in opened.items() if path in files} == dict.fromkeys(files, 1)
    finally:
        opened = None
    assert sorted(decoded) == sorted(hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files)


@pytest.mark.parametrize(
    "options",
    [
        TrainOptions(),
        TrainOptions(channels=1),
        TrainOptions(bit_depth=10),
        TrainOptions(view=View(tiles=(1, 2)), image_size=(40, 32)),
    ],
)
def test_the_networks_images_are_what_loading_each_file_gives(data: Path, options: TrainOptions) -> None:
    found = load_training_data(data, options)
    assert found.bit_depth == (options.bit_depth or 12)
    assert found.spec.channels == (options.channels or 3)
    frames = load_frames([data / name for name in found.training], found.spec.frame_shape, found.bit_depth)
    expected = np.concatenate([cut_frame(frame, found.spec) for frame in frames]).transpose(0, 3, 1, 2)
    assert torch.equal(found.frames, torch.from_numpy(expected))


def test_grey_images_stored_as_colour_give_grey_networks(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for index in range(6):
        write(tmp_path / f"{index}.png", np.stack([exposed(surface(rng, 60), rng)] * 3, 2))
    found = load_training_data(tmp_path, TrainOptions(image_size=(32, 28)))
    expected = load_frames([tmp_path / name for name in found.training], (32, 28, 1)).transpose(0, 3, 1, 2)
    assert torch.equal(found.frames, torch.from_numpy(expected))


def test_images_that_memory_cannot_hold_are_refused_at_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_images, "available_memory", lambda: 10_000)
    with pytest.raises(DataError, match=r"GiB are available: give a smaller image_size"):
        load_training_data(data, TrainOptions())


def test_broken_files_are_listed_separately_and_required_ones_raise(data: Path) -> None:
    broken = data / "train/good/3-0.png"
    broken.write_bytes(broken.read_bytes()[:50])
    paths = sorted((data / "train/good").iterdir())
    scan = Scan()
    scan.add(paths)
    assert list(scan.broken) == [broken]
    assert len(scan.images) == len(paths) - 1
    with pytest.raises(DataError, match=r"3-0\.png is not a complete image"):
        scan.require(paths)


def test_the_same_images_are_searched_for_near_copies_once(data: Path) -> None:
    scan, paths = Scan(), sorted((data / "train/good").iterdir())
    scan.add(paths)
    first, again = scan.near_copies(paths)[1], scan.near_copies(paths[::-1])[1]
    assert again is first
