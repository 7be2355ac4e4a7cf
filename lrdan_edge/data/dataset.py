"""Supported dataset layouts: a plain folder of good images, or the layout of MVTec AD and anomalib.

DATA/train/good           good images for training
DATA/calibration/good     optional: good images for the threshold; without it, a fraction of train/good is held out, by image
                          or by part (see `lrdan_edge.data.grouping`)
DATA/test/good            good images for evaluation
DATA/test/<defect>        defective images, one folder per kind
DATA/ground_truth/<defect>  optional: masks, named like the image or with ``_mask`` appended
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.data.grouping import group_names
from lrdan_edge.data.images import list_images
from lrdan_edge.data.scan import Scan
from lrdan_edge.errors import DataError

HELD_OUT_FRACTION = 0.2


@dataclass(frozen=True)
class GoodImages:
    """Good images, split: `training` trains the networks, `held_out` only sets the threshold.

    Attributes:
        training: Training images.
        held_out: Held-out images.
        held_out_groups: Number of groups among the held-out images, or None without grouping.
    """

    training: list[Path]
    held_out: list[Path]
    held_out_groups: int | None = None


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
    `group_by`, whole groups are.

    Args:
        data: A folder in one of the layouts above.
        seed: Random seed of the split.
        group_by: ``auto`` or a regular expression; see `lrdan_edge.data.grouping.group_names`.
        scan: Scans the images that `group_by` needs.

    Raises:
        DataError: There are no images, too few to hold any out, or only one group; or a group is on both sides.
    """
    training, held_out = good_folders(data)
    if not held_out and len(training) < 5:
        raise DataError(f"{data} holds {len(training)} images; at least 5 are needed, and some hundreds are better")
    names = group_names([*training, *held_out], data, group_by, scan or Scan()) if group_by else None
    if held_out:
        return GoodImages(training, held_out, _require_apart(data, names, len(training)) if names else None)
    rng = np.random.default_rng(seed)
    count = max(1, round(HELD_OUT_FRACTION * len(training)))
    kept = _draw_groups(data, names, count, rng) if names else set(rng.permutation(len(training))[:count].tolist())
    return GoodImages(
        training=[path for index, path in enumerate(training) if index not in kept],
        held_out=[path for index, path in enumerate(training) if index in kept],
        held_out_groups=len({names[index] for index in kept}) if names else None,
    )


def good_folders(data: Path) -> tuple[list[Path], list[Path]]:
    """The images of ``train/good`` (or of a plain folder) and of ``calibration/good`` (empty if it does not exist).

    Raises:
        DataError: There are no images, or the layout is not supported.
    """
    if not data.exists():
        raise DataError(f"{data} does not exist", "give a folder of good images, or one with train/good")
    layout = (data / "train" / "good").is_dir()
    if (data / "train").is_dir() and not layout:
        raise DataError(
            f"{data / 'train'} has no folder 'good'", "put the good images into {place}", place=data / "train" / "good"
        )
    if not layout and (other := foreign_folder(data)):
        place = data / "train" / "good"
        raise DataError(f"{data} has a folder '{other}' but no train/good", "put the good images into {place}", place=place)
    training = list_images(data / "train" / "good" if layout else data)
    kept = data / "calibration" / "good"
    return training, list_images(kept) if layout and kept.is_dir() else []


def foreign_folder(folder: Path) -> str | None:
    """The name of a subfolder that shows that `folder` does not hold only good images, or None."""
    return next((name for name in ("train", "test", "ground_truth", "calibration") if (folder / name).is_dir()), None)


def _draw_groups(data: Path, names: list[str], count: int, rng: np.random.Generator) -> set[int]:
    """Indices of about `count` images: whole groups in random order, skipping groups that are far too large."""
    members: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        members.setdefault(name, []).append(place)
    if len(members) < 2:
        raise DataError(
            f"all {len(names)} good images of {data} are one group ({names[0]!r}); holding out whole groups takes at least two",
            "check {group_by}",
        )
    most = count + max(1, count // 4)
    kept: set[int] = set()
    for name in rng.permutation(list(members)).tolist():
        if len(kept) < count and len(kept) + len(members[name]) <= most:
            kept |= set(members[name])
    smallest = min(members, key=lambda name: len(members[name]))
    return kept or set(members[smallest])


def _require_apart(data: Path, names: list[str], training: int) -> int:
    """Count the groups of ``calibration/good`` (the images after the first `training`); raise if ``train/good`` shares one."""
    before, kept = set(names[:training]), set(names[training:])
    if both := sorted(before & kept):
        raise DataError(
            f"{len(both)} of the {len(kept)} groups in {data / 'calibration' / 'good'} are in train/good too ({both[0]})",
            "move each group to one side",
        )
    return len(kept)


def test_images(data: Path) -> list[LabelledImage]:
    """The labelled test images of `data` (``test/<kind>``), in natural order.

    Raises:
        DataError: There is no ``test`` folder, or it has no good or no defective image.
    """
    folder = data / "test"
    if not folder.is_dir():
        raise DataError(f"{data} has no folder 'test': evaluation needs test/good and test/<defect>")
    images = [
        LabelledImage(path, kind.name, mask_of(data / "ground_truth" / path.parent.relative_to(folder), path))
        for kind in sorted(folder.iterdir())
        if kind.is_dir()
        for path in list_images(kind)
    ]
    for wanted, name in ((False, "test/good"), (True, "test/<defect>")):
        if not any(image.defective is wanted for image in images):
            raise DataError(f"{data} has no image in {name}: evaluation compares good and defective parts")
    return images


def mask_of(folder: Path, image: Path) -> Path | None:
    """The mask of `image` in `folder`: ``<stem>_mask.png``, ``<stem>.png`` or the image's own name; None if there is none."""
    for name in (f"{image.stem}_mask.png", f"{image.stem}.png", image.name):
        if (folder / name).is_file():
            return folder / name
    return None


def recorded_images(bundle: Bundle, part: Literal["training", "held_out"]) -> list[Path]:
    """Paths of the training or held-out images as recorded by the train stage; the files may be missing."""
    results = bundle.manifest.stages["train"].results
    return [Path(results["data"]) / name for name in results[part]]
