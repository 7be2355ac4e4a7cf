"""Golden frames: a few good images kept in the bundle, as the graph sees them, with the scores each graph gave them."""

import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle import GOLDEN, Bundle
from lrdan_edge.images import Frame, load_frames
from lrdan_edge.manifest import Golden, from_json

_MAKER = "lrdan-edge calibrate"


def golden_scores(bundle: Bundle) -> Golden:
    """The golden images' names and their scores per graph.

    Raises:
        MissingStageError: The bundle is not calibrated.
    """
    path = bundle.file(f"{GOLDEN}/scores.json", _MAKER)
    return from_json(path.read_bytes(), Golden, str(path))


def golden_frames(bundle: Bundle) -> Frame:
    """The golden images, uint8 [N, H, W, C]."""
    paths = [bundle.file(f"{GOLDEN}/{name}", _MAKER) for name in golden_scores(bundle).images]
    return load_frames(paths, bundle.manifest.model.frame_shape)


def relative_difference(actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Largest difference of two score vectors, relative to the score or to the median score, whichever is larger.

    A normalised score may lie near zero, where a purely relative difference says nothing.

    Args:
        actual: Scores, float32 [n].
        expected: The scores they should be, float32 [n].

    Returns:
        0 or more; NaN if a score is not a number.
    """
    size = np.abs(expected)
    scale = np.maximum(np.maximum(size, np.median(size)), 1e-6)
    return float((np.abs(actual - expected) / scale).max())
