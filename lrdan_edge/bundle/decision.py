"""The decision: thresholds fitted on held-out good images (``decision.json``), and the golden frames (``golden/scores.json``)."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from lrdan_edge.bundle.command import Command
from lrdan_edge.errors import BundleError

_LARGEST = 3.4028234663852886e38  # a score is a float32
_MOST_GOLDEN = 64  # golden frames; `calibrate` writes 8

ThresholdRule = Literal["conformal", "cross-fitted", "best-f1", "recall"]
Covers = Literal["parts", "images"]


class GraphDecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The decision for one graph or engine, fitted on its own scores of held-out good images.

    With the rule ``cross-fitted`` the scores are of all good images: the held-out ones scored by this graph, the others by networks
    fitted without them, on this graph's scale (`lrdan_edge.calibration.cross`).

    Attributes:
        graph_sha256: Sha256 of the graph that gave the scores, or that the engine was built from.
        threshold: A part is rejected if its score exceeds this.
        false_reject_rate: Fraction of good parts that are rejected, in (0, 1): promised by the rule ``conformal``, aimed at by
            ``cross-fitted``, otherwise estimated from the good images as (rejected + 1) / (n + 1).
        n: Number of good images that the threshold is fitted on.
        good_scores: Scores of those images, ascending; a verdict's p-value is its rank among them.
        quantiles: Quantiles of the good scores by name (``p50``, ``p99``, …).
        rule: How the threshold was set: from good images only (``conformal``, ``cross-fitted``), or also from labelled defects
            (``best-f1``, ``recall``).
        good_images: Names of the images, in the order of their scores.
        defect_scores: Scores of the labelled defects, ascending; empty if the threshold does not depend on them.
        recall: Fraction of defective parts found: promised by the rule ``recall``, measured by ``best-f1``, else None.
        engine_sha256: Sha256 of the engine that gave the scores, or None for the graph.
        pixel_threshold: Heatmap value that the largest value of a good image exceeds with a probability of at most the false-reject
            rate, found by the rank of a conformal threshold (the largest of n values if n is too small). None if the score is the
            heatmap's largest value, so that `threshold` applies, or in bundles from earlier versions.
        golden_scores: Golden-frame scores of the backend that the decision was fitted on; empty if those in
            ``golden/scores.json`` apply.
        groups: Number of parts (groups of images) that the good images show; None if it is not known, or in bundles from
            earlier versions.
        covers: What the promised false-reject rate covers: new ``parts`` like these, or only more ``images`` like these. None if
            nothing is promised, or in bundles from earlier versions.
        folds: Number of folds of the rule ``cross-fitted``, otherwise None.
        proven_false_reject_rate: What is proven about the false-reject rate of the rule ``cross-fitted``: it is at most this;
            otherwise None.
    """

    graph_sha256: str
    threshold: float
    false_reject_rate: float
    n: int
    good_scores: list[float]
    quantiles: dict[str, float]
    rule: ThresholdRule = "conformal"
    good_images: list[str] = []
    defect_scores: list[float] = []
    recall: float | None = None
    engine_sha256: str | None = None
    pixel_threshold: float | None = None
    golden_scores: list[float] = []
    groups: int | None = None
    covers: Covers | None = None
    folds: int | None = None
    proven_false_reject_rate: float | None = None


class Decision(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """``decision.json``: one `GraphDecision` per graph, by precision."""

    schema_version: int
    graphs: dict[str, GraphDecision]


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``golden/scores.json``: a few good frames (PNG files beside it) and each graph's scores of them, in the images' order.

    Attributes:
        schema_version: The manifest's schema version.
        images: File names.
        scores: Scores per graph.
        peaks: Largest heatmap values per graph, if they are not the scores.
    """

    schema_version: int
    images: list[str]
    scores: dict[str, list[float]]
    peaks: dict[str, list[float]] = {}


def require_plausible(decision: GraphDecision, path: Path) -> GraphDecision:
    """Return a decision that was read from a file, if it is one that a calibration can have made.

    Raises:
        BundleError: Its numbers contradict each other, are no scores, or no score can exceed the threshold.
    """
    if wrong := _contradiction(decision):
        raise _implausible(path, wrong)
    return decision


def require_plausible_golden(golden: Golden, path: Path) -> Golden:
    """As `require_plausible`, for golden frames and their scores."""
    lists, frames = [*golden.scores.items(), *golden.peaks.items()], len(golden.images)
    if wrong := next((f"{len(scores)} {key}" for key, scores in lists if len(scores) != frames), None):
        raise _implausible(path, f"it has {wrong} scores for {frames} golden frames")
    if not 1 <= frames <= _MOST_GOLDEN:
        raise _implausible(path, f"it lists {frames} golden frames")
    if not _are_scores(score for _, scores in lists for score in scores):
        raise _implausible(path, "a score is not a finite float32")
    return golden


def _contradiction(found: GraphDecision) -> str | None:
    scores = [*found.good_scores, *found.defect_scores]
    others = [found.threshold, *found.golden_scores, *found.quantiles.values()]
    if not _are_scores(scores) or not _are_scores(others):
        return "a score is not a finite float32"
    if found.pixel_threshold is not None and not _are_scores([found.pixel_threshold]):
        return f"its pixel threshold is {found.pixel_threshold:g}"
    if found.n < 1 or found.n != len(found.good_scores) or (found.good_images and found.n != len(found.good_images)):
        return f"it lists {len(found.good_scores)} scores and {len(found.good_images)} names of {found.n} good images"
    if found.good_scores != sorted(found.good_scores) or found.defect_scores != sorted(found.defect_scores):
        return "its scores are not ascending"
    if found.threshold > max(scores):
        return f"its threshold {found.threshold:g} is above every score that it was fitted on, {max(scores):g} at most"
    rates = {
        "false-reject rate": found.false_reject_rate,
        "proven false-reject rate": found.proven_false_reject_rate,
        "recall": found.recall,
    }
    if wrong := next((name for name, rate in rates.items() if rate is not None and not 0 <= rate <= 1), None):
        return f"its {wrong} is {rates[wrong]:g}"
    counts = {"groups": found.groups, "folds": found.folds}
    if few := next((name for name, count in counts.items() if count is not None and not 1 <= count <= found.n), None):
        return f"it has {counts[few]} {few} of {found.n} good images"
    return None


def _are_scores(values: Iterable[float]) -> bool:
    return all(math.isfinite(value) and abs(value) <= _LARGEST for value in values)


def _implausible(path: Path, wrong: str) -> BundleError:
    return BundleError(
        f"{path} is not valid ({wrong})", "restore it from a copy, or run '{command}' again", command=Command("calibrate")
    )
