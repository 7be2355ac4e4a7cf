"""The images a training run uses: checked before training starts, then held in memory as uint8."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from lrdan_edge.bundle import sha256_of
from lrdan_edge.dataset import good_images
from lrdan_edge.errors import DataError
from lrdan_edge.images import Frame, cut_frame, fit_frame, read_image
from lrdan_edge.manifest import ModelSpec
from lrdan_edge.train.networks import LARGEST, MULTIPLE, SMALLEST, spec_for
from lrdan_edge.train.options import TrainOptions

LARGEST_AUTOMATIC, COARSE_MULTIPLE = 256, 16


@dataclass(frozen=True)
class Material:
    """Good images, ready for training.

    Attributes:
        frames: The training images, uint8 [N, C, H, W].
        spec: The networks that fit them.
        training: The training images' paths, relative to the data folder.
        held_out: The held-out images' paths, likewise.
        fingerprint: Sha256 over all paths and contents.
        notes: What was decided about the images and may surprise, one sentence each.
    """

    frames: Tensor
    spec: ModelSpec
    training: list[str]
    held_out: list[str]
    fingerprint: str
    notes: list[str]


def prepare(data: Path, options: TrainOptions) -> Material:
    """Read, check and fit all good images of `data`.

    Raises:
        DataError: No images, too few, a broken one, or sizes that differ or are not supported.
    """
    images = good_images(data, options.seed)
    if len(images.training) < 2:
        raise DataError(
            f"{data} has {len(images.training)} training image; at least 2 are needed, and some hundreds are better"
        )
    same_size = options.image_size is None if options.view.is_default else options.view.frame_size is None
    size, grey = _survey(images.training + images.held_out, same_size=same_size, mend=options.view.mend)
    size = options.view.frame_size or size
    wanted = options.image_size or options.view.image_size(size) or automatic_size(*options.view.region_size(size))
    channels: Literal[1, 3] = options.channels or (1 if grey else 3)
    spec = spec_for(*wanted, channels, decoder=options.decoder, recipe=options.recipe)
    spec = msgspec.structs.replace(spec, geometry=options.view.geometry(size, wanted))
    notes = []
    if spec.geometry is None and options.image_size is None and wanted != size:
        notes.append(f"images of {_text(size)} are scaled to {_text(wanted)} (choose another with --image-size)")
    if spec.geometry:
        notes.append(f"the networks see {spec.geometry.describe(spec.height, spec.width)}")
    frames = [cut_frame(fit_frame(read_image(path), spec.frame_shape), spec) for path in images.training]
    return Material(
        frames=torch.from_numpy(np.ascontiguousarray(np.concatenate(frames).transpose(0, 3, 1, 2))),
        spec=spec,
        training=[path.relative_to(data).as_posix() for path in images.training],
        held_out=[path.relative_to(data).as_posix() for path in images.held_out],
        fingerprint=_fingerprint(data, images.training + images.held_out),
        notes=notes,
    )


def automatic_size(height: int, width: int) -> tuple[int, int]:
    """The networks' (height, width) for images of this size, if the user names none.

    Up to 256 pixels the size stays, rounded to a multiple of 4; larger images are scaled until their longer side is 256,
    and the other side is rounded to a multiple of 16.

    Raises:
        DataError: A side would be smaller than the networks take.
    """
    longest = max(height, width)
    multiple = MULTIPLE if longest <= LARGEST_AUTOMATIC else COARSE_MULTIPLE
    factor = min(1.0, LARGEST_AUTOMATIC / longest)
    rows, columns = (round(side * factor / multiple) * multiple for side in (height, width))
    if min(rows, columns) < SMALLEST:
        raise DataError(
            f"images of {_text((height, width))} are too small or too narrow to scale by themselves: "
            f"give --image-size with both sides from {SMALLEST} to {LARGEST}"
        )
    return rows, columns


def _survey(paths: list[Path], *, same_size: bool, mend: str) -> tuple[tuple[int, int], bool]:
    """Decode every image once: their (height, width) and whether all are grey."""
    sizes: dict[tuple[int, int], Path] = {}
    grey = True
    for path in paths:
        image = read_image(path)
        sizes.setdefault((image.shape[0], image.shape[1]), path)
        grey = grey and _is_grey(image)
    if same_size and len(sizes) > 1:
        shown = ", ".join(f"{_text(size)} {path.name}" for size, path in list(sizes.items())[:3])
        more = ", …" if len(sizes) > 3 else ""
        raise DataError(f"images differ in size ({shown}{more}): give {mend} to resize them all")
    return next(iter(sizes)), grey


def _is_grey(image: Frame) -> bool:
    return image.ndim == 2 or bool((image == image[:, :, :1]).all())


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _fingerprint(data: Path, paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(data).as_posix()}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()
