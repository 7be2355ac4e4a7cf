"""The decision of a graph: a threshold with a guaranteed rate (split conformal prediction).

The threshold is the ⌈(n+1)(1−α)⌉-th smallest of n held-out good scores. It rejects a new good part with probability at most α for
any distribution of scores, if the new part and the held-out ones are exchangeable (Vovk et al., 2005; Lei et al., 2018, Theorem
2.2). If several images show one part, the parts are exchangeable, not the images, and each part must count once (`conformal_threshold`
with groups). A threshold just below the ⌊(m+1)(1−r)⌋-th smallest of m defect scores finds a new defect with probability r or more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.decision import Covers, GraphDecision, ThresholdRule
from lrdan_edge.errors import CalibrationError
from lrdan_edge.metrics import beta_quantile

DEFAULT_FALSE_REJECT_RATE = 0.02
DEFAULT_RECALL = 0.95
FROM_GOOD: tuple[ThresholdRule, ...] = ("conformal", "cross-fitted")
"""The rules that need only good images."""

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ThresholdTarget:
    """The target of a threshold.

    Attributes:
        rule: ``conformal``: reject at most the fraction `false_reject_rate` of good parts; needs only good images. ``cross-fitted``:
            the same from out-of-fold scores of all good images (`lrdan_edge.calibration.cross`), without the guarantee.
            ``recall``: find the fraction `recall` of defective parts, and reject at most `false_reject_rate` of good ones.
            ``best-f1``: the best F1 on the labelled images; promises nothing.
        false_reject_rate: In (0, 1).
        recall: In (0, 1).
    """

    rule: ThresholdRule = "conformal"
    false_reject_rate: float = DEFAULT_FALSE_REJECT_RATE
    recall: float = DEFAULT_RECALL

    def command_options(self) -> dict[str, Any]:
        """The options of the command ``calibrate`` for this target."""
        recall = self.recall if self.rule == "recall" else None
        return {"false_reject_rate": self.false_reject_rate, "threshold_from": self.rule, "recall": recall}

    def options(self) -> dict[str, Any]:
        """The target as recorded in the manifest."""
        return {"rule": self.rule, "false_reject_rate": self.false_reject_rate, "recall": self.recall}

    def require(self, good: int, defects: int) -> None:
        """Refuse a target that cannot be reached with this number of images.

        Raises:
            CalibrationError: A rate is outside (0, 1), or there are too few images of a kind.
        """
        require_rate("false-reject rate", self.false_reject_rate)
        if self.rule in FROM_GOOD:
            require_enough(good, self.false_reject_rate, "good" if self.rule == "cross-fitted" else "held-out good")
            return
        if not defects:
            raise CalibrationError(f"a threshold by {self.rule} needs labelled defects", "give their folder with {defects}")
        if self.rule == "recall":
            require_rate("recall", self.recall)
            if defects < (needed := images_needed(1 - self.recall)):
                raise CalibrationError(
                    f"{defects} defective images cannot promise a recall of {self.recall:g}, which needs {needed}",
                    "give more, or ask for {recall:{most}} or less",
                    most=math.floor(1000 * defects / (defects + 1)) / 1000,
                )


def images_needed(false_reject_rate: float) -> int:
    """The smallest number of held-out good images that can promise `false_reject_rate`: n ≥ 1/α − 1."""
    return math.ceil(round(1 / false_reject_rate - 1, 9))


def reachable_rate(n: int, wanted: float = DEFAULT_FALSE_REJECT_RATE) -> float:
    """The default rate: `wanted`, or the lowest that `n` images can promise, rounded up to a tenth of a per cent.

    Args:
        n: Number of good images that set the threshold, at least 1.
        wanted: In (0, 1).
    """
    return wanted if n >= images_needed(wanted) else lowest_rate(n)


def lowest_rate(n: int) -> float:
    """The lowest rate that `n` images can promise, 1/(n + 1), rounded up to a tenth of a per cent."""
    return math.ceil(1000 / (n + 1)) / 1000


def raised_note(n: int, rate: float, wanted: float = DEFAULT_FALSE_REJECT_RATE) -> list[str]:
    """A note that `rate` was chosen because `n` images cannot promise `wanted`; empty if `wanted` was kept."""
    if rate <= wanted:
        return []
    return [
        f"{n} good images can promise a false-reject rate of {rate:.1%} at best, so this rate was chosen; {wanted:.1%} needs "
        f"{images_needed(wanted)} images"
    ]


def parts_note(images: int, parts: int | None, false_reject_rate: float) -> list[str]:
    """A note that new parts get a weaker promise if several images show the same part; otherwise empty.

    Args:
        images: Number of held-out good images.
        parts: Number of parts that they show, or None if unknown.
        false_reject_rate: The promised rate, in (0, 1).
    """
    if parts is None or parts >= images_needed(false_reject_rate):
        return []
    return [
        f"the {images} held-out images show {parts} parts: {false_reject_rate:.2%} false rejects holds for more images of these "
        f"parts, and for new parts {1 / (parts + 1):.1%} at best ({images_needed(false_reject_rate)} parts would be enough)"
    ]


def require_rate(name: str, rate: float) -> None:
    """Refuse a rate that is not valid.

    Raises:
        CalibrationError: The rate is outside (0, 1).
    """
    if not 0 < rate < 1:
        raise CalibrationError(f"the {name} must lie between 0 and 1 (0.02 is 2 %), got {rate:g}")


def require_enough(n: int, false_reject_rate: float, kind: str = "held-out good") -> None:
    """Refuse a rate that `n` images cannot promise; `kind` says which images, for the message.

    Raises:
        CalibrationError: The rate is outside (0, 1), or `n` is too small for it.
    """
    require_rate("false-reject rate", false_reject_rate)
    if n < (needed := images_needed(false_reject_rate)):
        best = lowest_rate(n)
        raise CalibrationError(
            f"{n} {kind} images cannot promise a false-reject rate of {false_reject_rate:g}, which needs {needed}",
            "give more good images, or ask for {false_reject_rate:{best}} or more",
            best=best,
        )


def conformal_rank(n: int, false_reject_rate: float) -> int:
    """The rank, from 1, of the threshold among n ascending scores: ⌈(n+1)(1−α)⌉."""
    return math.ceil(round((n + 1) * (1 - false_reject_rate), 9))


def conformal_threshold(scores: Scores, false_reject_rate: float, groups: Sequence[int] | None = None) -> float:
    """The ⌈(n+1)(1−α)⌉-th smallest score, or the same with every group of images counted once.

    With K groups it is the smallest score t such that the fractions of each group's scores up to t add up to (K+1)(1−α) or more;
    with one image per group that is the same. One image of a new part is then rejected with probability at most α, if the new part
    and the K held-out ones are exchangeable, and the images of a part among each other (hierarchical conformal prediction: Lee,
    Barber and Willett, 2023, arXiv 2306.06342; after Dunn, Wasserman and Ramdas, 2022, arXiv 1809.07441).

    Args:
        scores: Scores of held-out good images, float32 [n].
        false_reject_rate: α in (0, 1).
        groups: The group of each score, or None: each is a group of its own.

    Raises:
        CalibrationError: There are fewer than 1/α − 1 scores or groups, the rate is outside (0, 1), or a score is not finite.
    """
    n = len(scores)
    require_enough(n if groups is None else len(set(groups)), false_reject_rate)
    _require_finite(scores, "good")
    order = np.sort(scores)
    if groups is None:
        return float(order[conformal_rank(n, false_reject_rate) - 1])
    _, place, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    shares = np.cumsum(1 / sizes[place][np.argsort(scores, kind="stable")])
    needed = (len(sizes) + 1) * (1 - false_reject_rate)
    return float(order[int(np.argmax(shares >= needed - 1e-9))])


def covered(groups: Sequence[int] | None, false_reject_rate: float) -> Covers:
    """What a conformal threshold covers: new parts if there are enough groups for the rate, else more images like these."""
    return "parts" if groups is not None and len(set(groups)) >= images_needed(false_reject_rate) else "images"


def promise_in_words(decision: GraphDecision) -> str:
    """What a decision's promised rate covers, and how many images and parts stand behind it: one sentence, or empty.

    It is empty for rules that promise no false-reject rate, and for bundles from earlier versions.
    """
    n, groups = decision.n, decision.groups
    if decision.covers is None:
        return ""
    if decision.rule == "cross-fitted":
        return _aim_in_words(decision)
    if decision.covers == "parts":
        return f"the promised {decision.false_reject_rate:.2%} holds for new parts like these: {n} held-out images of {groups} parts"
    if note := parts_note(n, groups, decision.false_reject_rate):
        return note[0]
    return (
        f"the promised {decision.false_reject_rate:.2%} holds for more images like these {n}; if several images show one part, new "
        "parts may be rejected more often"
    )


def _aim_in_words(decision: GraphDecision) -> str:
    """As `promise_in_words`, for the rule ``cross-fitted``."""
    shown = f"{decision.n} images" + (f" of {decision.groups} parts" if decision.groups else "")
    meant = "new parts like these" if decision.covers == "parts" else "more images like these"
    few = parts_note(decision.n, decision.groups, decision.false_reject_rate)
    return (
        f"about {decision.false_reject_rate:.2%} of {meant} are expected to be rejected: {shown}, each scored by a network that did "
        f"not learn from it; proven is only at most {decision.proven_false_reject_rate:.1%}"
        + (f", and for new parts {1 / (decision.groups + 1):.1%} at best" if few and decision.groups else "")
    )


def pixel_threshold(peaks: Scores, false_reject_rate: float, groups: Sequence[int] | None = None) -> float:
    """As `conformal_threshold`, but the largest peak if there are too few.

    Args:
        peaks: The largest value of each held-out good image's heatmap, float32 [n].
        false_reject_rate: α in (0, 1).
        groups: See `conformal_threshold`; ignored if there are too few of them.

    Raises:
        CalibrationError: A peak is not finite.
    """
    _require_finite(peaks, "good")
    if covered(groups, false_reject_rate) == "parts":
        return conformal_threshold(peaks, false_reject_rate, groups)
    return float(np.sort(peaks)[min(conformal_rank(len(peaks), false_reject_rate), len(peaks)) - 1])


def recall_rank(m: int, recall: float) -> int:
    """The rank, from 1, of the score just above the threshold among m ascending scores of defects: ⌊(m+1)(1−r)⌋."""
    return math.floor(round((m + 1) * (1 - recall), 9))


def recall_threshold(defects: Scores, recall: float) -> float:
    """The largest threshold that can promise `recall`: just below the ⌊(m+1)(1−r)⌋-th smallest score.

    Args:
        defects: Scores of labelled defects, float32 [m], finite, enough for `ThresholdTarget.require`.
        recall: r in (0, 1).
    """
    return float(np.nextafter(np.sort(defects)[recall_rank(len(defects), recall) - 1], np.float32(-np.inf)))


def best_f1_threshold(good: Scores, defects: Scores) -> float:
    """The threshold with the best F1 (true positives are the defects found), midway to the next higher score.

    Args:
        good: Scores of good images, float32 [n], finite.
        defects: Scores of labelled defects, float32 [m], finite, m > 0.
    """
    low, high = np.sort(good).astype(np.float64), np.sort(defects).astype(np.float64)
    steps = np.unique(np.concatenate([low, high]))
    found = len(high) - np.searchsorted(high, steps, side="left")  # defects found if this and higher scores are rejected
    false = len(low) - np.searchsorted(low, steps, side="left")
    best = int(np.argmax(2 * found / (found + false + len(high))))
    below = steps[best - 1] if best else steps[0] - 1.0
    return float((below + steps[best]) / 2)


def decide(
    good: Scores,
    target: ThresholdTarget,
    graph_sha256: str,
    *,
    names: Sequence[str] = (),
    defects: Scores | None = None,
    engine_sha256: str | None = None,
    peaks: Scores | None = None,
    golden: Scores | None = None,
    groups: Sequence[int] | None = None,
) -> GraphDecision:
    """Make the decision of one graph or engine from its scores.

    Args:
        good: Scores of held-out good images, float32 [n].
        target: The threshold target.
        graph_sha256: Sha256 of the graph, or of the graph that the engine was built from.
        names: The good images' names, in the order of `good`, or empty.
        defects: Scores of labelled defects, float32 [m], if the rule needs them.
        engine_sha256: Sha256 of the engine, if the scores are an engine's.
        peaks: The largest value of each good image's heatmap, float32 [n], if that is not its score.
        groups: The group of each good image, in the order of `good`, or None if unknown. With enough groups for the rate, the rule
            ``conformal`` or ``cross-fitted`` counts each group once.
        golden: Golden-frame scores from the same graph or engine, float32 [g]; None to use ``golden/scores.json``.

    Raises:
        CalibrationError: The target cannot be reached, or a score is not finite.
    """
    bad = np.empty(0, np.float32) if defects is None or target.rule in FROM_GOOD else defects
    target.require(len(good), len(bad))
    _require_finite(good, "good")
    _require_finite(bad, "defective")
    covers = covered(groups, target.false_reject_rate) if target.rule in FROM_GOOD else None
    apart = groups if covers == "parts" else None
    threshold, rate, recall = _threshold(good, bad, target, apart)
    order = np.argsort(good, kind="stable")
    return GraphDecision(
        graph_sha256=graph_sha256,
        threshold=threshold,
        false_reject_rate=rate,
        n=len(good),
        good_scores=[float(score) for score in good[order]],
        quantiles={f"p{round(100 * q)}": float(np.quantile(good, q)) for q in _QUANTILES},
        rule=target.rule,
        good_images=[names[place] for place in order] if names else [],
        defect_scores=[float(score) for score in np.sort(bad)],
        recall=recall,
        engine_sha256=engine_sha256,
        pixel_threshold=None if peaks is None else pixel_threshold(peaks, target.false_reject_rate, apart),
        golden_scores=[] if golden is None else [float(score) for score in golden],
        groups=None if groups is None else len(set(groups)),
        covers=covers,
    )


def _threshold(
    good: Scores, defects: Scores, target: ThresholdTarget, groups: Sequence[int] | None
) -> tuple[float, float, float | None]:
    """Threshold, false-reject rate and recall; `groups` only if they are enough for the rate."""
    if target.rule in FROM_GOOD:
        return conformal_threshold(good, target.false_reject_rate, groups), target.false_reject_rate, None
    if target.rule == "best-f1":
        threshold = best_f1_threshold(good, defects)
        return threshold, _observed_rate(good, threshold), float(np.mean(defects.astype(np.float64) > threshold))
    threshold = recall_threshold(defects, target.recall)
    rate = _observed_rate(good, threshold)
    if rate > target.false_reject_rate:
        raise CalibrationError(
            f"finding {target.recall:g} of the defects needs the threshold {threshold:.6g}, which rejects {rate:.3g} of the good "
            f"parts (allowed: at most {target.false_reject_rate:g})",
            "ask for a lower {recall}, for {false_reject_rate:{least}}, or train longer",
            least=math.ceil(1000 * rate) / 1000,
        )
    return threshold, rate, target.recall


def _observed_rate(good: Scores, threshold: float) -> float:
    """The false-reject rate on n good images of which k are rejected, counting one more rejected one: (k + 1) / (n + 1)."""
    return float((np.count_nonzero(good.astype(np.float64) > threshold) + 1) / (len(good) + 1))


def _require_finite(scores: Scores, kind: str) -> None:
    if not np.isfinite(scores).all():
        raise CalibrationError(
            f"{int((~np.isfinite(scores)).sum())} of {len(scores)} {kind} scores are not finite", "train again"
        )


def rate_interval(decision: GraphDecision, confidence: float = 0.9) -> tuple[float, float]:
    """The interval of the true false-reject rate: quantiles of Beta(n+1−k, k), k the threshold's rank.

    The promised rate holds on average over sets of n held-out images. For one set, the true rate lies in this interval (Vovk, 2012).
    If each part counts once, n is the number of parts: exact for one image per part, and about right, rather too wide, for several.

    Args:
        decision: A conformal decision.
        confidence: Probability that the rate lies in the interval, in (0, 1).
    """
    n = decision.groups if decision.covers == "parts" and decision.groups else decision.n
    rank = conformal_rank(n, decision.false_reject_rate)
    tail = (1 - confidence) / 2
    return beta_quantile(n + 1 - rank, rank, tail), beta_quantile(n + 1 - rank, rank, 1 - tail)
