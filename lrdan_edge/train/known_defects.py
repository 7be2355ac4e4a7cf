"""A few labelled defects in training (``--known-defects DIR``): what they look like, learnt beside the good images.

After Deep SAD (arXiv 1906.02694): labelled anomalies are pushed away from what is normal, and everything else is trained as before.

DIR/<image> or DIR/<kind>/<image>     the defects
DIR/masks/<image's name below DIR>    optional: its mask, as a .png, non-zero where defective
DIR/test/<kind>, DIR/ground_truth/<kind>  the same in the layout of MVTec AD; test/good is passed over
A folder ``good`` elsewhere is refused: its images would be learnt as defects.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lrdan_edge.bundle.files import sha256_of
from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.data.dataset import LabelledImage, mask_of
from lrdan_edge.data.images import cut_frame, fit_frame, list_images, read_image, read_mask, tiles_of
from lrdan_edge.errors import DataError

SHARE = 0.12  # of a batch that shows known defects
VARIED_MASK = 0.4  # exposure scales a mask too, but never below this where it is 1
BAG = 30  # pixels of an unmarked defect that must look defective
WEIGHT = 0.1  # of `bag` beside a restoration's 1: heavier, it marks whatever is there
LEAST_ERROR = 1e-6

Image = npt.NDArray[np.float32]


@dataclass(frozen=True)
class KnownDefects:
    """Labelled defects.

    Attributes:
        frames: uint8 [K, C, H, W].
        masks: float32 [K, H, W], 1 where defective; all 0 where there is no mask.
        sha256: Of each image file.
    """

    frames: Tensor
    masks: Tensor
    sha256: list[str]

    @property
    def digest(self) -> str:
        """Sha256 over images and masks as they are fitted."""
        return hashlib.sha256(self.frames.numpy().tobytes() + self.masks.numpy().tobytes()).hexdigest()

    def draw(self, batch_size: int, seed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Some of them at random, `SHARE` of a batch but at least one, to go beside it.

        Args:
            batch_size: Good images of the batch.
            seed: Decides the draw.

        Returns:
            The defects, float32 [M, C, H, W] in [-1, 1]; and where to look, float32 [M, 1, H, W], which is everywhere if there
            is no mask.
        """
        count = round(SHARE * batch_size) or 1
        places = torch.from_numpy(np.random.default_rng(seed).integers(0, len(self.frames), count))
        masks = self.masks[places][:, None]
        everywhere = masks.amax((1, 2, 3), keepdim=True) == 0
        return self.frames[places].float() * (2 / 255) - 1, torch.where(everywhere, torch.ones_like(masks), masks)


def read_known(folder: Path, spec: ModelSpec, bit_depth: int = 16) -> KnownDefects:
    """Read and fit labelled defects.

    Args:
        folder: DIR, as the module describes it.
        spec: The networks and their geometry; of an image in tiles, those with the defect are taken.
        bit_depth: As `lrdan_edge.data.images.to_eight_bits`.

    Raises:
        DataError: There is no image, or one cannot be read, or is good; a mask is empty; or with tiles, one has no mask.
    """
    images = _listed(folder)
    frames, masks = [], []
    for image in images:
        cut = cut_frame(fit_frame(read_image(image.path, bit_depth), spec.frame_shape), spec)
        mask = None if image.mask is None else read_mask(image.mask)
        if mask is not None and not mask.any():
            raise DataError(f"--known-defects {image.mask} marks nothing: mark the defect, or delete the mask")
        where = np.zeros(cut.shape[:3], np.float32) if mask is None else _cut_mask(mask, spec)
        if image.mask is None and len(cut) > 1:
            raise DataError(
                f"--known-defects {image.path} has no mask, and with tiles only a mask says which of them show the defect: give "
                "it one, or leave it out"
            )
        shows = where.any((1, 2)) | (image.mask is None or spec.geometry is None)
        frames += list(cut[shows])
        masks += list(where[shows])
    if not frames:
        raise DataError(f"--known-defects {folder} has no defect in the region that is inspected: check --roi and the masks")
    return KnownDefects(
        frames=torch.from_numpy(np.stack(frames).transpose(0, 3, 1, 2).copy()),
        masks=torch.from_numpy(np.stack(masks)),
        sha256=[sha256_of(image.path) for image in images],
    )


def _cut_mask(mask: npt.NDArray[np.bool_], spec: ModelSpec) -> Image:
    """A mask of any size cut as its image is: float32 [T, h, w], 1 where any of a pixel is defective."""
    rows, columns = spec.frame_shape[:2]
    whole = cv2.resize(mask.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    if spec.geometry:
        left, top, width, height = spec.geometry.region
        rows, columns = spec.heatmap_shape
        part = np.ascontiguousarray(whole[top : top + height, left : left + width])
        whole = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
    return tiles_of(np.asarray(whole > 0, np.float32), spec)


def _listed(folder: Path) -> list[LabelledImage]:
    if not folder.is_dir():
        raise DataError(f"--known-defects {folder} is not a folder: give one with images of defects, and perhaps masks/ in it")
    layout = (folder / "test").is_dir()
    if not layout and (folder / "good").is_dir():
        raise DataError(
            f"--known-defects {folder} holds a folder of good images, which would be learnt as defects: give "
            f"{folder.parent if folder.name == 'test' else 'a folder of defects alone'}"
        )
    below, masks = (folder / "test", folder / "ground_truth") if layout else (folder, folder / "masks")
    found = []
    for path in list_images(below):
        place = path.relative_to(below).parent
        kind = place.parts[0] if place.parts else "defect"
        if kind != ("good" if layout else "masks"):
            found.append(LabelledImage(path, kind, mask_of(masks / place, path)))
    if not found:
        raise DataError(f"--known-defects {folder} holds no image of a defect: put some there, or leave the option out")
    return found


class Mixed(NamedTuple):
    """A batch of a restorer with known defects in it.

    Attributes:
        good: What is asked back, float32 [N, C, H, W].
        defective: What is shown, the same shape.
        mask: Float32 [N, 1, H, W], 1 where defective.
        whole: Bool [N]: a known defect as it is; nobody knows what is under it.
        marked: Bool [N]: where the defect is, is known.
    """

    good: Tensor
    defective: Tensor
    mask: Tensor
    whole: Tensor
    marked: Tensor


def target(restored: Tensor, good: Tensor, mask: Tensor, whole: Tensor) -> Tensor:
    """`good`, but what was restored where nobody knows what is right: no loss arises there.

    Args:
        restored: What a restorer made of a batch, float [N, C, H, W].
        good: `Mixed.good` as it was standardised, the same shape.
        mask: `Mixed.mask`.
        whole: `Mixed.whole`.
    """
    return torch.where(whole[:, None, None, None] & (mask > 0), restored.detach(), good)


def mix(
    known: KnownDefects,
    good: Tensor,
    defective: Tensor,
    mask: Tensor,
    chance: Callable[[int], np.random.Generator],
    vary: Callable[[Image, np.random.Generator], Image],
) -> Mixed:
    """Put known defects into some places of a batch, never the first.

    Args:
        known: The defects.
        good: Good images, float32 [N, C, H, W] in [-1, 1]; written over.
        defective: The same with synthetic defects; likewise.
        mask: Float32 [N, 1, H, W]; likewise.
        chance: Draws, for each place of the batch.
        vary: The line's natural variation, of images float32 [H, W, C] in [0, 1].
    """
    count = len(good)
    whole, marked = torch.zeros(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)
    for place in range(count):
        rng = chance(place)
        if place == 0 or rng.random() >= SHARE:
            continue
        chosen = int(rng.integers(len(known.frames)))
        marked[place] = bool(known.masks[chosen].any())
        image, where = _varied(known.frames[chosen], known.masks[chosen], rng, vary)
        good[place], defective[place], mask[place], whole[place] = image, image, where, True
    return Mixed(good, defective, mask, whole, marked)


def _varied(
    frame: Tensor, mask: Tensor, rng: np.random.Generator, vary: Callable[[Image, np.random.Generator], Image]
) -> tuple[Tensor, Tensor]:
    """A frame uint8 [C, H, W] and its mask [H, W], both varied alike: [C, H, W] in [-1, 1] and [1, H, W]."""
    state = rng.bit_generator.state
    image = vary(np.ascontiguousarray(frame.permute(1, 2, 0).numpy() / np.float32(255)), rng)
    rng.bit_generator.state = state  # the same draws again
    moved = vary(mask.numpy()[..., None].astype(np.float32), rng) > VARIED_MASK
    return torch.from_numpy(image.transpose(2, 0, 1).copy()) * 2 - 1, torch.from_numpy(
        moved.transpose(2, 0, 1).astype(np.float32)
    )


def bag(logits: Tensor) -> Tensor:
    """Multiple-instance loss of unmarked defects: −log σ of the mean log-odds of an image's `BAG` most suspicious pixels.

    Args:
        logits: Log-odds of a defect, float [N, 1, H, W].

    Returns:
        The mean over the images, a scalar; 0 if there are none.
    """
    if len(logits) == 0:
        return logits.sum()
    pixels = logits.flatten(1)
    highest = pixels.topk(min(BAG, pixels.shape[1])).values.mean(1)
    return F.softplus(-highest).mean()


def inverse_error(good: Tensor, x: Tensor, drawn: Tensor, where: Tensor) -> Tensor:
    """Deep SAD's term for labelled anomalies, (d(x))⁻¹, with d the reconstruction error in units of the good images'.

    Scaled by the good images' own error once more, it weighs as much as that: E²·mean(1 / e), E theirs and e a defect's.

    Args:
        good: The good images' mean error E, a scalar; not trained through (detached).
        x: Known defects, float [M, C, H, W].
        drawn: Their reconstructions, the same shape.
        where: Where they are defective, float [M, 1, H, W]; the error there counts, as if the whole image were like it.
    """
    squared = (x - drawn).square().sum(1, keepdim=True)
    pixels = where.shape[-2] * where.shape[-1]
    error = pixels * (squared * where).sum((1, 2, 3)) / where.sum((1, 2, 3))
    return good.detach().square() * (1 / (error + LEAST_ERROR)).mean()
