"""Find, read and decode images, and resize them for the networks.

Training, calibration, evaluation and the runtime all use `fit_frame`, so they all see the same pixels.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.spec import BIT_DEPTHS, BitDepth, ModelSpec
from lrdan_edge.bundle.view import RegionFractions, fractions_to_pixels
from lrdan_edge.data.form import Form
from lrdan_edge.data.image_size import MOST_PIXELS, image_size
from lrdan_edge.data.jpeg import end_of_jpeg
from lrdan_edge.data.listing import SUFFIXES, Listing
from lrdan_edge.data.native_noise import native_noise
from lrdan_edge.data.orientation import is_tiff, orientation_of, turned
from lrdan_edge.errors import DataError

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""An image as stored in its file: [H, W] or [H, W, 3] (BGR)."""

Frame = npt.NDArray[np.uint8]
"""One image: uint8, shape [H, W] (grey), [H, W, 1], [H, W, 3] (BGR) or [H, W, 4] (BGRA)."""

Pixel = TypeVar("Pixel", bound=np.generic)

MOST_BYTES = 1 << 30
"""Most bytes of an image file that is read."""


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sort key that puts ``tile_2`` before ``tile_10`` on every machine."""
    parts = re.split(r"(\d+)", path.as_posix())
    return [(int(part), "") if part.isdigit() and part.isascii() else (-1, part.lower()) for part in parts]


def list_images(folder: Path) -> list[Path]:
    """Image files below `folder`, in natural order; see `lrdan_edge.data.listing` for what is skipped.

    Raises:
        DataError: The folder does not exist, cannot be read, or has no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give a folder of images ({', '.join(sorted(SUFFIXES))})")
    try:
        paths = Listing.of(folder).images
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror})", "check its permissions") from error
    if not paths:
        raise DataError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))}): check the path")
    return sorted(paths, key=natural_key)


def read_pixels(path: Path) -> Pixels:
    """Decode an image file without scaling: uint8 or uint16, [H, W] or [H, W, 3] (BGR), upright (EXIF); alpha is dropped.

    Raises:
        DataError: The file cannot be read, is not a complete image, or has pixels of another type.
    """
    return decode_pixels(read_bytes(path), str(path))


def read_bytes(path: Path) -> npt.NDArray[np.uint8]:
    """Read all bytes of a regular file, uint8 [N]; raises DataError if it cannot be read, or is larger than any image."""
    try:  # what is opened is checked: a FIFO that was put in the file's place meanwhile would never end
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            if found.st_size <= MOST_BYTES:
                return np.fromfile(file, np.uint8, found.st_size)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    raise DataError(f"{path} has {found.st_size} bytes, at most {MOST_BYTES} are read", "remove it")


def decode_image(data: bytes, name: str, bit_depth: int = 16) -> Frame:
    """Decode an image file's bytes: uint8, [H, W] or [H, W, 3] (BGR), upright; 16-bit is scaled to 8, alpha dropped.

    Args:
        data: The bytes of the whole file.
        name: The file's name in messages.
        bit_depth: See `to_eight_bits`.

    Raises:
        DataError: It is not a complete image, or has pixels of another type.
    """
    return decode_with_form(np.frombuffer(data, np.uint8), name, bit_depth)[0]


def decode_with_form(data: npt.NDArray[np.uint8], name: str, bit_depth: int = 16) -> tuple[Frame, Form]:
    """As `decode_image`, from uint8 [N], and how the image was stored."""
    pixels = decode_pixels(data, name)
    return to_eight_bits(pixels, bit_depth), Form.of(pixels, orientation_of(data.data))


def decode_pixels(data: npt.NDArray[np.uint8], name: str) -> Pixels:
    """As `read_pixels`, from a file's bytes, uint8 [N], called `name` in messages."""
    size = image_size(data.data)
    if size and size[0] * size[1] > MOST_PIXELS:  # before decoding: the pixels may not fit into the memory
        raise DataError(
            f"{name} has {size[0]}x{size[1]} pixels, at most {MOST_PIXELS // 10**6} million are decoded", "crop or shrink it"
        )
    if size is None:
        raise DataError(f"{name} is not a complete image ({data.size} bytes)", "replace or remove it")
    try:
        with native_noise:
            image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # a damaged header, such as one of 65312x65312 pixels
        raise DataError(f"{name} is not a complete image ({error.err})", "replace or remove it") from error
    if image is None or _truncated(data):
        raise DataError(f"{name} is not a complete image ({data.size} bytes)", "replace or remove it")
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{name} has {image.dtype} pixels; 8 or 16 bits per channel are supported", "convert it")
    if image.ndim == 3 and image.shape[2] not in (1, 3, 4):
        raise DataError(f"{name} has {image.shape[2]} channels per pixel; 1, 3 or 4 are supported", "convert it")
    if image.ndim == 3 and image.shape[2] == 4:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
    if not is_tiff(data.data):  # which OpenCV has turned
        image = turned(image, orientation_of(data.data))
    return np.asarray(image, np.uint8) if image.dtype == np.uint8 else np.asarray(image, np.uint16)


def to_eight_bits(image: Pixels, bit_depth: int) -> Frame:
    """Scale 16-bit pixels to 8 bits; 8-bit pixels are not changed.

    Many cameras put 10, 12 or 14 bits into 16. Scaled by the full 16-bit range, such images would keep 2, 4 or 6 bits.

    Args:
        image: uint8 or uint16, any shape.
        bit_depth: Number of bits used in a 16-bit pixel (see `Preprocessing.bit_depth`). 2^bit_depth − 1 and larger values
            become 255.

    Returns:
        uint8, the same shape.

    Raises:
        DataError: The pixels are of another type.
    """
    if image.dtype == np.uint8:
        return np.asarray(image, dtype=np.uint8)
    if image.dtype != np.uint16:
        raise DataError(f"a frame of {image.dtype} pixels cannot be judged: give uint8, or uint16")
    scaled = cv2.convertScaleAbs(image, alpha=255 / (2**bit_depth - 1))
    return np.asarray(scaled, dtype=np.uint8).reshape(image.shape)


def bits_used(image: Pixels) -> BitDepth:
    """The smallest camera bit depth that holds the pixels of one image: 8, 10, 12, 14 or 16."""
    return next(depth for depth in BIT_DEPTHS if image.max() < 1 << depth)


def read_image(path: Path, bit_depth: int = 16) -> Frame:
    """Decode an image file: uint8, [H, W] or [H, W, 3] (BGR), upright; 16-bit is scaled to 8, alpha dropped.

    Args:
        path: The file.
        bit_depth: See `to_eight_bits`.

    Raises:
        DataError: As `read_pixels`.
    """
    return read_with_form(path, bit_depth)[0]


def read_with_form(path: Path, bit_depth: int = 16) -> tuple[Frame, Form]:
    """As `read_image`, and how the image was stored."""
    return decode_with_form(read_bytes(path), str(path), bit_depth)


def read_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Read a defect's mask, bool [H, W]: true where the image is not black.

    Raises:
        DataError: As `read_pixels`.
    """
    image = read_pixels(path)
    return np.asarray(image.any(axis=2) if image.ndim == 3 else image > 0)


def _truncated(data: npt.NDArray[np.uint8]) -> bool:
    """Whether the file ends before its end marker; OpenCV silently fills the missing part with grey."""
    begin = data[:4].tobytes()
    if begin.startswith(b"\xff\xd8"):  # JPEG
        return end_of_jpeg(data.tobytes()) is None
    if begin == b"\x89PNG":
        return b"IEND" not in data[-64:].tobytes()
    return False


def fit_frame(frame: Frame, shape: tuple[int, int, int]) -> Frame:
    """Convert a frame's colour, then resize it to the deploy graph's input (by averaging areas, so no pixel is skipped).

    Args:
        frame: uint8, [h, w], [h, w, 1], [h, w, 3] (BGR) or [h, w, 4] (BGRA).
        shape: (H, W, C), C 1 or 3.

    Returns:
        uint8 [H, W, C], C-contiguous; the frame itself if it already has this form.

    Raises:
        DataError: The frame has another dtype or shape.
    """
    if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or frame.size == 0:
        raise DataError(f"a frame must be uint8 [H, W] or [H, W, C], got {frame.dtype} {list(frame.shape)}")
    if frame.shape == shape:
        return np.ascontiguousarray(frame)
    height, width, channels = shape
    source = frame.shape[2] if frame.ndim == 3 else 1
    conversions = {
        (3, 1): cv2.COLOR_BGR2GRAY,
        (4, 1): cv2.COLOR_BGRA2GRAY,
        (1, 3): cv2.COLOR_GRAY2BGR,
        (4, 3): cv2.COLOR_BGRA2BGR,
    }
    if source not in (1, 3, 4):
        raise DataError(f"a frame must have 1, 3 or 4 channels, got {source}")
    image: Frame = frame
    try:
        if source != channels:
            image = np.asarray(cv2.cvtColor(image, conversions[source, channels]), dtype=np.uint8)
        if image.shape[:2] != (height, width):
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    except cv2.error as error:
        raise DataError(f"a frame of {list(frame.shape)} cannot be resized to {list(shape)} ({error.err})") from error
    return np.ascontiguousarray(image.reshape(shape))


def region_of(frame: Frame, spec: ModelSpec) -> Frame:
    """The region of a frame, resized as in the deploy graph: uint8 [h, w, C] of ``spec.heatmap_shape``.

    Args:
        frame: uint8 [H, W, C] of ``spec.frame_shape``.
        spec: The networks and their geometry.
    """
    if spec.geometry is None:
        return frame
    left, top, width, height = spec.geometry.region
    return fit_frame(frame[top : top + height, left : left + width], (*spec.heatmap_shape, int(spec.channels)))


def cut_frame(frame: Frame, spec: ModelSpec) -> Frame:
    """Make the networks' images from a frame as the deploy graph does: crop, resize and tile.

    Args:
        frame: uint8 [H, W, C] of ``spec.frame_shape``.
        spec: The networks and their geometry.

    Returns:
        uint8 [T, h, w, C], tiles row by row; T is 1 without tiles.
    """
    return tiles_of(region_of(frame, spec), spec)


def tiles_of(canvas: npt.NDArray[Pixel], spec: ModelSpec) -> npt.NDArray[Pixel]:
    """The tiles [T, h, w, ...], row by row, of an image [H, W, ...] of ``spec.heatmap_shape``."""
    corners = [(row, column) for row in spec.tile_rows for column in spec.tile_columns]
    return np.stack([canvas[row : row + spec.height, column : column + spec.width] for row, column in corners])


def crop_region(image: npt.NDArray[Pixel], fractions: RegionFractions | None) -> npt.NDArray[Pixel]:
    """Crop an image of the frame (any size, [H, W] or [H, W, C]) to the heatmap's region; returns a view."""
    if fractions is None:
        return image
    left, top, width, height = fractions_to_pixels(fractions, *image.shape[:2])
    return image[top : top + height, left : left + width]


def load_frames(paths: Iterable[Path], shape: tuple[int, int, int], bit_depth: int = 16) -> Frame:
    """Read images (as `read_image`) and convert them by `fit_frame`: uint8 [N, H, W, C]."""
    return np.stack([fit_frame(read_image(path, bit_depth), shape) for path in paths])


def batches(paths: list[Path], shape: tuple[int, int, int], size: int, bit_depth: int = 16) -> Iterator[Frame]:
    """Like `load_frames`, in batches of at most `size` to limit memory."""
    for start in range(0, len(paths), size):
        yield load_frames(paths[start : start + size], shape, bit_depth)
