"""Makes a conveyor from a photograph: training tiles, calibration tiles, and a video of a belt with synthetic defects.

The photograph (brick, 512x512 grey, part of scikit-image) is cut into five vertical strips. Training tiles come from the two outer
strips and the middle one, calibration tiles and the video from one strip each, so that they share no pixel. In the video
the belt moves up and down below the camera, with the defects drawn on it. A frame that shows only a part of a defect is
``boundary``: neither good nor defective.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.encoding import to_json
from lrdan_edge.data.images import Frame
from lrdan_edge.demo.defects import KINDS, paint
from lrdan_edge.errors import DataError, MissingExtraError
from lrdan_edge.runtime.sources.native import quiet

Photograph: TypeAlias = npt.NDArray[np.float32]

TILE = 96
TRAINING_STRIPS = ((0, 102), (205, 307), (410, 512))
CALIBRATION_STRIP = (102, 205)
VIDEO_STRIP = (307, 410)
TRAINING_TILES = 600
CALIBRATION_TILES = 400

STEP = 8  # pixels the belt moves per frame
FPS = 30
DEFECTS_PER_PASS = 3
PASSES = "gdgdgddgdgddgdg"  # g: a pass over a good belt; d: over a belt with defects. The ends of the belt are good

GAIN = 0.04  # largest relative change of the light from frame to frame
NOISE = 2.0  # standard deviation of the sensor noise, in grey levels
VISIBLE = 0.3  # opacity above which a pixel is defective


@dataclass(frozen=True)
class BeltFrame:
    """The content of one frame of the video.

    Attributes:
        frame: Its index, from 0.
        label: ``good``, ``boundary``, or the kind of the defect that it shows completely.
        defect: The number of that defect, or None.
        mask_pixels: Number of defective pixels in the frame.
    """

    frame: int
    label: str
    defect: int | None
    mask_pixels: int


@dataclass(frozen=True)
class Conveyor:
    """The conveyor's files, and what the video shows.

    Attributes:
        data: Folder with ``train/good``, ``calibration/good``, ``test/<kind>`` and ``ground_truth/<kind>``.
        video: The video, lossless.
        truth: JSON file with `frames`.
        frames: One entry per frame of the video.
        defects: Kind of each defect, by its number.
    """

    data: Path
    video: Path
    truth: Path
    frames: list[BeltFrame]
    defects: list[str]


@dataclass(frozen=True)
class _Belt:
    """The belt of one pass: for each pixel its grey value, opacity of the defect, and number of the defect (-1 for none)."""

    grey: Photograph
    opacity: Photograph
    owner: npt.NDArray[np.int16]


def make_conveyor(folder: Path, seed: int) -> Conveyor:
    """Write the conveyor's images, video and truth below `folder`.

    Args:
        folder: Where to write ``data/``, ``conveyor.avi`` and ``truth.json``; made if missing.
        seed: Random seed of tile positions, light, noise and defects.

    Raises:
        MissingExtraError: scikit-image is not installed.
        DataError: The folder is in use or cannot be written.
    """
    photograph = _photograph()
    data = folder / "data"
    if data.exists():
        raise DataError(f"{data} exists already", "choose another folder, or remove it")
    tile_rng, belt_rng = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    _write_tiles(data / "train" / "good", photograph, TRAINING_STRIPS, TRAINING_TILES, tile_rng)
    _write_tiles(data / "calibration" / "good", photograph, (CALIBRATION_STRIP,), CALIBRATION_TILES, tile_rng)

    video, truth = folder / "conveyor.avi", folder / "truth.json"
    images, masks, frames, defects = _film(photograph, belt_rng)
    _write_video(video, images)
    for entry, image, mask in zip(frames, images, masks, strict=True):
        if entry.label == "boundary":
            continue
        _write_image(data / "test" / entry.label / f"{entry.frame:04d}.png", image)
        if entry.label != "good":
            _write_image(data / "ground_truth" / entry.label / f"{entry.frame:04d}_mask.png", mask)
    truth.write_bytes(to_json({"video": video.name, "fps": FPS, "seed": seed, "defects": defects, "frames": frames}))
    return Conveyor(data, video, truth, frames, defects)


def _photograph() -> Photograph:
    try:
        from skimage import data
    except ImportError as error:
        raise MissingExtraError("scikit-image", "demo", "the demonstration") from error
    return np.asarray(data.brick(), dtype=np.float32)  # type: ignore[no-untyped-call]


def _expose(light: Photograph, rng: np.random.Generator) -> Frame:
    """Simulate the camera: small changes of exposure, and noise."""
    grey = light * rng.uniform(1 - GAIN, 1 + GAIN) + rng.normal(0, NOISE, light.shape)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _write_tiles(
    folder: Path, photograph: Photograph, strips: tuple[tuple[int, int], ...], count: int, rng: np.random.Generator
) -> None:
    for index in range(count):
        left, right = strips[index % len(strips)]
        x, y = rng.integers(left, right - TILE + 1), rng.integers(0, len(photograph) - TILE + 1)
        _write_image(folder / f"{index:04d}.png", _expose(photograph[y : y + TILE, x : x + TILE], rng))


def _film(photograph: Photograph, rng: np.random.Generator) -> tuple[list[Frame], list[Frame], list[BeltFrame], list[str]]:
    """Frames, masks (0 or 255), the content of each frame, and the kind of each defect."""
    kinds = [KINDS[index % len(KINDS)] for index in range(DEFECTS_PER_PASS * PASSES.count("d"))]
    defects: list[str] = [str(kind) for kind in rng.permutation(kinds)]
    images: list[Frame] = []
    masks: list[Frame] = []
    frames: list[BeltFrame] = []
    stops = list(range(0, len(photograph) - TILE + 1, STEP))
    painted = 0
    for number, kind in enumerate(PASSES):
        belt = _clean_belt(photograph, rng)
        if kind == "d":
            _paint_pass(belt, defects, painted, rng)
            painted += DEFECTS_PER_PASS
        for y in stops if number % 2 == 0 else reversed(stops):
            frame = _describe(len(frames), belt, y, defects)
            images.append(_expose(belt.grey[y : y + TILE], rng))
            masks.append(np.where(belt.opacity[y : y + TILE] > VISIBLE, 255, 0).astype(np.uint8))
            frames.append(frame)
    return images, masks, frames, defects


def _clean_belt(photograph: Photograph, rng: np.random.Generator) -> _Belt:
    x = int(rng.integers(VIDEO_STRIP[0], VIDEO_STRIP[1] - TILE + 1))
    grey = photograph[:, x : x + TILE].copy()
    return _Belt(grey, np.zeros_like(grey), np.full(grey.shape, -1, np.int16))


def _paint_pass(belt: _Belt, defects: list[str], first: int, rng: np.random.Generator) -> None:
    """Paint the defects of a pass, each in its own part of the belt, away from the edges and the ends of the belt."""
    top, bottom = TILE + 4, len(belt.grey) - TILE - 4
    length = (bottom - top) // DEFECTS_PER_PASS
    for index in range(DEFECTS_PER_PASS):
        start = top + index * length
        grey, opacity = paint(defects[first + index], belt.grey[start : start + length], rng)
        belt.grey[start : start + length] = grey
        belt.opacity[start : start + length] = opacity
        belt.owner[start : start + length][opacity > VISIBLE] = first + index


def _describe(index: int, belt: _Belt, y: int, defects: list[str]) -> BeltFrame:
    opacity, owner = belt.opacity[y : y + TILE], belt.owner[y : y + TILE]
    pixels = int((opacity > VISIBLE).sum())
    if not opacity.any():
        return BeltFrame(index, "good", None, 0)
    whole = [int(number) for number in np.unique(owner[owner >= 0]) if (owner == number).sum() == (belt.owner == number).sum()]
    if not whole:
        return BeltFrame(index, "boundary", None, pixels)
    largest = max(whole, key=lambda number: int((owner == number).sum()))
    return BeltFrame(index, defects[largest], largest, pixels)


def _write_image(path: Path, image: Frame) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = cv2.imwrite(str(path), image)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror})", "choose another folder") from error
    if not written:
        raise DataError(f"{path} cannot be written", "check the disk's free space and the folder's permissions")


def _write_video(path: Path, images: list[Frame]) -> None:
    """Write grey frames as a lossless video (PNG frames in AVI)."""
    height, width = images[0].shape
    with quiet:  # FFmpeg keeps the log level of its first use in a process
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"png "), FPS, (width, height), isColor=True)
        if not writer.isOpened():
            problem = f"{path} cannot be written: this OpenCV has no PNG video writer"
            raise DataError(problem, "install opencv-python-headless from PyPI, which has one")
        for image in images:
            writer.write(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
        writer.release()
