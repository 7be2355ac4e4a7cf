"""Golden frames: a few good images kept in the bundle, as the graph sees them, with the scores each graph gave them."""

import numpy as np
import numpy.typing as npt

from lrdan_edge.backends.base import Backend
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.decision import Golden, GraphDecision
from lrdan_edge.bundle.encoding import from_json
from lrdan_edge.bundle.names import GOLDEN
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.data.images import Frame, load_frames
from lrdan_edge.errors import BundleError, DriftError, EngineError
from lrdan_edge.metrics import relative_differences

GOLDEN_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 5e-3, "int8": 1e-1}
"""Largest difference on golden frames, of scores and heatmaps' tops, between an engine and the same graph by ONNX Runtime."""

LARGEST_SHIFT = 0.02
"""Largest difference on golden frames between a backend about to decide and what its threshold was fitted on, in deviations of the
good scores: near a threshold for 2 % false rejects, fewer than 1 in 500 good parts lie so close to it."""

_ROUNDING: dict[Precision, float] = {"fp32": 1e-3, "fp16": 5e-3, "int8": 1e-3}
"""The same relative to the scores, where that is more: good images that score all alike have no deviation to speak of."""

_PIXELS_AT_OPENING = 2 << 16
"""Golden frames that are scored at every opening: as many as have so many pixels, 2 of 256×256, and 1 at least."""

_QUARTILES = 1.349
"""How many deviations of a normal distribution lie between its quartiles."""

_MAKER = "lrdan-edge calibrate"


def golden_scores(bundle: Bundle) -> Golden:
    """The golden images' names and their scores per graph.

    Raises:
        MissingStageError: The bundle is not calibrated.
    """
    name = f"{GOLDEN}/scores.json"
    return from_json(bundle.read(name, _MAKER), Golden, str(bundle.path / name))


def golden_frames(bundle: Bundle, most: int | None = None) -> Frame:
    """The golden images, or the first `most` of them, uint8 [N, H, W, C]."""
    paths = [bundle.file(f"{GOLDEN}/{name}", _MAKER) for name in golden_scores(bundle).images[:most]]
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


def prove(bundle: Bundle, backend: Backend, decision: GraphDecision, title: str, remedy: str) -> None:
    """Hold a backend that is about to decide against what its threshold was fitted on.

    A bundle travels: other kernels, another instruction set or another version of a runtime may score otherwise, and a threshold
    fitted through one says nothing about another. A few golden frames show it, at every opening.

    Args:
        bundle: A calibrated bundle.
        backend: What will decide.
        decision: What it will decide by.
        title: The backend's name in tables, for the message.
        remedy: What to do where it does not hold, for the message.

    Raises:
        DriftError: A score is not a finite number, or differs by more than `LARGEST_SHIFT`.
        BackendError: The backend failed.
    """
    stored = _stored_scores(bundle, decision, backend.spec.precision)
    rows, columns, _ = bundle.manifest.model.frame_shape
    frames = golden_frames(bundle, max(1, _PIXELS_AT_OPENING // (rows * columns)))
    expected = np.array(stored[: len(frames)], np.float64)
    single = [frames[place : place + 1] for place in range(len(frames))]  # some backends prepare anew for a batch
    scores = np.concatenate([backend.infer(frame, heatmap=False).score for frame in single])
    difference = np.abs(scores.astype(np.float64) - expected)
    low, high = np.quantile(decision.good_scores, [0.25, 0.75])
    spread = min(float(np.std(decision.good_scores)), float(high - low) / _QUARTILES)  # an outlier must not loosen the bound
    unit = max(float(np.median(np.abs(decision.good_scores))), bundle.manifest.scoring.unit)
    bound = max(LARGEST_SHIFT * spread, _ROUNDING[backend.spec.precision] * unit)  # type: ignore[index]
    if not difference.max() <= bound:
        raise DriftError(
            f"{title} does not reproduce the golden scores that its threshold was fitted with: largest difference "
            f"{difference.max():.3g}, allowed {bound:.3g}, on {backend.spec.device}: {remedy}"
        )


def _stored_scores(bundle: Bundle, decision: GraphDecision, precision: str) -> list[float]:
    """One score for every golden frame, by what the threshold was fitted on.

    Raises:
        BundleError: They are not all there.
    """
    golden = golden_scores(bundle)
    stored = decision.golden_scores or golden.scores.get(precision, [])
    if not stored or len(stored) != len(golden.images) or not decision.good_scores:
        raise BundleError(
            f"{bundle.path} has {len(stored)} {precision} scores for {len(golden.images)} golden frames: restore it from a copy, or run "
            f"'{_MAKER} --bundle {bundle.path}' again"
        )
    return stored


def relative_difference(actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], unit: float = 0.0) -> float:
    """The largest of `lrdan_edge.metrics.relative_differences`; NaN if a score is not a number."""
    return float(relative_differences(actual, expected, unit).max())
