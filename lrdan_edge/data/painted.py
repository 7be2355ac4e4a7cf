"""Painted defects, for data without labelled defects: synthetic defects made by pasting a piece of another good image.

Int8 saturates on values that do not occur in good images, so good images are not enough to check it. Int8 should separate painted
defects from good images as well as fp32 does. The method follows CutPaste (Li et al., 2021, arXiv 2104.04015).
"""

import numpy as np

from lrdan_edge.bundle.view import Region
from lrdan_edge.data.images import Frame

_AREA = (0.005, 0.04)  # fraction of the image's area
_ASPECT = (0.3, 3.3)
_CONTRAST = (0.6, 1.4)
_BRIGHTNESS = (10.0, 50.0)  # grey levels, lighter or darker


def paint_defects(frames: Frame, region: Region | None = None, seed: int = 0) -> Frame:
    """Paste a piece of the next image into each image, with changed contrast and brightness.

    Args:
        frames: Good images, uint8 [N, H, W, C].
        region: The region of interest, in which defects are painted; None for the whole image.
        seed: Random seed.

    Returns:
        uint8 [N, H, W, C].
    """
    random = np.random.default_rng(seed)
    painted = frames.copy()
    left, top, width, height = region or (0, 0, frames.shape[2], frames.shape[1])
    inspected = (slice(top, top + height), slice(left, left + width))
    for index, frame in enumerate(painted):
        image, other = frame[inspected], frames[(index + 1) % len(frames)][inspected]
        area = height * width * np.exp(random.uniform(*np.log(_AREA)))
        aspect = np.exp(random.uniform(*np.log(_ASPECT)))
        rows = int(np.clip(np.sqrt(area * aspect), 2, height))
        columns = int(np.clip(np.sqrt(area / aspect), 2, width))
        source, target = (
            (int(random.integers(height - rows + 1)), int(random.integers(width - columns + 1))) for _ in range(2)
        )
        top, left = source
        piece = other[top : top + rows, left : left + columns].astype(np.float32)
        mean = piece.mean()
        piece = (piece - mean) * random.uniform(*_CONTRAST) + mean + random.choice([-1, 1]) * random.uniform(*_BRIGHTNESS)
        top, left = target
        image[top : top + rows, left : left + columns] = np.clip(np.rint(piece), 0, 255).astype(np.uint8)
    return painted
