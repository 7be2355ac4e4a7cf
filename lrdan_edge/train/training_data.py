"""The images of a training run, all decoded and checked before training starts."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lrdan_edge.bundle.image_kinds import ImageKinds
from lrdan_edge.bundle.spec import BIT_DEPTHS, BitDepth, ModelSpec
from lrdan_edge.data.check import training_notes
from lrdan_edge.data.dataset import GoodImages, good_folders, good_images, training_folds
from lrdan_edge.data.grouping import AUTO, NONE
from lrdan_edge.data.images import natural_key
from lrdan_edge.data.listing import listing_notes
from lrdan_edge.data.mask_check import mask_notes
from lrdan_edge.data.scan import Scan, ScannedImage, kinds_of
from lrdan_edge.errors import DataError
from lrdan_edge.train.closing_check import MOST_IMAGES
from lrdan_edge.train.known_defects import KnownDefects, known_images, read_known
from lrdan_edge.train.network_images import NetworkImages, spec_of
from lrdan_edge.train.options import TrainOptions
from lrdan_edge.train.recipes import DEFAULT_RECIPE


@dataclass(frozen=True)
class CrossFolds:
    """The good images for cross-fitting, training images first.

    Attributes:
        frames: As `TrainingData.frames`, with the held-out images.
        folds: The fold of each file, from 0; the held-out images are fold 0.
        groups: The group of each file, none of which is in two folds; None if unknown.
    """

    frames: Tensor
    folds: list[int]
    groups: list[int] | None


@dataclass(frozen=True)
class TrainingData:
    """Good images, ready for training.

    Attributes:
        frames: The networks' training images, uint8 [N, C, H, W]; with tiles, several per file.
        spec: The networks' specification.
        bit_depth: Number of bits used in 16-bit images.
        training: The training images' paths, relative to the data folder.
        held_out: The held-out images' paths, likewise.
        groups: See `lrdan_edge.data.dataset.GoodImages.groups`.
        group_by: The option ``group_by``; None if it is ``auto`` or ``none`` and changed nothing about the split.
        fingerprint: Sha256 over all paths and contents.
        notes: Warnings and automatic choices, one sentence each.
        known: Labelled defects to train on too, or None.
        checked: Up to `lrdan_edge.train.closing_check.MOST_IMAGES` of the held-out images, like `frames`.
        kinds: What all good images looked like.
        cross: The images for cross-fitting, if the recipe is cross-fitted and the images allow it.
    """

    frames: Tensor
    spec: ModelSpec
    bit_depth: BitDepth
    training: list[str]
    held_out: list[str]
    groups: list[int] | None
    group_by: str | None
    fingerprint: str
    notes: list[str]
    checked: Tensor
    kinds: ImageKinds
    known: KnownDefects | None = None
    cross: CrossFolds | None = None


def load_training_data(data: Path, options: TrainOptions) -> TrainingData:
    """Read, check and resize all good images of `data`; each file is read and decoded once.

    Args:
        data: The data folder.
        options: The options of the run.

    Raises:
        DataError: There are no or too few images, one is broken, or their sizes differ or are not supported.
    """
    paths = [path for folder in good_folders(data) for path in folder]
    network_images = NetworkImages(paths, options)
    scan = Scan(network_images.add)
    images = good_images(data, options.seed, options.group_by, scan)
    if len(images.training) < 2:
        raise DataError(
            f"{data} has {len(images.training)} training image; at least 2 are needed, and some hundreds are better"
        )
    scan.require(paths)
    scanned = {path: scan.images[path] for path in sorted(paths, key=natural_key)}
    spec, bit_depth = _settle(scanned, options)
    digest = hashlib.sha256()
    for path in images.training + images.held_out:
        digest.update(f"{path.relative_to(data).as_posix()}\0{scanned[path].sha256}\n".encode())
    folds, cross_notes = _folds(images, spec, options)
    places = np.linspace(0, len(images.held_out) - 1, min(MOST_IMAGES, len(images.held_out))).astype(int).tolist()
    held_out = images.held_out if folds else [images.held_out[place] for place in places]
    taken = [*images.training, *held_out]
    frames = network_images.take(taken, spec.channels, bit_depth)
    tiles = len(frames) // len(taken)
    last = frames[tiles * len(images.training) :]
    return TrainingData(
        frames=frames[: tiles * len(images.training)],
        spec=spec,
        bit_depth=bit_depth,
        training=[path.relative_to(data).as_posix() for path in images.training],
        held_out=[path.relative_to(data).as_posix() for path in images.held_out],
        groups=images.groups,
        group_by=options.group_by if images.grouped or options.group_by not in (AUTO, NONE) else None,
        fingerprint=digest.hexdigest(),
        notes=[
            *training_notes(data, images, scan),
            *_known_notes(options),
            *_notes(scanned, spec, bit_depth, options),
            *cross_notes,
        ],
        checked=torch.cat([last[tiles * place : tiles * (place + 1)] for place in places]) if folds else last,
        kinds=kinds_of(list(scanned.values()), depth_known=options.bit_depth is not None),
        known=read_known(options.known_defects, spec, bit_depth) if options.known_defects else None,
        cross=CrossFolds(frames, folds, images.groups and [*(images.training_groups or []), *images.groups]) if folds else None,
    )


def _known_notes(options: TrainOptions) -> list[str]:
    """Notes about the folder of known defects and its masks."""
    if options.known_defects is None:
        return []
    images = known_images(options.known_defects)
    masks = {image.path: image.mask for image in images if image.mask}
    return listing_notes(options.known_defects) + mask_notes(masks, [image.path for image in images], {})


def _folds(images: GoodImages, spec: ModelSpec, options: TrainOptions) -> tuple[list[int] | None, list[str]]:
    """The folds for `CrossFolds`, or None; and notes."""
    if not options.for_images(spec.height, spec.width).resolved_recipe().cross_fits:
        return None, []
    own = training_folds(images, options.seed)
    if own is None:
        reason = (
            "show too few parts to be cross-fitted" if images.drawn else "do not set the threshold, since calibration/good does"
        )
        return None, [f"the training images {reason}"]
    return own + [0] * len(images.held_out), []


def _settle(scanned: dict[Path, ScannedImage], options: TrainOptions) -> tuple[ModelSpec, BitDepth]:
    """Choose the networks and the bit depth for these images, which must not differ in size."""
    view = options.view
    examples: dict[tuple[int, int], Path] = {}
    for path, image in scanned.items():
        examples.setdefault(image.size, path)
    if len(examples) > 1 and (options.image_size if view.is_default else view.frame_size) is None:
        shown = ", ".join(f"{_text(size)} {path.name}" for size, path in list(examples.items())[:3])
        raise DataError(
            f"images differ in size ({shown}{', …' if len(examples) > 3 else ''})",
            "give {image_size} to resize them all" if view.is_default else "give {frame_size} to resize them all",
        )
    channels = options.channels or (1 if all(image.grey for image in scanned.values()) else 3)
    largest = _largest(scanned)
    needed = BIT_DEPTHS[-1] if largest is None else next(depth for depth in BIT_DEPTHS if largest < 1 << depth)
    return spec_of(next(iter(examples)), channels, options), options.bit_depth or needed


def _largest(scanned: dict[Path, ScannedImage]) -> int | None:
    """The largest value of all 16-bit images, or None if there are none."""
    return max((image.largest for image in scanned.values() if image.bytes_per_channel > 1), default=None)


def _notes(scanned: dict[Path, ScannedImage], spec: ModelSpec, bit_depth: int, options: TrainOptions) -> list[str]:
    notes = []
    size, largest = next(iter(scanned.values())).size, _largest(scanned)
    if spec.geometry:
        notes.append(f"the networks see {spec.geometry.describe(spec.height, spec.width)}")
    elif options.image_size is None and size != spec.frame_shape[:2]:
        notes.append(f"images of {_text(size)} are scaled to {_text((spec.height, spec.width))} (you can set the image size)")
    if options.recipe is None and spec.recipe != DEFAULT_RECIPE:
        notes.append(
            f"images of {_text((spec.height, spec.width))} show one small object: the recipe is {spec.recipe} (you can set the recipe)"
        )
    if largest is not None and options.bit_depth is None:
        notes.append(
            f"{bit_depth} bits of the 16-bit images are used, since their largest value is {largest} (you can set the bit depth)"
        )
    return notes


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
