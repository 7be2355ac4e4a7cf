"""Supported dataset layouts: a plain folder of good images, or the layout of MVTec AD and anomalib (others: `lrdan_edge.data.layout`).

DATA/train/good           good images for training
DATA/calibration/good     optional: good images for the threshold; without it, a fraction of train/good is held out, by image
                          or by part (see `lrdan_edge.data.grouping`)
DATA/test/good            good images for evaluation
DATA/test/<defect>        defective images, one folder per kind
DATA/ground_truth/<defect>  optional: masks, named like the image or with a usual ending such as ``_mask``
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.files import is_path
from lrdan_edge.bundle.journal import MANIFEST, require_inside
from lrdan_edge.data.grouping import AUTO, NONE, fold_numbers, group_names, numbered
from lrdan_edge.data.layout import good_part, tested_part
from lrdan_edge.data.scan import Scan
from lrdan_edge.errors import BundleError, DataError

HELD_OUT_FRACTION = 0.2
FOLDS = round(1 / HELD_OUT_FRACTION)
"""Folds of cross-fitting: the held-out images are one, and the training images make the others."""

LEAST_GROUPS = 3  # held out by ``auto``; fewer say less about new parts than images of all parts do


@dataclass(frozen=True)
class GoodImages:
    """Good images, split: `training` trains the networks, `held_out` only sets the threshold.

    Attributes:
        training: Training images.
        held_out: Held-out images.
        groups: The group number of each held-out image; no training image belongs to these groups. None if images were held out
            whatever their group, or it is not known.
        by_image: Why ``auto`` held out images whatever their group, as the end of a sentence; otherwise None.
        group_by: What told the groups: ``auto`` or a regular expression; None without `groups`.
        grouped: Whether the groups changed which images are held out.
        drawn: Whether the held-out images were drawn at random from the same images, not given by a folder.
        training_groups: The group number of each training image, none of which is in `groups`; None as `groups`, or if not `drawn`.
    """

    training: list[Path]
    held_out: list[Path]
    groups: list[int] | None = None
    by_image: str | None = None
    group_by: str | None = None
    grouped: bool = False
    drawn: bool = False
    training_groups: list[int] | None = None

    @property
    def held_out_groups(self) -> int | None:
        """Number of groups among the held-out images, or None without grouping."""
        return None if self.groups is None else len(set(self.groups))


@dataclass(frozen=True)
class LabelledImage:
    """One test image.

    Attributes:
        path: The image.
        kind: ``good``, or the defect's name (its folder).
        mask: The defect's mask (non-zero where defective), or None.
    """

    path: Path
    kind: str
    mask: Path | None

    @property
    def defective(self) -> bool:
        """Whether the image shows a defect."""
        return self.kind != "good"


def good_images(data: Path, seed: int = 0, group_by: str | None = None, scan: Scan | None = None) -> GoodImages:
    """Split the good images of `data` into training and held-out images.

    ``calibration/good`` is held out if it exists. Otherwise a random `HELD_OUT_FRACTION` of the training images is held out; with
    `group_by`, whole groups are. ``auto`` never fails where images could be held out one by one: that is what it does if the groups
    are too few or too large, and `GoodImages.by_image` says why. Where every image is a group of its own, the same images are held
    out with and without ``auto``.

    Args:
        data: A folder in one of the layouts above.
        seed: Random seed of the split.
        group_by: ``auto`` or a regular expression (see `lrdan_edge.data.grouping.group_names`); ``none`` or None for no groups.
        scan: Scans the images that `group_by` needs.

    Raises:
        DataError: There are no images, or too few to hold any out. With a regular expression also: there is only one group, or a
            group is on both sides.
    """
    training, held_out = good_folders(data)
    if not held_out and len(training) < 5:
        raise DataError(f"{data} holds {len(training)} images; at least 5 are needed, and some hundreds are better")
    names = group_names([*training, *held_out], data, group_by, scan or Scan()) if group_by not in (None, NONE) else None
    if held_out:
        return _given(data, training, held_out, names, group_by)
    rng = np.random.default_rng(seed)
    count = max(1, round(HELD_OUT_FRACTION * len(training)))
    by_image = None
    if names is None or len(set(names)) == len(names):
        kept = set(rng.permutation(len(training))[:count].tolist())
    elif group_by == AUTO:
        kept, by_image = _draw_safely(names, count, seed)
    else:
        kept = _draw_groups(data, names, count, rng)
    order = sorted(kept)
    rest = [index for index in range(len(training)) if index not in kept]
    numbers = numbered([names[index] for index in order + rest]) if names and not by_image else None
    return GoodImages(
        training=[training[index] for index in rest],
        held_out=[training[index] for index in order],
        groups=numbers and numbers[: len(order)],
        by_image=by_image,
        group_by=group_by if names and not by_image else None,
        grouped=names is not None and not by_image and len(set(names)) < len(names),
        drawn=True,
        training_groups=numbers and numbers[len(order) :],
    )


def training_folds(images: GoodImages, seed: int = 0) -> list[int] | None:
    """The fold of each training image for cross-fitting, 1 to `FOLDS` - 1, whole groups each; the held-out images are fold 0.

    Args:
        images: The split.
        seed: Random seed of the folds.

    Returns:
        None if the held-out images were not drawn like the folds, or if the training images have too few groups.
    """
    units = images.training_groups or list(range(len(images.training)))
    if not images.drawn or len(set(units)) < FOLDS - 1:
        return None
    return [fold + 1 for fold in fold_numbers(units, FOLDS - 1, seed)]


def _given(data: Path, training: list[Path], held_out: list[Path], names: list[str] | None, group_by: str | None) -> GoodImages:
    """The split that the folders give; `names` are the groups of all images, training images first."""
    if names is None:
        return GoodImages(training, held_out)
    before, own = set(names[: len(training)]), names[len(training) :]
    if both := sorted(before & set(own)):
        shared = f"{len(both)} of the {len(set(own))} groups in {data / 'calibration' / 'good'} are in train/good too"
        if group_by != AUTO:
            raise DataError(f"{shared} ({both[0]})", "move each group to one side")
        return GoodImages(training, held_out, by_image=shared)
    return GoodImages(training, held_out, numbered(own), group_by=group_by)


def _draw_safely(names: list[str], count: int, seed: int) -> tuple[set[int], str | None]:
    """Indices of whole groups with at least `count` images, or of `count` single images and the reason."""
    groups = len(set(names))
    kept = set[int]() if groups < 2 else _draw_whole(names, count, np.random.default_rng(seed))
    if len(kept) >= count and len({names[index] for index in kept}) >= min(LEAST_GROUPS, count):
        return kept, None
    single = set(np.random.default_rng(seed).permutation(len(names))[:count].tolist())
    many = f"{groups} group" if groups == 1 else f"{groups} groups, too few or too large to hold some out"
    return single, f"the {len(names)} good images are near-copies of each other in {many}"


def good_folders(data: Path) -> tuple[list[Path], list[Path]]:
    """The images of ``train/good`` (or of a plain folder) and of ``calibration/good`` (empty if it does not exist).

    Raises:
        DataError: There are no images, or the layout is not supported.
    """
    found = good_part(data)
    return found.training, found.held_out


def _draw_groups(data: Path, names: list[str], count: int, rng: np.random.Generator) -> set[int]:
    """Indices of about `count` images: whole groups in random order, skipping groups that are far too large."""
    if len(set(names)) < 2:
        raise DataError(
            f"all {len(names)} good images of {data} are one group ({names[0]!r}); holding out whole groups takes at least two",
            "check {group_by}",
        )
    counts = Counter(names)
    smallest = min(counts, key=lambda name: counts[name])
    return _draw_whole(names, count, rng) or {place for place, name in enumerate(names) if name == smallest}


def _draw_whole(names: list[str], count: int, rng: np.random.Generator) -> set[int]:
    """As `_draw_groups`; empty if all groups are far too large."""
    members: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        members.setdefault(name, []).append(place)
    most = count + max(1, count // 4)
    kept: set[int] = set()
    for name in rng.permutation(list(members)).tolist():
        if len(kept) < count and len(kept) + len(members[name]) <= most:
            kept |= set(members[name])
    return kept


def test_images(data: Path) -> list[LabelledImage]:
    """The labelled test images of `data` (``test/<kind>``), in natural order.

    Raises:
        DataError: There is no ``test`` folder, or it has no good or no defective image.
    """
    part = tested_part(data)
    images = [LabelledImage(path, kind, part.masks.get(path)) for kind, paths in sorted(part.kinds.items()) for path in paths]
    for wanted, name in ((False, "test/good"), (True, "test/<defect>")):
        if not any(image.defective is wanted for image in images):
            raise DataError(f"{data} has no image in {name}: evaluation compares good and defective parts")
    return images


def recorded_images(bundle: Bundle, part: Literal["training", "held_out"]) -> list[Path]:
    """Paths of the training or held-out images as recorded by the train stage; the files may be missing.

    Raises:
        MissingStageError: The bundle is not trained.
        BundleError: The record is not one that `train` writes: the images are below the folder that it names.
    """
    folder = recorded_folder(bundle)
    names: list[str] = bundle.recorded("train", part, list[str])
    require_inside(bundle.path / MANIFEST, names)
    paths = [folder / name for name in names]
    if not all(is_path(str(path)) for path in paths):
        raise _no_record(bundle)
    return paths


def recorded_folder(bundle: Bundle) -> Path:
    """The folder of images that the bundle was trained on; it may be missing. Raises as `recorded_images`."""
    folder: str = bundle.recorded("train", "data", str)
    if not is_path(folder):
        raise _no_record(bundle)
    return Path(folder)


def _no_record(bundle: Bundle) -> BundleError:
    return BundleError(f"{bundle.path / MANIFEST} has no valid record of the training images", "restore it from a copy")
