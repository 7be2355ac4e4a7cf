"""What the tests make their data of."""

import json
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from lrdan_edge.bundle.manifest import Manifest, manifest_to_json

SIDE = 32

Array = npt.NDArray[Any]


def good_image(rng: np.random.Generator) -> Array:
    """A striped tile, its phase and brightness varying: uint8 [SIDE, SIDE]."""
    x = np.arange(SIDE) + rng.integers(0, 8)
    stripes = 110 + 40 * np.sin(2 * np.pi * x / 8)
    return np.clip(stripes[None, :] + rng.normal(0, 4, (SIDE, SIDE)), 0, 255).astype(np.uint8)


def defective_image(rng: np.random.Generator) -> tuple[Array, Array]:
    """A tile with a bright blob, and the blob's mask."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    centre = tuple(int(c) for c in rng.integers(8, SIDE - 8, 2))
    cv2.circle(mask, centre, 5, 255, -1)
    image = good_image(rng)
    image[mask > 0] = 250
    return image, mask


def surface(rng: np.random.Generator, side: int = 96) -> Array:
    """A surface of its own: smooth noise of several scales, float [side, side] about 0, of unit deviation."""
    scales = [cv2.resize(rng.standard_normal((n, n)), (side, side), interpolation=cv2.INTER_CUBIC) for n in (6, 12, 24)]
    total = np.sum(scales, axis=0)
    return np.asarray(total / np.std(total))


def exposed(image: Array, rng: np.random.Generator) -> Array:
    """A photograph of it under some light, uint8."""
    rows = np.linspace(-1, 1, len(image))[:, None]
    light = rng.uniform(60, 160) + rng.uniform(-20, 20) * rows
    return np.asarray(np.clip(light + rng.uniform(10, 35) * image + rng.normal(0, 2, image.shape), 0, 255), np.uint8)


def write(path: Path, image: Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def shared_data(name: str) -> Path:
    """The folder ``shared/data/<name>`` beside or above the checkout; skips the test where there is none."""
    for folder in Path(__file__).resolve().parents:
        if (found := folder / "shared" / "data" / name).is_dir():
            return found
    pytest.skip(f"no folder shared/data/{name} above the checkout")


def rewrite_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as a program would that knows its checksum."""
    path = bundle / "manifest.json"
    fields = json.loads(path.read_text())
    change(fields)
    path.write_bytes(manifest_to_json(msgspec.convert(fields, Manifest)))


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """All below a folder, and it: kind, time of change, and a file's bytes or a link's target."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (stat.S_IFMT(status.st_mode), status.st_mtime_ns, content)
    return found


@dataclass(frozen=True)
class Line:
    """A data set and the bundle made from it."""

    data: Path
    bundle: Path
