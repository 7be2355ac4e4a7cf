"""The images a training run uses: all of them decoded and checked before training starts."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch

from lrdan_edge.bundle.bundle import sha256_of
from lrdan_edge.bundle.manifest import BIT_DEPTHS, BitDepth, ModelSpec
from lrdan_edge.data.check import training_notes
from lrdan_edge.data.dataset import good_images
from lrdan_edge.data.images import natural_key, read_pixels
from lrdan_edge.errors import DataError
from lrdan_edge.model.networks import LARGEST, MULTIPLE, SMALLEST
from lrdan_edge.train.cache import CACHE_VARIABLE, Facts, Frames, ImageCache, Layout, is_grey
from lrdan_edge.train.known_defects import KnownDefects, read_known
from lrdan_edge.train.options import TrainOptions

LARGEST_AUTOMATIC, COARSE_MULTIPLE = 256, 16


@dataclass(frozen=True)
class Material:
    """Good images, ready for training.

    Attributes:
        frames: The training images as the networks see them, uint8 [N, C, H, W]: with tiles, several of each file.
        spec: The networks that fit them.
        bit_depth: How many bits of 16-bit images are used.
        training: The training images' paths, relative to the data folder.
        held_out: The held-out images' paths, likewise.
        held_out_groups: How many groups the held-out ones are from, or None where nobody asked for groups.
        fingerprint: Sha256 over all paths and contents.
        notes: What was decided about the images and may surprise, one sentence each.
        known: Labelled defects to learn from too, or None.
    """

    frames: Frames
    spec: ModelSpec
    bit_depth: BitDepth
    training: list[str]
    held_out: list[str]
    held_out_groups: int | None
    fingerprint: str
    notes: list[str]
    known: KnownDefects | None = None


def prepare(data: Path, options: TrainOptions) -> Material:
    """Read, check and fit all good images of `data`; what is in the cache is not decoded again.

    Args:
        data: The data folder.
        options: What was asked for.

    Raises:
        DataError: No images, too few, a broken one, or sizes that differ or are not supported.
    """
    images = good_images(data, options.seed, options.group_by)
    if len(images.training) < 2:
        raise DataError(
            f"{data} has {len(images.training)} training image; at least 2 are needed, and some hundreds are better"
        )
    paths = sorted({*images.training, *images.held_out}, key=natural_key)  # the same whatever the seed holds out
    hashes = _hashes(paths)
    cache = ImageCache(paths, list(hashes.values()))
    facts = cache.facts()
    spec, bit_depth = _settle(facts or _first_facts(paths[0]), paths, options)
    layout = Layout(spec, bit_depth)
    frames, obstacle = (cache.load(layout) if facts else None), None
    while frames is None:
        tried = layout
        filled, facts, obstacle = cache.fill(tried)
        spec, bit_depth = _settle(facts, paths, options)
        layout = Layout(spec, bit_depth)
        if layout == tried:  # else the first image was not like the rest: once more, now that they are known
            frames = filled
    assert facts is not None  # whoever loads or fills a cache knows them
    places = {path: place for place, path in enumerate(paths)}
    chosen = torch.tensor([places[path] for path in images.training])
    chosen = (chosen[:, None] * layout.tiles + torch.arange(layout.tiles)).flatten()
    digest = hashlib.sha256()
    for path in images.training + images.held_out:
        digest.update(f"{path.relative_to(data).as_posix()}\0{hashes[path]}\n".encode())
    return Material(
        frames=Frames(frames, chosen),
        spec=spec,
        bit_depth=bit_depth,
        training=[path.relative_to(data).as_posix() for path in images.training],
        held_out=[path.relative_to(data).as_posix() for path in images.held_out],
        held_out_groups=images.held_out_groups,
        fingerprint=digest.hexdigest(),
        notes=[
            *training_notes(data, images),
            *_notes(facts, spec, bit_depth, options),
            *_memory_note(obstacle),
        ],
        known=read_known(options.known_defects, spec, bit_depth) if options.known_defects else None,
    )


def _hashes(paths: list[Path]) -> dict[Path, str]:
    """Sha256 of each file's contents.

    Raises:
        DataError: A file cannot be read.
    """
    try:
        with ThreadPoolExecutor(4, "hash") as pool:
            return dict(zip(paths, pool.map(sha256_of, paths), strict=True))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror})") from error


def _first_facts(path: Path) -> Facts:
    """The guess that all images are like the first one: usually right, and then each is decoded once."""
    pixels = read_pixels(path)
    deep = pixels.dtype == np.uint16
    height, width = pixels.shape[:2]
    return Facts([(height, width, 0)], is_grey(pixels), int(deep), int(pixels.max()) if deep else 0, {})


def _settle(facts: Facts, paths: list[Path], options: TrainOptions) -> tuple[ModelSpec, BitDepth]:
    """The networks and the bit depth for images like these.

    Raises:
        DataError: Sizes differ, or are not supported.
    """
    view = options.view
    same_size = options.image_size is None if view.is_default else view.frame_size is None
    if same_size and len(facts.sizes) > 1:
        shown = ", ".join(f"{_text((height, width))} {paths[index].name}" for height, width, index in facts.sizes[:3])
        more = ", …" if len(facts.sizes) > 3 else ""
        raise DataError(f"images differ in size ({shown}{more}): give {view.mend} to resize them all")
    size = view.frame_size or facts.sizes[0][:2]
    wanted = options.image_size or view.image_size(size) or automatic_size(*view.region_size(size))
    channels: Literal[1, 3] = options.channels or (1 if facts.grey else 3)
    spec = options.spec_for(*wanted, channels)
    spec = msgspec.structs.replace(spec, geometry=view.geometry(size, wanted))
    needed = next(depth for depth in BIT_DEPTHS if facts.peak < 1 << depth) if facts.deep else 16
    return spec, options.bit_depth or needed


def _notes(facts: Facts, spec: ModelSpec, bit_depth: int, options: TrainOptions) -> list[str]:
    notes = []
    size = facts.sizes[0][:2]
    if spec.geometry:
        notes.append(f"the networks see {spec.geometry.describe(spec.height, spec.width)}")
    elif options.image_size is None and size != spec.frame_shape[:2]:
        notes.append(
            f"images of {_text(size)} are scaled to {_text((spec.height, spec.width))} (choose another with --image-size)"
        )
    if facts.deep and options.bit_depth is None:
        notes.append(
            f"{bit_depth} bits of the 16-bit images are used, since their largest value is {facts.peak} "
            "(choose another with --bit-depth)"
        )
    return notes


def _memory_note(obstacle: str | None) -> list[str]:
    if obstacle is None:
        return []
    return [f"decoded images are held in memory: {obstacle}; set {CACHE_VARIABLE} to a folder that can be"]


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


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
