"""A threshold from out-of-fold scores (cross-fitting), so that every good image counts, not only the held-out ones.

The good images are divided into K folds, whole groups each. For every fold a model is fitted on the others and scores it. So every
good image has a score from a model that did not learn from it, and all n of them set the threshold, not a fifth. The model that
is used is that of fold 0, so it too has seen neither more nor fewer folds than the others. It costs K - 1 more fits, which a recipe
that fits in seconds can afford.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from lrdan_edge.bundle.decision import Covers, GraphDecision
from lrdan_edge.bundle.out_of_fold import OutOfFold
from lrdan_edge.calibration.decision import Scores, ThresholdTarget, conformal_threshold, covered, decide, pixel_threshold
from lrdan_edge.errors import CalibrationError


@dataclass(frozen=True)
class CrossThreshold:
    """A threshold from out-of-fold scores; for what is and is not proven see `cross_conformal`.

    Attributes:
        threshold: A part is rejected if its score exceeds this.
        covers: Whether new ``parts`` are meant, each group counted once, or only more ``images`` of these parts.
        n: Number of scores.
        groups: Number of groups, or None if unknown.
        folds: Number of folds.
        proven_rate: The proven bound of the false-reject rate of fold 0's model.
    """

    threshold: float
    covers: Covers
    n: int
    groups: int | None
    folds: int
    proven_rate: float


def cross_conformal(
    scores: Scores, folds: Sequence[int], false_reject_rate: float, groups: Sequence[int] | None = None
) -> CrossThreshold:
    """The conformal threshold of pooled out-of-fold scores, for the model that was fitted without fold 0.

    No distribution-free guarantee of α is known for one threshold of pooled scores. What is proven:

    - The rate is at most ⌊α(n + 1)⌋ / (m + 1), about Kα, with the m images of fold 0: at most ⌊α(n + 1)⌋ - 1 of all scores exceed
      the threshold, so no more of fold 0's do. So the threshold is not below a conformal threshold of fold 0 for this rate, which
      holds if the new part and the images of fold 0 are exchangeable. The other folds' scores may be anything. With groups of which
      G are in all folds and M in fold 0, it is α(G + 1) / (M + 1).
    - If the K models are kept, a new part is rejected with probability at most 2α + min(2(1 - 1/K) / (n/K + 1), (1 - K/n) / (K + 1)),
      which is below 2α + √(2/n). It is rejected if at most α(n + 1) - 1 of the n out-of-fold scores are not below the new part's
      score, each compared with the score by that image's own fold's model (Barber, Candès, Ramdas and Tibshirani, 2021, arXiv
      1905.02928; Vovk, 2015). That is another method: here one model scores the new part.

    The rate is close to α where the score hardly depends on which fold was left out (a stable model): then the K models' scores have
    nearly one distribution, of which the threshold is a quantile. ``benchmarks/thresholds.py`` measures it with real refits.

    With `groups`, folds must not divide a group. Then parts take the place of images: each group counts once, as in
    `lrdan_edge.calibration.decision.conformal_threshold`, if the groups are enough for the rate.

    Args:
        scores: Out-of-fold scores of all good images, float32 [n].
        folds: The fold of each image, [n]; at least two different ones, one of which is 0.
        false_reject_rate: α in (0, 1).
        groups: The group of each image, [n], or None if unknown.

    Raises:
        CalibrationError: The lengths differ, there is one fold only, a group is in two folds, a score is not finite, or there are
            fewer than 1/α − 1 scores.
    """
    if len(folds) != len(scores) or (groups is not None and len(groups) != len(scores)):
        raise CalibrationError(f"{len(scores)} scores need a fold each, and a group each if groups are given")
    if len(set(folds)) < 2:
        raise CalibrationError("all images are in one fold: cross-fitting needs at least two")
    if groups is not None and len(set(zip(groups, folds, strict=True))) > len(set(groups)):
        raise CalibrationError("a group of images is in two folds, so a model has seen the part that it scores")
    covers = covered(groups, false_reject_rate)
    apart = groups if covers == "parts" else None
    threshold = conformal_threshold(scores, false_reject_rate, apart)
    above = false_reject_rate * (len(set(apart or range(len(scores)))) + 1)
    own = [place if apart is None else apart[place] for place, fold in enumerate(folds) if fold == 0]
    proven = (math.floor(round(above, 9)) if apart is None else above) / (len(set(own)) + 1)
    known = None if groups is None else len(set(groups))
    return CrossThreshold(threshold, covers, len(scores), known, len(set(folds)), min(1.0, proven))


def pooled_scores(own: Scores, found: OutOfFold) -> Scores:
    """All good images' scores on the scale of one graph or engine, float32 [n].

    A graph scores the held-out images itself. The others' scores are by networks in float32, which no graph was made from. They are
    mapped by the line that gives the held-out images' float32 scores the mean and the deviation of this graph's: so a shift, a
    factor and the spread that rounding adds (int8) are those of the held-out images. For an fp32 graph the line changes nothing
    but the last digits. What `CrossThreshold.proven_rate` says does not depend on it.

    Args:
        own: The held-out images' scores by the graph, float32 [m], in the order of the manifest.
        found: The out-of-fold scores.

    Raises:
        CalibrationError: The numbers of held-out images differ.
    """
    m, recorded = found.held_out, np.array(found.scores)
    if len(own) != m:
        raise CalibrationError(f"there are scores of {len(own)} held-out images, and out-of-fold scores of {m}")
    spread = float(np.std(recorded[:m]))
    factor = float(np.std(own, dtype=np.float64)) / spread if spread > 0 else 1.0
    mapped = np.mean(own, dtype=np.float64) + factor * (recorded[m:] - recorded[:m].mean())
    return np.concatenate([own, mapped.astype(np.float32)])


def decide_graph(
    good: Scores, target: ThresholdTarget, graph_sha256: str, out_of_fold: OutOfFold | None, **given: Any
) -> GraphDecision:
    """Make the decision of one graph or engine; with the rule ``cross-fitted``, from all good images.

    Args:
        good: Its scores of held-out good images, float32 [m].
        target: The threshold target.
        graph_sha256: See `decide`.
        out_of_fold: The out-of-fold scores, if the rule is ``cross-fitted``.
        given: See `decide`; its ``names``, ``peaks`` and ``groups`` are those of the held-out images.

    Raises:
        CalibrationError: As `decide`, `pooled_scores` and `cross_conformal`; or there are no out-of-fold scores.
    """
    if target.rule != "cross-fitted":
        return decide(good, target, graph_sha256, **given)
    if out_of_fold is None:
        raise CalibrationError("the rule cross-fitted needs out-of-fold scores", "give another {rule}")
    scores = pooled_scores(good, out_of_fold)
    peaks, groups = given.pop("peaks", None), given.pop("groups", None)
    given["names"] = [name.rsplit("/", 1)[-1] for name in out_of_fold.images]
    found = cross_conformal(scores, out_of_fold.folds, target.false_reject_rate, out_of_fold.groups)
    return replace(
        decide(scores, target, graph_sha256, groups=out_of_fold.groups, **given),
        pixel_threshold=None if peaks is None else pixel_threshold(peaks, target.false_reject_rate, groups),
        folds=found.folds,
        proven_false_reject_rate=found.proven_rate,
    )


def largest_of_groups(scores: Scores, groups: Sequence[int]) -> Scores:
    """The largest score of each group, float32 [K], in ascending order of the group numbers.

    A conformal threshold of these promises more than one that counts each group once: that **no** image of a new part is rejected,
    with probability at least 1 − α, if the new part is exchangeable with the held-out ones, also in its number of images. So it is
    higher. (Another way is to draw one image of each group; it promises the same as counting each group once, with more spread:
    Dunn, Wasserman and Ramdas, 2022, arXiv 1809.07441.)

    Args:
        scores: Scores of good images, float32 [n].
        groups: The group of each, [n].
    """
    _, place = np.unique(np.asarray(groups), return_inverse=True)
    largest: npt.NDArray[np.float32] = np.full(int(place.max(initial=-1)) + 1, -np.inf, np.float32)
    np.maximum.at(largest, place, scores)
    return largest
