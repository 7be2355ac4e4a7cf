"""The calibration split: the images of a calibration, each set for one purpose only."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.decision import ThresholdRule
from lrdan_edge.bundle.names import OUT_OF_FOLD
from lrdan_edge.bundle.out_of_fold import OutOfFold, read_out_of_fold
from lrdan_edge.bundle.view import Region
from lrdan_edge.data.dataset import LabelledImage, recorded_images, test_images
from lrdan_edge.data.grouping import AUTO, group_names, numbered
from lrdan_edge.data.images import Frame, batches, load_frames
from lrdan_edge.data.layout import defect_images, only_good_images
from lrdan_edge.data.scan import Scan
from lrdan_edge.errors import BundleError, CalibrationError, DataError

MOST_IMAGES = 128
"""Largest number of images for measuring ranges, and for comparing int8 graphs."""


@dataclass(frozen=True)
class FrameLoader:
    """Loads image files as frames of the deploy graph.

    Attributes:
        shape: (H, W, C) of a frame.
        bit_depth: Number of bits used in 16-bit images.
        region: The region of interest of a frame, or None for the whole frame.
    """

    shape: tuple[int, int, int]
    bit_depth: int = 16
    region: Region | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> "FrameLoader":
        """The loader for a bundle's deploy graph."""
        model = bundle.manifest.model
        region = model.geometry.region if model.geometry else None
        return cls(model.frame_shape, bundle.manifest.preprocessing.bit_depth, region)

    def load(self, paths: list[Path]) -> Frame:
        """Load frames, uint8 [N, H, W, C]; see `lrdan_edge.data.images.load_frames`."""
        return load_frames(paths, self.shape, self.bit_depth)

    def batches(self, paths: list[Path], size: int) -> Iterator[Frame]:
        """Load frames in batches of at most `size`."""
        return batches(paths, self.shape, size, self.bit_depth)


@dataclass(frozen=True)
class CalibrationSplit:
    """Images by purpose; the first three sets are disjoint.

    Attributes:
        ranges: Training images for measuring activation ranges.
        compared: Training images for comparing int8 graphs with fp32.
        held_out: Good images never trained on, used only for thresholds.
        defects: Labelled defective images; empty if the user gives none.
        labelled: Good and defective images for AUROC; empty without `defects`.
        groups: The group of each held-out image, or None if unknown: see `groups_of`.
        out_of_fold: The scores of all good images, for the rule ``cross-fitted``: see `out_of_fold_for`.
    """

    ranges: list[Path]
    compared: list[Path]
    held_out: list[Path]
    defects: list[Path]
    labelled: list[LabelledImage]
    groups: list[int] | None = None
    out_of_fold: OutOfFold | None = None

    @property
    def thresholds(self) -> int:
        """Number of good images that set a threshold."""
        return len(self.out_of_fold.images if self.out_of_fold else self.held_out)


def calibration_split(
    bundle: Bundle, good: Path | None = None, defects: Path | None = None, *, int8: bool = True
) -> CalibrationSplit:
    """Find the images of a calibration.

    Args:
        bundle: A trained bundle.
        good: Folder of good images never trained on, to use instead of those that training held out.
        defects: Folder of defective images, or one with ``test/good`` and ``test/<defect>``.
        int8: Whether training images are needed, for the int8 graph.

    Raises:
        DataError: Images are missing, or a folder has no images or the wrong kind of images.
    """
    held_out = threshold_images(bundle, good) if good else recorded(bundle, "held_out")
    training = recorded(bundle, "training") if int8 else []
    bad, labelled = labelled_images(defects) if defects else ([], [])
    compared = _spread(training[1::2])
    if bad and not labelled:
        labelled = [LabelledImage(path, "good", None) for path in compared]
        labelled += [LabelledImage(path, "defective", None) for path in bad]
    return CalibrationSplit(_spread(training[::2]), compared, held_out, bad, labelled, groups_of(bundle, held_out, good))


def groups_of(bundle: Bundle, held_out: list[Path], good: Path | None) -> list[int] | None:
    """The group of each image that sets the threshold; images of one group show one part.

    Of images that training held out, the groups are those that it recorded; None if it looked for none, or in bundles from earlier
    versions. Of other good images they are the near-copies among them (`lrdan_edge.data.grouping`).

    Args:
        bundle: A trained bundle.
        held_out: The images.
        good: The user's folder that they are from, or None.

    Raises:
        DataError: One of the user's images cannot be read.
    """
    if good:
        return numbered(group_names(held_out, good, AUTO, Scan()))
    found: list[int] | None = bundle.recorded("train", "held_out_group_of", list[int] | None)
    if found is not None and len(found) != len(held_out):
        raise BundleError(
            f"{bundle.path} records groups of {len(found)} held-out images of {len(held_out)}", "restore it from a copy"
        )
    return found


def default_rule(bundle: Bundle, good: Path | None) -> ThresholdRule:
    """The rule of a threshold if none is asked for: ``cross-fitted`` where out-of-fold scores allow it, else ``conformal``.

    Args:
        bundle: A trained bundle.
        good: The user's folder of good images, if the threshold is not set from those of training.
    """
    return "cross-fitted" if good is None and OUT_OF_FOLD in bundle.manifest.files else "conformal"


def out_of_fold_for(bundle: Bundle, rule: ThresholdRule, good: Path | None) -> OutOfFold | None:
    """The out-of-fold scores that a rule needs; None if it needs none.

    Raises:
        CalibrationError: There are none, or the threshold is set from other good images.
        BundleError: The file was changed.
    """
    if rule != "cross-fitted":
        return None
    if good:
        raise CalibrationError(
            f"{good} holds other good images than those that were cross-fitted", "leave {good} out, or give {rule:conformal}"
        )
    if found := read_out_of_fold(bundle):
        return found
    recipe = bundle.manifest.model.recipe
    raise CalibrationError(
        f"{bundle.path} has no out-of-fold scores, which recipes fitted in one pass write (its recipe is {recipe})",
        "give {rule:conformal}",
    )


def out_of_fold_input(bundle: Bundle, rule: ThresholdRule) -> dict[str, Path]:
    """The file that a threshold of this rule depends on, as an input of its stage."""
    return {OUT_OF_FOLD: bundle.path / OUT_OF_FOLD} if rule == "cross-fitted" else {}


def threshold_images(bundle: Bundle, folder: Path) -> list[Path]:
    """Good images below `folder` for setting a threshold.

    Raises:
        DataError: There are none, the folder also has other images, or some were trained on.
    """
    images = only_good_images(folder)
    trained = {path.resolve() for path in recorded_images(bundle, "training")}
    if known := sum(path.resolve() in trained for path in images):
        raise DataError(f"{known} of the {len(images)} images in {folder} were trained on", "give others, or leave {good} out")
    return images


def labelled_images(folder: Path) -> tuple[list[Path], list[LabelledImage]]:
    """Defective images below `folder`, and all labelled images if it also has good ones (``test/good``).

    Raises:
        DataError: There are none.
    """
    if (folder / "test").is_dir():
        labelled = test_images(folder)
        return [image.path for image in labelled if image.defective], labelled
    return defect_images(folder), []


def recorded(bundle: Bundle, part: Literal["training", "held_out"]) -> list[Path]:
    """The images that training used or held out.

    Raises:
        DataError: Some are missing.
    """
    paths = recorded_images(bundle, part)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(paths)} {part.replace('_', '-')} images that training used are missing ({missing[0]})",
            "put them back" + (", or give others with {good}" if part == "held_out" else ""),
        )
    return paths


def _spread(paths: list[Path]) -> list[Path]:
    """At most `MOST_IMAGES` paths, evenly spread over the list."""
    places = np.linspace(0, len(paths) - 1, min(MOST_IMAGES, len(paths))).astype(int)
    return [paths[place] for place in places]
