"""A threshold from out-of-fold scores (cross-fitting), so that no good image is lost to training.

The good images are divided into K folds, whole groups each. For every fold a model is fitted on the others and scores it. So every
good image has a score from a model that did not learn from it, and all n of them set the threshold, not a fifth. It costs K more
fits, which a recipe that fits in seconds can afford.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.decision import Covers
from lrdan_edge.calibration.decision import Scores, conformal_threshold, covered
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
    """

    threshold: float
    covers: Covers
    n: int
    groups: int | None
    folds: int


def cross_conformal(
    scores: Scores, folds: Sequence[int], false_reject_rate: float, groups: Sequence[int] | None = None
) -> CrossThreshold:
    """The conformal threshold of pooled out-of-fold scores, for the model that is fitted on all good images.

    What is proven holds for another method, which keeps the K models: cross-conformal prediction (Vovk, 2015), or CV+ (Barber, Candès,
    Ramdas and Tibshirani, 2021, arXiv 1905.02928). It rejects a new part if at most α(n + 1) - 1 of the n out-of-fold scores are not
    below the new part's score, each compared with the score by that image's own fold's model. If the n images and the new part are
    exchangeable, the folds equally large and fitting treats all images alike, the new part is rejected with probability at most
    2α + min(2(1 − 1/K) / (n/K + 1), (1 − K/n) / (K + 1)), which is below 2α + √(2/n).

    This threshold is a single number, applied to the score of one model fitted on all n images. For that no distribution-free bound is
    known, and none can be given without assumptions: that model has seen all n images, and its scores may lie elsewhere than those of
    the K models. In practice the rate is close to α where the score hardly depends on a fold more or less (a stable model). A model
    fitted on more images scores new good parts a little lower, so the threshold rather rejects too few. `benchmarks/thresholds.py`
    measures it on real scores.

    With `groups`, folds must not divide a group. Then parts take the place of images: each group counts once, as in
    `lrdan_edge.calibration.decision.conformal_threshold`, if the groups are enough for the rate.

    Args:
        scores: Out-of-fold scores of all good images, float32 [n].
        folds: The fold of each image, [n]; at least two different ones.
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
    threshold = conformal_threshold(scores, false_reject_rate, groups if covers == "parts" else None)
    return CrossThreshold(threshold, covers, len(scores), None if groups is None else len(set(groups)), len(set(folds)))


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
