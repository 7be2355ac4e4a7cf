"""The folders users have: a plain folder of good images, or the layout of MVTec AD and anomalib.

DATA/train/good           good images for training
DATA/calibration/good     optional: good images kept for the threshold (else a share of train/good is held out)
DATA/test/good            good images for evaluation
DATA/test/<defect>        defective images, one folder per kind
DATA/ground_truth/<defect>  optional: masks, named like the image or with ``_mask`` appended
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lrdan_edge.bundle import Bundle
from lrdan_edge.errors import DataError
from lrdan_edge.images import list_images

HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class GoodImages:
    """Good images, divided: `training` teaches the networks, `held_out` only ever sets the threshold."""

    training: list[Path]
    held_out: list[Path]


@dataclass(frozen=True)
class LabelledImage:
    """One test image.

    Attributes:
        path: The image.
        kind: ``good``, or the defect's name (its folder).
        mask: The defect's mask (non-zero where defective), if there is one.
    """

    path: Path
    kind: str
    mask: Path | None

    @property
    def defective(self) -> bool:
        """Whether the image shows a defect."""
        return self.kind != "good"


def good_images(data: Path, seed: int = 0) -> GoodImages:
    """The good images of `data`, a share of them held out for the threshold.

    With ``calibration/good`` that folder is held out. Otherwise `HELD_OUT_SHARE` of the training images is, drawn at
    random by `seed`.

    Args:
        data: A folder in one of the layouts above.
        seed: Seed of the draw.

    Raises:
        DataError: No images, or too few to hold any out.
    """
    if not data.exists():
        raise DataError(f"{data} does not exist: give a folder of good images, or one with train/good")
    layout = (data / "train" / "good").is_dir()
    if (data / "train").is_dir() and not layout:
        raise DataError(f"{data / 'train'} has no folder 'good': put the good images into {data / 'train' / 'good'}")
    training = list_images(data / "train" / "good" if layout else data)
    held_out_folder = data / "calibration" / "good"
    if layout and held_out_folder.is_dir():
        return GoodImages(training, list_images(held_out_folder))
    if len(training) < 5:
        raise DataError(f"{data} holds {len(training)} images; at least 5 are needed, and some hundreds are better")
    order = np.random.default_rng(seed).permutation(len(training))
    count = max(1, round(HELD_OUT_SHARE * len(training)))
    held_out = set(order[:count].tolist())
    return GoodImages(
        training=[path for index, path in enumerate(training) if index not in held_out],
        held_out=[path for index, path in enumerate(training) if index in held_out],
    )


def test_images(data: Path) -> list[LabelledImage]:
    """The labelled test images of `data` (``test/<kind>``), in natural order.

    Raises:
        DataError: There is no ``test`` folder, no good or no defective image in it.
    """
    folder = data / "test"
    if not folder.is_dir():
        raise DataError(f"{data} has no folder 'test': evaluation needs test/good and test/<defect>")
    images = [
        LabelledImage(path, kind.name, _mask_of(data / "ground_truth" / kind.name, path))
        for kind in sorted(folder.iterdir())
        if kind.is_dir()
        for path in list_images(kind)
    ]
    for wanted, name in ((False, "test/good"), (True, "test/<defect>")):
        if not any(image.defective is wanted for image in images):
            raise DataError(f"{data} has no image in {name}: evaluation compares good and defective parts")
    return images


def _mask_of(folder: Path, image: Path) -> Path | None:
    for name in (f"{image.stem}_mask.png", f"{image.stem}.png", image.name):
        if (folder / name).is_file():
            return folder / name
    return None


def recorded_images(bundle: Bundle, part: Literal["training", "held_out"]) -> list[Path]:
    """The images that training used or held out, as the bundle's train stage recorded them (they may since be gone)."""
    results = bundle.manifest.stages["train"].results
    return [Path(results["data"]) / name for name in results[part]]
