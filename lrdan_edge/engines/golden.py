"""Golden frames: a few good images in the bundle, as the graph sees them, with the scores that each graph gave them."""

import numpy as np

from lrdan_edge.backends.base import Backend
from lrdan_edge.bundle.bundle import Bundle
from lrdan_edge.bundle.command import Command
from lrdan_edge.bundle.decision import Golden, GraphDecision, require_plausible_golden
from lrdan_edge.bundle.encoding import from_json
from lrdan_edge.bundle.names import GOLDEN
from lrdan_edge.bundle.spec import Precision
from lrdan_edge.data.images import Frame, decode_image, fit_frame
from lrdan_edge.errors import BundleError, DriftError, EngineError
from lrdan_edge.metrics import relative_differences

GOLDEN_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 5e-3, "int8": 1e-1}
"""Largest allowed relative difference on golden frames between an engine and the same graph in ONNX Runtime, for scores and for
the heatmaps' largest values."""

LARGEST_SHIFT = 0.02
"""Largest allowed difference on golden frames between a backend's scores and those that its threshold was fitted on, in standard
deviations of the good scores. With a threshold for 2 % false rejects, fewer than 1 in 500 good parts score this close to it."""

_ROUNDING: dict[Precision, float] = {"fp32": 1e-3, "fp16": 5e-3, "int8": 1e-3}
"""The same, relative to the scores; the larger bound applies. The deviation is tiny if all good images score alike."""

_PIXELS_AT_OPENING = 2 << 16
"""How many pixels of golden frames are scored each time a backend is opened: 2 frames of 256×256; always at least 1 frame."""

_QUARTILES = 1.349
"""The distance between the quartiles of a normal distribution, in standard deviations."""

_MAKER = Command("calibrate")


def golden_scores(bundle: Bundle) -> Golden:
    """The golden images' names and their scores per graph.

    Raises:
        MissingStageError: The bundle is not calibrated.
        BundleError: The scores are not those of golden frames.
    """
    name = f"{GOLDEN}/scores.json"
    found = from_json(bundle.read(name, _MAKER), Golden, str(bundle.path / name))
    return require_plausible_golden(found, bundle.path / name)


def golden_frames(bundle: Bundle, most: int | None = None) -> Frame:
    """The golden images, or the first `most` of them, uint8 [N, H, W, C]."""
    shape = bundle.manifest.model.frame_shape
    names = [f"{GOLDEN}/{name}" for name in golden_scores(bundle).images[:most]]
    return np.stack([fit_frame(decode_image(bundle.read(name, _MAKER), str(bundle.path / name)), shape) for name in names])


def no_golden_frames(bundle: Bundle) -> str | None:
    """Why there are no golden frames of this model, with the command that makes them; None if there are some."""
    if f"{GOLDEN}/scores.json" not in bundle.manifest.files or bundle.staleness("calibrate"):
        return f"no golden frames of this model yet ({_MAKER} makes them)"
    return None


def check_against_graph(bundle: Bundle, backend: Backend, precision: Precision) -> float:
    """Run the golden frames, and compare scores and heatmaps with those of the graph.

    Heatmaps are compared only in bundles that store their largest values, because the score is not computed from them.

    Args:
        bundle: A calibrated bundle.
        backend: The engine, opened.
        precision: The engine's precision.

    Returns:
        The largest relative difference, at most `GOLDEN_TOLERANCE`.

    Raises:
        EngineError: A score is not a finite number, or a difference exceeds the bound.
        BackendError: The backend failed.
    """
    golden = golden_scores(bundle)
    if precision not in golden.scores:
        raise BundleError(f"{bundle.path} has no {precision} scores of golden frames", "run '{command}' again", command=_MAKER)
    peaks = golden.peaks.get(precision)
    scores, heatmap, _ = backend.infer(golden_frames(bundle), heatmap=peaks is not None)
    wrong = int(np.count_nonzero(~np.isfinite(scores)))
    if wrong:
        raise EngineError(
            f"{wrong} of {len(scores)} scores of the {backend.name} {precision} engine on the golden frames are not finite",
            "do not inspect parts with it; build another precision",
        )
    compared = [("scores", scores, golden.scores[precision])]
    if peaks is not None:
        assert heatmap is not None
        compared.append(("heatmaps' largest values", heatmap.max(axis=(1, 2)), peaks))
    worst = 0.0
    for what, actual, expected in compared:
        unit = bundle.manifest.scoring.unit
        differs = float(relative_differences(actual, np.array(expected, np.float32), unit).max())  # NaN where a score is NaN
        if not differs <= GOLDEN_TOLERANCE[precision]:
            raise EngineError(
                f"the {backend.name} {precision} engine's {what} differ from the graph's by {differs:.1%} on the golden frames "
                f"(bound {GOLDEN_TOLERANCE[precision]:.1%})",
                "do not inspect parts with it; build another precision",
            )
        worst = max(worst, differs)
    return worst


def check_against_threshold(bundle: Bundle, backend: Backend, decision: GraphDecision, title: str, remedy: str) -> None:
    """Compare a backend's scores of a few golden frames with those that its threshold was fitted on. Runs at every opening.

    A bundle is copied to other machines, where other kernels, another instruction set or another runtime version may give other
    scores. A threshold that was fitted on one machine's scores is not valid for different scores.

    Args:
        bundle: A calibrated bundle.
        backend: The backend.
        decision: The threshold, and the good scores that it was fitted on.
        title: The backend's name in tables, for the message.
        remedy: What to do if the scores differ, for the message.

    Raises:
        DriftError: A score is not a finite number, or differs by more than `LARGEST_SHIFT`.
        BackendError: The backend failed.
    """
    stored = _stored_scores(bundle, decision, backend.spec.precision)
    rows, columns, _ = bundle.manifest.model.frame_shape
    frames = golden_frames(bundle, max(1, _PIXELS_AT_OPENING // (rows * columns)))
    expected = np.array(stored[: len(frames)], np.float64)
    single = [frames[place : place + 1] for place in range(len(frames))]  # some backends prepare again for another batch size
    scores = np.concatenate([backend.infer(frame, heatmap=False).score for frame in single])
    difference = np.abs(scores.astype(np.float64) - expected)
    low, high = np.quantile(decision.good_scores, [0.25, 0.75])
    spread = min(float(np.std(decision.good_scores)), float(high - low) / _QUARTILES)  # an outlier must not loosen the bound
    unit = max(float(np.median(np.abs(decision.good_scores))), bundle.manifest.scoring.unit)
    bound = max(LARGEST_SHIFT * spread, _ROUNDING[backend.spec.precision] * unit)  # type: ignore[index]
    if not difference.max() <= bound:
        raise DriftError(
            f"{title} does not reproduce the golden scores that its threshold was fitted with: largest difference "
            f"{difference.max():.3g}, allowed {bound:.3g}, on {backend.spec.device}",
            "{remedy}",
            remedy=remedy,
        )


def _stored_scores(bundle: Bundle, decision: GraphDecision, precision: str) -> list[float]:
    """The score of every golden frame, from the backend whose scores the threshold was fitted on."""
    golden = golden_scores(bundle)
    stored = decision.golden_scores or golden.scores.get(precision, [])
    if not stored or len(stored) != len(golden.images) or not decision.good_scores:
        raise BundleError(
            f"{bundle.path} has {len(stored)} {precision} scores for {len(golden.images)} golden frames",
            "restore it from a copy, or run '{command}' again",
            command=Command("calibrate", bundle=bundle.path),
        )
    return stored
