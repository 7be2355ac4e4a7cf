"""How well scores and heatmaps separate good from defective, and how much two score vectors differ."""

import numpy as np
import numpy.typing as npt

_BINS = 1 << 20


def auroc(good: npt.ArrayLike, defective: npt.ArrayLike) -> float:
    """Area under the ROC curve: the probability that a defective part scores higher than a good one; a tie counts half.

    Computed from ranks (Mann and Whitney, 1947).

    Args:
        good: Scores of good parts, [n], finite.
        defective: Scores of defective parts, [m], finite.

    Returns:
        In [0, 1]; NaN if either is empty.
    """
    low, high = np.sort(np.asarray(good, np.float64)), np.asarray(defective, np.float64)
    if not len(low) or not len(high):
        return float("nan")
    below = np.searchsorted(low, high, side="left")
    ties = np.searchsorted(low, high, side="right") - below
    return float((below + 0.5 * ties).sum() / (len(low) * len(high)))


def roc_curve(good: npt.ArrayLike, defective: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """False-reject rate and recall over all thresholds, each float64 [k] ascending from 0 to 1."""
    low, high = np.sort(np.asarray(good, np.float64)), np.sort(np.asarray(defective, np.float64))
    thresholds = np.unique(np.concatenate([low, high]))[::-1]
    rejects = 1 - np.searchsorted(low, thresholds, side="left") / len(low)
    detections = 1 - np.searchsorted(high, thresholds, side="left") / len(high)
    return np.concatenate([[0.0], rejects]), np.concatenate([[0.0], detections])


class PixelAuroc:
    """Pixel AUROC over any number of heatmaps in bounded memory.

    Values are counted in 2²⁰ bins of the float32 number line (sign, exponent and the first 11 bits of the fraction), so two
    pixels fall into different bins if they differ by more than one part in 2000.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._counts = np.zeros((2, _BINS), np.int64)

    def add(self, heatmap: npt.NDArray[np.float32], defective: npt.NDArray[np.bool_]) -> None:
        """Count one image: heatmap float32 [h, w], mask bool [h, w]."""
        bits = np.ascontiguousarray(heatmap, np.float32).view(np.uint32)
        ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # these unsigned integers sort like the floats
        bins = ordered >> 12
        for row, mask in enumerate((~defective, defective)):
            self._counts[row] += np.bincount(bins[mask], minlength=_BINS)

    def value(self) -> float:
        """The AUROC in [0, 1]; NaN without defective or without good pixels."""
        good, defective = self._counts
        if not good.any() or not defective.any():
            return float("nan")
        below = np.cumsum(good) - good
        return float((defective * (below + 0.5 * good)).sum() / (good.sum() * defective.sum()))


def binomial_bound(n: int, rate: float, confidence: float = 0.99) -> int:
    """The largest number of events among `n` that a true rate of `rate` explains: the smallest k with P(X ≤ k) ≥ `confidence`."""
    k = np.arange(n + 1)
    steps = np.log(np.maximum(n - k[:-1], 1)) - np.log(k[1:])
    log_choose = np.concatenate([[0.0], np.cumsum(steps)])
    pmf = np.exp(log_choose + k * np.log(rate) + (n - k) * np.log1p(-rate))
    return int(np.searchsorted(np.cumsum(pmf), confidence))


def relative_differences(
    actual: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], unit: float = 0.0
) -> npt.NDArray[np.float64]:
    """Differences of two score vectors, relative to the score, the median score or a unit, whichever is largest.

    A normalised score or a log-odds may be near zero, where a purely relative difference is meaningless.

    Args:
        actual: Scores, float32 [n].
        expected: The scores they should be, float32 [n].
        unit: The unit of the scores; see ``Scoring.unit`` in the manifest.

    Returns:
        float64 [n], 0 or more; NaN where a score is not a number.
    """
    size = np.abs(expected.astype(np.float64))
    scale = np.maximum(size, max(float(np.median(size)), unit, 1e-6))
    return np.asarray(np.abs(actual.astype(np.float64) - expected) / scale)
