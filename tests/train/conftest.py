"""A tiny set of good images, made here: stripes of random phase and slope. Trainings on it draw no curves."""

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import pytest


class WriteStripes(Protocol):
    def __call__(
        self, folder: Path, count: int, size: tuple[int, int] = (32, 32), channels: int = 1, seed: int = 0
    ) -> None: ...


def _write_stripes(folder: Path, count: int, size: tuple[int, int] = (32, 32), channels: int = 1, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for index in range(count):
        wave = np.sin(columns * 0.8 + rows * rng.uniform(-0.2, 0.2) + rng.uniform(0, 6.28))
        grey = np.clip(128 + 80 * wave + rng.normal(0, 3, size), 0, 255).astype(np.uint8)
        image = grey if channels == 1 else np.stack([grey, 255 - grey, grey], 2)
        cv2.imwrite(str(folder / f"{index:03d}.png"), image)


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes several times as long as a tiny training does; `test_report` draws, and so does `line`."""

    def blank(path: Path, _epochs: list[dict[str, float]]) -> None:
        cv2.imwrite(str(path), np.full((8, 8), 255, np.uint8))

    monkeypatch.setattr("lrdan_edge.train.trainer.draw_losses", blank)


@pytest.fixture
def write_stripes() -> WriteStripes:
    """Writes `count` images of stripes into a folder."""
    return _write_stripes


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """Folder with 30 training images and 6 held out."""
    _write_stripes(tmp_path / "data" / "train" / "good", 30)
    _write_stripes(tmp_path / "data" / "calibration" / "good", 6, seed=1)
    return tmp_path / "data"
