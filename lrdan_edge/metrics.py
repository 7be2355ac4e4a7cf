"""How well scores and heatmaps separate good from defective, and how much two score vectors differ."""

import math

import msgspec
import numpy as np
import numpy.typing as npt

COMPARED_RATE = 0.02
"""The false-reject rate at which detectors are compared."""

_BINS = 1 << 20
_DRAWS = 1000
_CONFIDENCE = 0.95


class Recall(msgspec.Struct, frozen=True):
    """Fraction of defective parts found, with its 95 % interval; all in [0, 1].

    Attributes:
        value: The fraction found of the defective parts measured.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float

    def in_words(self) -> str:
        """The fraction and its interval: ``72.2% (95% interval 65.3% to 78.3%)``."""
        return f"{self.value:.1%} (95% interval {self.low:.1%} to {self.high:.1%})"

    def in_short(self) -> str:
        """The same for a table: ``0.722 [0.653, 0.783]``."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


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


def recall_above(defective: npt.ArrayLike, threshold: float) -> Recall:
    """Recall at a given threshold, with the interval of Clopper and Pearson (1934).

    The interval says how far the recall on new defects like these may be from the one measured, at this very threshold. The spread of
    the threshold itself, which would be another one with other good images, is not in it.

    Args:
        defective: Scores of defective parts, [m], m > 0, finite.
        threshold: A part is found if its score exceeds this.
    """
    high = np.asarray(defective, np.float64)
    return recall_of(int(np.count_nonzero(high > threshold)), len(high))


def recall_of(found: int, defective: int) -> Recall:
    """Recall where `found` of `defective` parts were found, with the interval of `recall_above`.

    Args:
        found: 0 to `defective`.
        defective: At least 1.
    """
    tail, missed = (1 - _CONFIDENCE) / 2, defective - found
    low = beta_quantile(found, missed + 1, tail) if found else 0.0
    high = beta_quantile(found + 1, missed, 1 - tail) if missed else 1.0
    return Recall(found / defective, low, high)


def threshold_at(good: npt.ArrayLike, false_reject_rate: float) -> float:
    """The smallest of the good scores that at most the fraction `false_reject_rate` of them exceeds.

    Without ties it is the ⌈n(1 − α)⌉-th smallest of n, so ⌊nα⌋ good parts are rejected; with ties at the threshold, fewer. With
    n < 1/α good parts it is the largest score, and none is rejected. It describes these n parts and promises nothing about new
    ones: a promise takes ⌈(n + 1)(1 − α)⌉ (`lrdan_edge.calibration.decision.conformal_threshold`).

    Args:
        good: Scores of good parts, [n], n > 0, finite.
        false_reject_rate: α in (0, 1).
    """
    low = np.sort(np.asarray(good, np.float64))
    return float(low[_rank_at(len(low), false_reject_rate) - 1])


def _rank_at(n: int, false_reject_rate: float) -> int:
    return max(1, math.ceil(round(n * (1 - false_reject_rate), 9)))


def recall_at(
    good: npt.ArrayLike, defective: npt.ArrayLike, false_reject_rate: float = COMPARED_RATE, seed: int = 0
) -> Recall | None:
    """Recall where at most the fraction `false_reject_rate` of these good parts is rejected: a point of the ROC curve.

    The threshold is `threshold_at` of the good scores measured, so that detectors can be compared whatever their own thresholds are.
    A defective part that ties with it counts as missed. With n < 1/α good parts, this is the recall at no false reject.

    The interval counts both sources of chance: the good parts set the threshold, and the defective parts are a sample. It is a
    percentile bootstrap of 1000 thresholds; at each, the recall is drawn from the Beta distributions of Clopper and Pearson, so
    that it is wide enough where all or no defects are found. A resample of n good scores has as its r-th smallest the score of
    rank ⌊nB⌋ + 1 with B from Beta(r, n − r + 1), which is drawn directly. With n < 4/α the threshold is one of the largest scores,
    which a bootstrap cannot exceed: the lower end is then too high (for normal scores the interval covers about 90 % at n = 2/α,
    and 75 % to 80 % at 1/α). Without assumptions nothing better than 0 could stand there.

    Args:
        good: Scores of good parts, [n], finite.
        defective: Scores of defective parts, [m], finite.
        false_reject_rate: α in (0, 1).
        seed: Random seed of the bootstrap.

    Returns:
        The recall; None if there are no good or no defective parts.
    """
    low, high = np.sort(np.asarray(good, np.float64)), np.sort(np.asarray(defective, np.float64))
    n, m = len(low), len(high)
    if not n or not m:
        return None
    rank, rng = _rank_at(n, false_reject_rate), np.random.default_rng(seed)
    drawn = low[np.minimum(rng.beta(rank, n - rank + 1, _DRAWS) * n, n - 1).astype(np.int64)]
    found = m - np.searchsorted(high, drawn, side="right")
    least = np.where(found > 0, rng.beta(np.maximum(found, 1), m - found + 1), 0.0)
    most = np.where(found < m, rng.beta(found + 1, np.maximum(m - found, 1)), 1.0)
    value = float(np.mean(high > low[rank - 1]))
    tail = (1 - _CONFIDENCE) / 2
    return Recall(value, min(value, float(np.quantile(least, tail))), max(value, float(np.quantile(most, 1 - tail))))


def beta_quantile(a: int, b: int, probability: float) -> float:
    """Quantile of Beta(a, b), by bisection over P(Beta ≤ x) = P(Binomial(a + b − 1, x) ≥ a).

    Args:
        a: At least 1.
        b: At least 1.
        probability: In (0, 1).
    """
    n = a + b - 1
    counts = np.arange(a, n + 1)
    log_choose = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in counts])
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = float(np.exp(log_choose + counts * math.log(middle) + (n - counts) * math.log1p(-middle)).sum())
        low, high = (middle, high) if below < probability else (low, middle)
    return (low + high) / 2


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
