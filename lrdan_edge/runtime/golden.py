"""Golden frames: a few good images kept in the bundle, as the graph sees them, with the scores each graph gave them."""

import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle import GOLDEN, Bundle
from lrdan_edge.errors import EngineError
from lrdan_edge.images import Frame, load_frames
from lrdan_edge.manifest import Golden, Precision, from_json
from lrdan_edge.parity import relative_differences
from lrdan_edge.runtime.backends.base import Backend

GOLDEN_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 5e-3, "int8": 1e-1}
"""Largest difference on golden frames, of scores and heatmaps' tops, between an engine and the same graph by ONNX Runtime."""

_MAKER = "lrdan-edge calibrate"


def golden_scores(bundle: Bundle) -> Golden:
    """The golden images' names and their scores per graph.

    Raises:
        MissingStageError: The bundle is not calibrated.
    """
    name = f"{GOLDEN}/scores.json"
    return from_json(bundle.read(name, _MAKER), Golden, str(bundle.path / name))


def golden_frames(bundle: Bundle) -> Frame:
    """The golden images, uint8 [N, H, W, C]."""
    paths = [bundle.file(f"{GOLDEN}/{name}", _MAKER) for name in golden_scores(bundle).images]
    return load_frames(paths, bundle.manifest.model.frame_shape)


def no_golden_frames(bundle: Bundle) -> str | None:
    """Why there are no golden frames of this model, with the command that makes them, or None."""
    if f"{GOLDEN}/scores.json" not in bundle.manifest.files or bundle.staleness("calibrate"):
        return "no golden frames of this model yet (lrdan-edge calibrate makes them)"
    return None


def check_on_golden_frames(bundle: Bundle, backend: Backend, precision: Precision) -> float:
    """Run the golden frames, and hold scores, and heatmaps where they are not made of the same, to what the graph gave.

    Returns:
        The largest relative difference, as `relative_difference`; within `GOLDEN_TOLERANCE`.

    Raises:
        EngineError: A score is not a finite number, or something drifts beyond the bound.
        BackendError: The backend failed.
    """
    golden = golden_scores(bundle)
    peaks = golden.peaks.get(precision)
    scores, heatmap, _ = backend.infer(golden_frames(bundle), heatmap=peaks is not None)
    wrong = int(np.count_nonzero(~np.isfinite(scores)))
    if wrong:
        raise EngineError(
            f"{wrong} of {len(scores)} scores of the {backend.name} {precision} engine on the golden frames are not finite: "
            "it must not decide about parts; build another precision"
        )
    compared = [("scores", scores, golden.scores[precision])]
    if peaks is not None:
        assert heatmap is not None
        compared.append(("heatmaps' largest values", heatmap.max(axis=(1, 2)), peaks))
    worst = 0.0
    for what, actual, expected in compared:
        differs = relative_difference(actual, np.array(expected, np.float32), bundle.manifest.scoring.unit)
        if not differs <= GOLDEN_TOLERANCE[precision]:
            raise EngineError(
                f"the {backend.name} {precision} engine's {what} differ from the graph's by {differs:.1%} on the golden frames "
                f"(bound {GOLDEN_TOLERANCE[precision]:.1%}): it must not decide about parts; build another precision"
            )
        worst = max(worst, differs)
    return worst


def relative_difference(actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], unit: float = 0.0) -> float:
    """The largest of `lrdan_edge.parity.relative_differences`; NaN if a score is not a number."""
    return float(relative_differences(actual, expected, unit).max())
