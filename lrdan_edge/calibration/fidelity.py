"""Fidelity of an int8 graph to the fp32 graph: ranks of scores, verdicts, AUROC."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

from lrdan_edge.backends.base import Backend, slices
from lrdan_edge.backends.onnxruntime import OnnxRuntimeBackend
from lrdan_edge.calibration.decision import conformal_rank
from lrdan_edge.calibration.images import FrameLoader
from lrdan_edge.data.dataset import LabelledImage
from lrdan_edge.data.images import Frame
from lrdan_edge.data.painted import paint_defects
from lrdan_edge.metrics import Recall, auroc, recall_at

if TYPE_CHECKING:
    import onnx

LEAST_RANK_CORRELATION = 0.98
LARGEST_AUROC_DIFFERENCE = 0.005
_BATCH = 16
_QUICK_PIXELS = 1 << 21  # 128 images of 128x128
_FEWEST_QUICK = 32

Scores = npt.NDArray[np.float32]


class Fidelity(msgspec.Struct, frozen=True, kw_only=True):
    """Comparison of an int8 graph's scores with the fp32 graph's.

    Attributes:
        images: Number of good images in the comparison.
        rank_correlation: Spearman's rank correlation of good images' scores.
        painted_rank_correlation: The same for these images with painted defects (`paint_defects`).
        added_spread: Standard deviation of the score differences over that of the fp32 scores.
        verdicts_changed: Fraction of good images that only one of the graphs rejects, each at its own threshold for the same
            false-reject rate.
        auroc: AUROC of the int8 graph on labelled images, or without them on good images and painted defects.
        auroc_fp32: AUROC of the fp32 graph on the same images.
        recall: Recall of the int8 graph on labelled images where the target false-reject rate of them is rejected (see
            `lrdan_edge.metrics.recall_at`), or None without labelled images.
        recall_fp32: The same of the fp32 graph.
    """

    images: int
    rank_correlation: float
    painted_rank_correlation: float
    added_spread: float
    verdicts_changed: float
    auroc: float
    auroc_fp32: float
    recall: Recall | None = None
    recall_fp32: Recall | None = None

    @property
    def worst_rank_correlation(self) -> float:
        """The lower of the two correlations; -1 if one is NaN.

        Defects reveal a range that is too narrow, good images one that is too wide.
        """
        both = (self.rank_correlation, self.painted_rank_correlation)
        return -1.0 if any(map(math.isnan, both)) else min(both)

    def broken(self, false_reject_rate: float) -> list[str]:
        """Describe the bounds that are broken; empty if the int8 graph may be used.

        Args:
            false_reject_rate: The target rate; at most this fraction of good images may change its verdict.
        """
        found = []
        if not self.rank_correlation >= LEAST_RANK_CORRELATION:
            found.append(f"rank correlation {self.rank_correlation:.4f}, bound {LEAST_RANK_CORRELATION}")
        most = max(false_reject_rate, 1 / self.images)
        if self.verdicts_changed > most + 1e-9:
            found.append(f"{self.verdicts_changed:.1%} of good images change their verdict, bound {most:.1%}")
        difference = abs(self.auroc - self.auroc_fp32)
        if not difference <= LARGEST_AUROC_DIFFERENCE:
            found.append(f"AUROC differs by {difference:.4f}, bound {LARGEST_AUROC_DIFFERENCE}")
        return found


@dataclass(frozen=True)
class ScorePair:
    """Scores of the same good images by the fp32 and the int8 graph, float32 [n] each, in the same order."""

    fp32: Scores
    int8: Scores


class QuantizationEvaluator:
    """Compares int8 graphs with the fp32 graph on images that are not used for ranges or thresholds.

    Attributes:
        fp32: Scores of the good images by the fp32 graph, float32 [n].
        painted_fp32: The same of these images with painted defects.
        quick: Number of good images that suffice to compare many int8 graphs; the larger the images, the fewer, since they take longer.
    """

    def __init__(
        self,
        fp32: "onnx.ModelProto",
        good: list[Path],
        loader: FrameLoader,
        false_reject_rate: float,
        labelled: list[LabelledImage] | None = None,
    ) -> None:
        """Paint defects into the good images, and score both with the fp32 graph.

        Args:
            fp32: The fp32 deploy graph.
            good: Good images.
            loader: Loads the images.
            false_reject_rate: The rate at which verdicts are compared.
            labelled: Good and defective images for AUROC, or None.

        Raises:
            DataError: An image cannot be read.
        """
        self._loader, self._rate = loader, false_reject_rate
        self._frames = loader.load(good)
        self._labelled = labelled or []
        self.quick = max(_FEWEST_QUICK, _QUICK_PIXELS // (loader.shape[0] * loader.shape[1]))
        self._painted = paint_defects(self._frames, loader.region)
        self.fp32, self.painted_fp32 = self._both(fp32, _spread(len(self._frames), None))
        self._labelled_fp32 = self._scores_of(fp32, self._labelled)

    @property
    def images(self) -> int:
        """Number of good images."""
        return len(self._frames)

    def measure(self, model: "onnx.ModelProto", most: int | None = None) -> Fidelity:
        """Measure an int8 graph's fidelity to fp32.

        Args:
            model: The graph.
            most: Largest number of good images, and of pairs of labelled ones; None for all.
        """
        places = _spread(len(self._frames), most)
        marked = _spread(len(self._labelled), most and 2 * most)
        fp32, painted_fp32 = self.fp32[places], self.painted_fp32[places]
        scores, painted = self._both(model, places)
        labelled = [self._labelled[place] for place in marked]
        area, recall = self._separation(labelled, self._scores_of(model, labelled), (scores, painted))
        area_fp32, recall_fp32 = self._separation(labelled, self._labelled_fp32[marked], (fp32, painted_fp32))
        return Fidelity(
            images=len(scores),
            rank_correlation=rank_correlation(fp32, scores),
            painted_rank_correlation=rank_correlation(painted_fp32, painted),
            added_spread=_added_spread(ScorePair(fp32, scores)),
            verdicts_changed=_verdicts_changed(ScorePair(fp32, scores), self._rate),
            auroc=area,
            auroc_fp32=area_fp32,
            recall=recall,
            recall_fp32=recall_fp32,
        )

    def added_spread(self, model: "onnx.ModelProto", most: int) -> float:
        """`Fidelity.added_spread` on a few good images, or on the same with painted defects if it is larger: to compare layers.

        Defects reveal a range that is too narrow, good images one that is too wide.

        Args:
            model: An int8 graph.
            most: Largest number of images of each kind.
        """
        places = _spread(len(self._frames), most)
        scores, painted = self._both(model, places)
        pairs = (ScorePair(self.fp32[places], scores), ScorePair(self.painted_fp32[places], painted))
        return max(map(_added_spread, pairs))

    def score_pair(self, model: "onnx.ModelProto") -> ScorePair:
        """Both graphs' scores of the good images."""
        return ScorePair(self.fp32, self.scores(model, slices(self._frames, _BATCH)))

    def scores(self, model: "onnx.ModelProto", frames: Iterable[Frame]) -> Scores:
        """Score in floating point, so that every processor gives the same float32 [n].

        Args:
            model: The graph.
            frames: Batches.
        """
        with OnnxRuntimeBackend(model.SerializeToString(), "int8", in_floats=True) as backend:
            return np.concatenate([backend.infer(np.ascontiguousarray(part), heatmap=False).score for part in frames])

    def kernel_difference(self, kernels: Backend, int8: Scores) -> float:
        """The largest score difference caused by this machine's integer kernels on the good images.

        Args:
            kernels: A backend that runs an int8 graph.
            int8: Floating-point scores of the same graph and images from `scores`, float32 [n].

        Returns:
            The difference in standard deviations of the fp32 scores, 0 or more.
        """
        scores = np.concatenate([kernels.infer(part, heatmap=False).score for part in slices(self._frames, _BATCH)])
        difference = float(np.abs(scores.astype(np.float64) - int8).max())
        spread = float(np.std(self.fp32.astype(np.float64)))
        return difference / spread if spread else (0.0 if difference == 0 else math.inf)

    def _both(self, model: "onnx.ModelProto", places: npt.NDArray[np.int64]) -> tuple[Scores, Scores]:
        """Scores of some good images, and of the same with painted defects; the graph, which may be large, is loaded once."""
        frames = chain.from_iterable(slices(kind[places], _BATCH) for kind in (self._frames, self._painted))
        good, painted = np.split(self.scores(model, frames), 2)
        return good, painted

    def _scores_of(self, model: "onnx.ModelProto", labelled: list[LabelledImage]) -> Scores:
        if not labelled:
            return np.empty(0, np.float32)
        return self.scores(model, self._loader.batches([image.path for image in labelled], _BATCH))

    def _separation(
        self, labelled: list[LabelledImage], scores: Scores, without: tuple[Scores, Scores]
    ) -> tuple[float, Recall | None]:
        """AUROC and recall on labelled images; if there are none, AUROC on good images and painted defects (`without`), and None."""
        if not labelled:
            return auroc(*without), None
        defective = np.array([image.defective for image in labelled])
        low, high = scores[~defective], scores[defective]
        return auroc(low, high), recall_at(low, high, self._rate)


def _spread(count: int, most: int | None) -> npt.NDArray[np.int64]:
    """The places of at most `most` of `count` things, evenly spread."""
    return np.linspace(0, max(0, count - 1), count if most is None else min(most, count)).astype(np.int64)


def rank_correlation(first: Scores, second: Scores) -> float:
    """Spearman's rank correlation of two score vectors, in [-1, 1]; ties get their mean rank. NaN if one is constant."""
    ranks = [_mean_ranks(scores) for scores in (first, second)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return 1.0 if np.array_equal(ranks[0], ranks[1]) else math.nan
    return float(np.corrcoef(ranks)[0, 1])


def _mean_ranks(scores: Scores) -> npt.NDArray[np.float64]:
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(count).astype(np.float64)
    return np.asarray((last - (count - 1) / 2)[place])


def _added_spread(pair: ScorePair) -> float:
    spread = float(np.std(pair.fp32.astype(np.float64)))
    added = float(np.std(pair.int8.astype(np.float64) - pair.fp32))
    return added / spread if spread else (0.0 if added == 0 else math.inf)


def _verdicts_changed(pair: ScorePair, false_reject_rate: float) -> float:
    """The fraction of images that only one graph rejects, each by its conformal threshold, or above all scores if they are few."""
    rank = min(conformal_rank(len(pair.fp32), false_reject_rate), len(pair.fp32))
    rejected = [scores > np.sort(scores)[rank - 1] for scores in (pair.fp32, pair.int8)]
    return float(np.mean(rejected[0] != rejected[1]))
