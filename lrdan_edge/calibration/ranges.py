"""Ranges of activations: one pass over real images, in bounded memory, for all calibration methods."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from lrdan_edge.backends.onnxruntime import session_options
from lrdan_edge.calibration.images import FrameLoader
from lrdan_edge.calibration.methods import Method
from lrdan_edge.data.painted import paint_defects
from lrdan_edge.errors import CalibrationError

if TYPE_CHECKING:
    from lrdan_edge.calibration.quantise import QuantisableGraph

_PAINTED = "painted-"

BINS = 2048
_TAIL = 1e-4  # fraction of magnitudes above the lowest percentile
_LEVELS = 128  # magnitudes of a symmetric int8
_ENTROPY_STEP = 8
_PIXELS_PER_BATCH = 1 << 18  # keeps one batch's activations near 50 MB
_CHUNK = 1 << 16  # values that are counted at once: they stay in the processor's cache

Counts = npt.NDArray[np.int64]


class MagnitudeHistogram:
    """Magnitudes of one activation, counted in `BINS` equal bins from 0 to `top`, which doubles for a larger value.

    The largest magnitudes are kept exactly. A percentile is one of them and not the edge of a bin. So a difference in the last
    bit, as between processors, changes it only in the last bit.

    Attributes:
        largest: The largest magnitude seen.
        top: Upper edge of the last bin.
        counts: int64 [BINS].
    """

    def __init__(self, batches: int = 1) -> None:
        """Start empty.

        Args:
            batches: How often `add` will be called, with no more values than the first time.
        """
        self.largest = 0.0
        self.top = 0.0
        self.counts: Counts = np.zeros(BINS, np.int64)
        self._batches = batches
        self._most = 0
        self._least = -1.0  # the tail has all magnitudes above it
        self._tail: npt.NDArray[np.float32] = np.empty(0, np.float32)

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Count values, float32 of any shape.

        Raises:
            CalibrationError: A value is not finite.
        """
        flat = values.reshape(-1)
        largest = float(max(flat.max(initial=0.0), -flat.min(initial=0.0)))
        if not np.isfinite(largest):
            raise CalibrationError("an activation is not finite: the network is broken", "train again")
        self.largest = max(self.largest, largest)
        self.top = self.top or largest
        self._widen(largest)
        self._most = self._most or math.ceil(_TAIL * flat.size * self._batches) + 1
        tail = [self._tail]
        for start in range(0, flat.size, _CHUNK):
            magnitudes = np.abs(flat[start : start + _CHUNK])
            tail.append(magnitudes[magnitudes > self._least])
            self._count(magnitudes)
        self._tail = np.concatenate(tail)
        if len(self._tail) > 2 * self._most:  # seldom, since this is slow
            self._tail = np.partition(self._tail, -self._most)[-self._most :]
            self._least = float(self._tail.min())

    def _count(self, magnitudes: npt.NDArray[np.float32]) -> None:
        if self.top:
            places = (magnitudes * np.float32(BINS / self.top)).astype(np.intp)
            self.counts += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)
        else:
            self.counts[0] += magnitudes.size

    def _widen(self, largest: float) -> None:
        """Double `top` until it is at least `largest`."""
        while self.top < largest:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)])
            self.top *= 2

    def merged(self, other: "MagnitudeHistogram") -> "MagnitudeHistogram":
        """The histogram of this one's and the other's values; their tops differ by a power of two, or one has only zeros."""
        whole = MagnitudeHistogram(self._batches)
        whole.largest = max(self.largest, other.largest)
        whole._most = max(self._most, other._most)
        whole._tail = np.concatenate([self._tail, other._tail])
        low, high = sorted((self, other), key=lambda one: one.top)
        whole.counts, whole.top = low.counts.copy(), low.top or high.top
        whole._widen(high.top)
        whole.counts += high.counts
        return whole

    def amplitude(self, method: str) -> float:
        """The largest magnitude that int8 should represent, by one method; 0 for an activation that is always 0.

        Args:
            method: ``min-max`` (the largest seen), ``percentile-P`` (P % of all magnitudes lie below), or ``entropy`` (as
                TensorRT's calibrator: least Kullback-Leibler divergence between histogram and its int8 form; Migacz, 2017).
        """
        if method == "min-max" or self.top == 0.0:
            return self.largest
        if method != "entropy":
            beyond = int((1 - float(method.removeprefix("percentile-")) / 100) * int(self.counts.sum()))
            return float(np.sort(self._tail)[::-1][min(beyond, len(self._tail) - 1)])
        return min(self.largest, least_divergent(self.counts) * self.top / BINS)


class ActivationRange:
    """Magnitudes of one activation on good images, and on the same images with painted defects.

    Ranges from good images only may clip the values of defects. Wider ranges round the values of good images more coarsely. The
    better choice depends on the network, so there are methods of both kinds.
    """

    def __init__(self, batches: int) -> None:
        """Start empty.

        Args:
            batches: How often `add` will be called, with no more values than the first time.
        """
        self._good, self._painted = (MagnitudeHistogram(2 * batches) for _ in range(2))  # twice, for both together

    @property
    def largest(self) -> float:
        """The largest magnitude seen in good images."""
        return self._good.largest

    def add(self, good: npt.NDArray[np.float32], painted: npt.NDArray[np.float32]) -> None:
        """Count values from good images, and from the same with painted defects: float32 of any shape.

        Raises:
            CalibrationError: A value is not finite.
        """
        for histogram, other, values in ((self._good, self._painted, good), (self._painted, self._good, painted)):
            histogram.top = histogram.top or other.top  # a common start, so that the two can be merged
            histogram.add(values)

    def amplitude(self, method: Method) -> float:
        """As `MagnitudeHistogram.amplitude`. Methods named ``painted-…`` use all images, others only good ones."""
        if not method.startswith(_PAINTED):
            return self._good.amplitude(method)
        return self._good.merged(self._painted).amplitude(method.removeprefix(_PAINTED))


def least_divergent(counts: Counts) -> int:
    """The number of histogram bins to keep so that int8 loses the least information.

    For each number of bins, the kept histogram, with all outliers in its last bin, is compared with its quantised form: the bins
    merged into 128 levels, and each level spread over its bins that are not empty.

    Args:
        counts: int64 [bins].

    Returns:
        Between 128 and the number of bins.
    """
    best, least = len(counts), np.inf
    total = counts.sum()
    for kept in range(_LEVELS, len(counts) + 1, _ENTROPY_STEP):
        inside = counts[:kept].astype(np.float64)
        filled = inside > 0
        reference = inside.copy()
        reference[-1] += total - inside.sum()
        level = np.arange(kept) * _LEVELS // kept
        mean = np.bincount(level, weights=inside) / np.maximum(np.bincount(level, weights=filled), 1)
        coded = np.where(filled, mean[level], 0.0)
        coded = (coded + 1e-9 * total) / (coded.sum() + 1e-9 * total * kept)
        reference /= total
        seen = reference > 0
        divergence = float((reference[seen] * np.log(reference[seen] / coded[seen])).sum())
        if divergence < least:
            best, least = kept, divergence
    return best


def collect_ranges(
    graph: "QuantisableGraph", images: list[Path], loader: FrameLoader, progress: Callable[[float], None] | None = None
) -> dict[str, ActivationRange]:
    """Measure the range of every activation to quantise, on good images and on the same images with painted defects.

    Args:
        graph: The graph.
        images: Good images that are not used for the threshold.
        loader: Loads the images.
        progress: Called with the fraction done, 0 to 1.

    Returns:
        A range per tensor of ``graph.tensors()``.

    Raises:
        CalibrationError: An activation is not finite.
        DataError: An image cannot be read.
    """
    tensors = graph.tensors()
    session = ort.InferenceSession(graph.with_outputs(tensors), session_options(), providers=["CPUExecutionProvider"])
    size = min(16, max(1, _PIXELS_PER_BATCH // (loader.shape[0] * loader.shape[1])))
    ranges = {tensor: ActivationRange(-(-len(images) // size)) for tensor in tensors}
    for done, frames in enumerate(loader.batches(images, size), start=1):
        good, painted = (session.run(tensors, {"frames": one}) for one in (frames, paint_defects(frames, loader.region)))
        for found, *values in zip(ranges.values(), good, painted, strict=True):
            found.add(*values)
        if progress:
            progress(min(1.0, done * size / len(images)))
    return ranges
