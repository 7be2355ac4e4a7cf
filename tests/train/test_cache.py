"""The cache of decoded images: what it holds is what decoding gives, and nothing half-written or outdated is ever taken."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch
from specs import spec_for

from lrdan_edge.bundle.bundle import sha256_of
from lrdan_edge.data.images import cut_frame, load_frames
from lrdan_edge.errors import DataError
from lrdan_edge.train import cache as caching
from lrdan_edge.train.cache import Frames, ImageCache, Layout
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.training_data import prepare
from lrdan_edge.train.view import View

LAYOUT = Layout(spec_for(32, 28, 1), 16)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{index:02d}.png" for index in range(12)]
    for path in paths:
        cv2.imwrite(str(path), rng.integers(0, 256, (40, 36, 3), np.uint8))
    return paths


def cache_of(paths: list[Path], folder: Path) -> ImageCache:
    return ImageCache(paths, [sha256_of(path) for path in paths], folder)


def test_it_holds_what_decoding_gives_and_knows_what_the_images_are_like(paths: list[Path], tmp_path: Path) -> None:
    cache = cache_of(paths, tmp_path / "cache")
    assert cache.load(LAYOUT) is None
    frames, facts, obstacle = cache.fill(LAYOUT)
    expected = load_frames(paths, LAYOUT.shape).transpose(0, 3, 1, 2)
    loaded = cache_of(paths, tmp_path / "cache").load(LAYOUT)
    assert loaded is not None
    assert obstacle is None
    assert np.array_equal(frames.numpy(), expected)
    assert np.array_equal(loaded.numpy(), expected)
    assert (facts.sizes, facts.grey, facts.deep, facts.peak) == ([(40, 36, 0)], False, 0, 0)
    assert cache.load(Layout(spec_for(32, 28, 3), 16)) is None
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".json", ".npy"]
    chosen = Frames(loaded, torch.tensor([7, 2, 9]))
    assert (len(chosen), chosen.shape) == (3, (3, 1, 32, 28))
    assert np.array_equal(chosen[torch.tensor([2, 0])].numpy(), expected[[9, 7]])
    assert np.array_equal(chosen[1:].numpy(), expected[[2, 9]])


def test_a_changed_image_never_meets_the_old_cache(paths: list[Path], tmp_path: Path) -> None:
    cache_of(paths, tmp_path / "cache").fill(LAYOUT)
    cv2.imwrite(str(paths[3]), np.zeros((40, 36), np.uint8))
    assert cache_of(paths, tmp_path / "cache").load(LAYOUT) is None
    assert cache_of(paths[::-1], tmp_path / "cache").load(LAYOUT) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "gone", "facts"])
def test_a_damaged_cache_is_made_anew(paths: list[Path], tmp_path: Path, damage: str) -> None:
    cache = cache_of(paths, tmp_path / "cache")
    expected = cache.fill(LAYOUT)[0].clone()
    (file,) = (tmp_path / "cache").glob("*.json" if damage == "facts" else "*.npy")
    content = bytearray(file.read_bytes())
    content[-5] ^= 255
    file.unlink()
    if damage != "gone":
        file.write_bytes({"cut": content[:-100], "flipped": content, "emptied": b"", "facts": b"{"}[damage])
    assert cache.load(LAYOUT) is None
    assert torch.equal(cache.fill(LAYOUT)[0], expected)
    assert cache.load(LAYOUT) is not None


def test_a_broken_image_leaves_no_cache(paths: list[Path], tmp_path: Path) -> None:
    paths[5].write_bytes(paths[5].read_bytes()[:50])
    with pytest.raises(DataError, match=r"05\.png is not a whole image"):
        cache_of(paths, tmp_path / "cache").fill(LAYOUT)
    assert list((tmp_path / "cache").iterdir()) == []


def test_concurrent_runs_agree(paths: list[Path], tmp_path: Path) -> None:
    expected = load_frames(paths, LAYOUT.shape).transpose(0, 3, 1, 2)

    def run(_: int) -> bool:
        cache = cache_of(paths, tmp_path / "cache")
        frames = cache.load(LAYOUT)
        return np.array_equal((cache.fill(LAYOUT)[0] if frames is None else frames).numpy(), expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(12)))
    assert not list((tmp_path / "cache").glob("*.part"))


def test_the_least_recently_used_make_room(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    one, other = cache_of(paths[:6], folder), cache_of(paths[6:], folder)
    one.fill(LAYOUT)
    other.fill(LAYOUT)
    (folder / "abandoned.part").write_bytes(b"x")
    os.utime(folder / "abandoned.part", (1, 1))
    (folder / "current.part").write_bytes(b"x")
    for file in folder.glob("*.npy"):
        os.utime(file, (time.time() - 100,) * 2)
    assert one.load(LAYOUT) is not None  # used last
    monkeypatch.setattr(caching, "MOST_BYTES", 6000)  # one has 6 · 32 · 28 bytes
    cache_of(paths, folder).fill(LAYOUT)
    assert one.load(LAYOUT) is not None
    assert other.load(LAYOUT) is None
    assert [path.name for path in folder.glob("*.part")] == ["current.part"]


def test_every_image_is_decoded_once(stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(caching.CACHE_VARIABLE, str(tmp_path / "cache"))
    decoded = []
    read = caching.read_pixels

    def counting(path: Path) -> "caching.Pixels":
        decoded.append(path)
        return read(path)

    monkeypatch.setattr(caching, "read_pixels", counting)
    first = prepare(stripes, TrainOptions())
    assert len(decoded) == 36
    again = prepare(stripes, TrainOptions(seed=1))
    assert len(decoded) == 36
    assert torch.equal(first.frames[:], again.frames[:])
    assert np.array_equal(
        first.frames[:].numpy(), load_frames([stripes / name for name in first.training], (32, 32, 1)).transpose(0, 3, 1, 2)
    )


def test_images_unlike_the_first_are_fitted_as_all_of_them_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(caching.CACHE_VARIABLE, str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    for index in range(6):
        colour = np.full((32, 32, 3), (10, 20 + index, 200), np.uint8)
        cv2.imwrite(str(tmp_path / "data" / f"{index}.png"), colour if index else colour[..., 0])
    material = prepare(tmp_path / "data", TrainOptions())
    assert material.spec.channels == 3
    assert material.frames.shape == (5, 3, 32, 32)


def test_a_folder_that_cannot_be_written_is_told(stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(caching.CACHE_VARIABLE, str(tmp_path / "file"))
    material = prepare(stripes, TrainOptions())
    assert len(material.frames) == 30
    assert f"decoded images are held in memory: {tmp_path / 'file'} cannot be written (" in material.notes[-1]


def test_tiles_lie_together_and_another_geometry_is_another_cache(paths: list[Path], tmp_path: Path) -> None:
    spec = spec_for(32, 28, 1)
    views = [View(tiles=(1, 2), overlap=4), View(tiles=(2, 1), overlap=4)]
    specs = [msgspec.structs.replace(spec, geometry=view.geometry((40, 60), (32, 28))) for view in views]
    cache = ImageCache(paths, [sha256_of(path) for path in paths], tmp_path / "tiles")
    filled = [cache.fill(Layout(cut, 16))[0] for cut in specs]
    for cut, images in zip(specs, filled, strict=True):
        expected = [cut_frame(frame, cut) for frame in load_frames(paths, cut.frame_shape)]
        assert np.array_equal(images.numpy(), np.concatenate(expected).transpose(0, 3, 1, 2))
        loaded = cache.load(Layout(cut, 16))
        assert loaded is not None
        assert torch.equal(loaded, images)


def test_training_takes_a_files_tiles_together_and_a_resumed_run_too(
    tmp_path: Path, write_stripes: Callable[..., None]
) -> None:
    write_stripes(tmp_path / "data", 8, (40, 60))
    options = TrainOptions(view=View(tiles=(1, 2)), image_size=(32, 32))
    first, again = prepare(tmp_path / "data", options), prepare(tmp_path / "data", options)
    expected = [
        cut_frame(frame, first.spec)
        for frame in load_frames([tmp_path / "data" / name for name in first.training], (40, 60, 1))
    ]
    assert np.array_equal(first.frames[:].numpy(), np.concatenate(expected).transpose(0, 3, 1, 2))
    assert torch.equal(again.frames[:], first.frames[:])
