"""Known defects: a few labelled defects to train on, besides the good images (`TrainOptions.known_defects`, a folder DIR).

As in Deep SAD (arXiv 1906.02694), labelled anomalies are pushed away from normal images; the rest of training is unchanged.

DIR/<image> or DIR/<kind>/<image>     the defects
DIR/masks/<image's name below DIR>    optional: its mask, as a .png, non-zero where defective
DIR/test/<kind>, DIR/ground_truth/<kind>  the same in the layout of MVTec AD; test/good is skipped
Any other folder ``good`` is refused, since its images would be learnt as defects.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lrdan_edge.bundle.files import sha256_of
from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.data.contents import Contents, images_of
from lrdan_edge.data.dataset import LabelledImage
from lrdan_edge.data.images import cut_frame, fit_frame, natural_key, read_image, read_mask, tiles_of
from lrdan_edge.data.layout import tested_part
from lrdan_edge.data.masks import MaskFinder, masks_among
from lrdan_edge.errors import DataError

LEAST_ERROR = 1e-6

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class KnownDefects:
    """Labelled defects.

    Attributes:
        frames: uint8 [K, C, H, W].
        masks: float32 [K, H, W], 1 where defective; all 0 for an image without a mask.
        sha256: Sha256 of each image file, in hex.
    """

    frames: Tensor
    masks: Tensor
    sha256: list[str]

    @property
    def digest(self) -> str:
        """Sha256 over the resized images and masks."""
        return hashlib.sha256(self.frames.numpy().tobytes() + self.masks.numpy().tobytes()).hexdigest()

    def draw(self, count: int, seed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Draw random defects.

        Args:
            count: Number of defects.
            seed: Random seed.

        Returns:
            The defects, float32 [M, C, H, W] in [-1, 1], and their masks, float32 [M, 1, H, W]; all 1 for a defect without a mask.
        """
        places = torch.from_numpy(np.random.default_rng(seed).integers(0, len(self.frames), count))
        masks = self.masks[places][:, None]
        everywhere = masks.amax((1, 2, 3), keepdim=True) == 0
        return self.frames[places].float() * (2 / 255) - 1, torch.where(everywhere, torch.ones_like(masks), masks)


def draw_known(known: KnownDefects | None, batch_size: int, fraction: float, seed: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Draw at least one known defect for a batch of good images, as `KnownDefects.draw`; empty if there are none."""
    return known.draw(round(fraction * batch_size) or 1, (*seed, batch_size)) if known else ()


def read_known(folder: Path, spec: ModelSpec, bit_depth: int = 16) -> KnownDefects:
    """Read labelled defects, resized and cut like the good images.

    Args:
        folder: DIR; see the module's docstring.
        spec: The networks and their geometry; with tiles, only the tiles that show the defect are used.
        bit_depth: See `lrdan_edge.data.images.to_eight_bits`.

    Raises:
        DataError: There is no image; an image cannot be read; the folder has good images; a mask is empty; or, with tiles, an
            image has no mask.
    """
    images = known_images(folder)
    frames, masks = [], []
    for image in images:
        cut = cut_frame(fit_frame(read_image(image.path, bit_depth), spec.frame_shape), spec)
        mask = None if image.mask is None else read_mask(image.mask)
        if mask is not None and not mask.any():
            raise DataError(f"{image.mask} marks nothing", "mark the defect, or delete the mask")
        where = np.zeros(cut.shape[:3], np.float32) if mask is None else _cut_mask(mask, spec)
        if image.mask is None and len(cut) > 1:
            raise DataError(
                f"{image.path} has no mask, and with tiles only a mask says which of them show the defect",
                "add a mask, or remove the image from {known_defects}",
            )
        shows = where.any((1, 2)) | (image.mask is None or spec.geometry is None)
        frames += list(cut[shows])
        masks += list(where[shows])
    if not frames:
        raise DataError(
            f"{folder} has no defect in the region that is inspected", "check {region} and the masks in {known_defects}"
        )
    return KnownDefects(
        frames=torch.from_numpy(np.stack(frames).transpose(0, 3, 1, 2).copy()),
        masks=torch.from_numpy(np.stack(masks)),
        sha256=[sha256_of(image.path) for image in images],
    )


def _cut_mask(mask: npt.NDArray[np.bool_], spec: ModelSpec) -> Image:
    """Resize and tile a mask of any size like its image: float32 [T, h, w], 1 where any part of a pixel is defective."""
    rows, columns = spec.frame_shape[:2]
    whole = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    if spec.geometry:
        left, top, width, height = spec.geometry.region
        rows, columns = spec.heatmap_shape
        part = np.ascontiguousarray(whole[top : top + height, left : left + width])
        whole = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
    return tiles_of(np.asarray(whole > 0, np.float32), spec)


def known_images(folder: Path) -> list[LabelledImage]:
    """The labelled defects in a folder, with their masks; raises DataError as `read_known` does."""
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder", "give a folder of defect images, which may contain masks/, as {known_defects}"
        )
    if (folder / "test").is_dir():
        part = tested_part(folder)
        found = [
            LabelledImage(path, kind, part.masks.get(path))
            for kind, paths in part.kinds.items()
            if kind != "good"
            for path in paths
        ]
    else:
        found = _defects_only(folder)
    if not found:
        raise DataError(f"{folder} holds no image of a defect", "add some, or leave {known_defects} out")
    return sorted(found, key=lambda image: natural_key(image.path))


def _defects_only(folder: Path) -> list[LabelledImage]:
    """The defects in a folder that has nothing else but masks; raises DataError if it has good images."""
    contents = Contents.of(folder)
    if contents.good:
        raise DataError(
            f"{folder} holds a folder of good images, which would be learnt as defects",
            "give {instead} as {known_defects}",
            instead=folder.parent if folder.name == "test" else "a folder of defects only",
        )
    images = [path for part in (contents.bad, contents.plain, contents.unknown) for path in images_of(part)]
    finder = MaskFinder()
    elsewhere = masks_among(folder, images, images_of(contents.masks))
    found = []
    for path in images:
        place = path.relative_to(folder).parent
        mask = finder.find(folder / "masks" / place, path) or contents.beside.get(path) or elsewhere.get(path)
        found.append(LabelledImage(path, place.parts[0] if place.parts else "defect", mask))
    return found


def inverse_error(good: Tensor, x: Tensor, reconstructed: Tensor, where: Tensor) -> Tensor:
    """Deep SAD's term for labelled anomalies, (d(x))⁻¹, with d the reconstruction error divided by the good images' error.

    It is also multiplied by the good images' error, to give it the same scale: E²·mean(1 / e), where E is the error of the good
    images and e the error of a defect.

    Args:
        good: The good images' mean error E, a scalar; no gradient flows through it (detached).
        x: Known defects, float [M, C, H, W].
        reconstructed: Their reconstructions, the same shape.
        where: 1 where defective, float [M, 1, H, W]; only the error there counts, scaled up to the whole image.
    """
    squared = (x - reconstructed).square().sum(1, keepdim=True)
    pixels = where.shape[-2] * where.shape[-1]
    error = pixels * (squared * where).sum((1, 2, 3)) / where.sum((1, 2, 3))
    return good.detach().square() * (1 / (error + LEAST_ERROR)).mean()
