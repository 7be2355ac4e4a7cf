"""The result of an evaluation."""

from dataclasses import dataclass

import msgspec

from lrdan_edge.data.dataset import LabelledImage
from lrdan_edge.evaluation.conclusion import Conclusion
from lrdan_edge.metrics import COMPARED_RATE, Recall, recall_at, recall_of
from lrdan_edge.runtime.verdict import Verdict

AT_2_PERCENT = f"recall at {COMPARED_RATE:.0%} false rejects"


@dataclass(frozen=True)
class Judged:
    """A test image with its verdict."""

    image: LabelledImage
    verdict: Verdict

    @property
    def score(self) -> float:
        """Its score; NaN for a fault."""
        return float("nan") if self.verdict.score is None else self.verdict.score


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an evaluation; rates in [0, 1].

    Attributes:
        backend: The graph or engine, and the backend that ran it.
        threshold: The score above which a part was rejected.
        promised_false_reject_rate: The rate that calibration promised; None if the threshold's rule promises none.
        good: Number of good images.
        defective: Number of defective images.
        image_auroc: AUROC of the image scores.
        pixel_auroc: AUROC of the heatmaps against the masks, at the heatmap's resolution; None without masks.
        false_reject_rate: Fraction of good images rejected.
        miss_rate: Fraction of defective images not rejected.
        faults: Number of images without a score; no rate counts them.
        promised_miss_rate: The miss rate that calibration promised; only the rule ``recall`` promises one.
        notes: Warnings to read before relying on these figures, one sentence each.
        kinds: Per defect kind: count (``images``), AUROC against all good images, miss rate, and the two recalls below as
            ``recall`` and ``recall_at_2_percent``, each with the ends of its interval as ``…_low`` and ``…_high``.
        aimed_false_reject_rate: The rate that calibration aimed at without promising it (the rule ``cross-fitted``), else None.
        recall: Fraction of defective images rejected at `threshold` (1 - miss rate), with the interval of
            `lrdan_edge.metrics.recall_above`; None in results of earlier versions.
        recall_at_2_percent: Fraction of defective images found where 2 % of these good images are rejected, whatever `threshold`
            is; see `lrdan_edge.metrics.recall_at`. None in results of earlier versions.
        conclusion: The plain verdict; None in results of earlier versions.
    """

    backend: str
    threshold: float
    promised_false_reject_rate: float | None
    good: int
    defective: int
    image_auroc: float
    pixel_auroc: float | None
    false_reject_rate: float
    miss_rate: float
    faults: int
    kinds: dict[str, dict[str, float]]
    promised_miss_rate: float | None = None
    aimed_false_reject_rate: float | None = None
    notes: list[str] = []
    recall: Recall | None = None
    recall_at_2_percent: Recall | None = None
    conclusion: Conclusion | None = None

    def recalls_in_words(self) -> dict[str, str]:
        """Both recalls with their intervals, in words; empty for results of earlier versions."""
        recalls = {"recall at the threshold": self.recall, AT_2_PERCENT: self.recall_at_2_percent}
        said = {name: recall.in_words() for name, recall in recalls.items() if recall}
        if AT_2_PERCENT in said and self.good * COMPARED_RATE < 1:
            said[AT_2_PERCENT] += f"; with {self.good} good images, none of them rejected"
        return said

    def in_words(self) -> dict[str, str]:
        """Both rates in words, each with its count, its 95 % interval and the promised rate."""
        promised, aimed, missing = self.promised_false_reject_rate, self.aimed_false_reject_rate, self.promised_miss_rate
        nothing = "; the threshold's rule promises nothing" if (promised, aimed, missing) == (None, None, None) else ""
        rejects, misses = (
            f"{(count := round(rate * of))} of {of} {parts} ({_interval(count, of)})"
            for rate, of, parts in (
                (self.false_reject_rate, self.good, "good parts rejected"),
                (self.miss_rate, self.defective, "defective parts missed"),
            )
        )
        rejects += _kept("promised", promised, self.false_reject_rate, self.good) or _kept(
            "aimed at", aimed, self.false_reject_rate, self.good
        )
        misses += _kept("promised", missing, self.miss_rate, self.defective)
        return {"false-reject rate": rejects + nothing, "miss rate": misses + nothing}


def _interval(count: int, of: int) -> str:
    """A rate and its interval: ``8.2%, 95% interval 2.3% to 19.6%``."""
    rate = recall_of(count, of)
    return f"{rate.value:.1%}, 95% interval {rate.low:.1%} to {rate.high:.1%}"


def _kept(word: str, promise: float | None, rate: float, of: int) -> str:
    """Whether a rate is within a promise, as the end of a sentence; empty without one."""
    if promise is None:
        return ""
    if rate <= promise:
        kept = "kept on these parts"
    elif recall_of(round(rate * of), of).low <= promise:
        kept = f"within what {of} parts can show"
    else:
        kept = "exceeded by more than chance explains"
    return f"; {word} {100 * promise:.3g}%: {kept}"


def kind_figures(good: list[float], part: list[float], area: float, missed: int) -> dict[str, float]:
    """The figures of one kind of defect, for `Evaluation.kinds`.

    Args:
        good: Scores of all good images, not empty.
        part: Scores of the kind's images, not empty.
        area: The kind's AUROC.
        missed: Number of the kind's images not rejected.
    """
    figures = {"images": len(part), "image_auroc": area, "miss_rate": missed / len(part)}
    recalls = {"recall": recall_of(len(part) - missed, len(part)), "recall_at_2_percent": recall_at(good, part)}
    for name, recall in recalls.items():
        if recall:
            figures |= {name: recall.value, f"{name}_low": recall.low, f"{name}_high": recall.high}
    return figures


def kind_recall(figures: dict[str, float], name: str) -> Recall | None:
    """One of the two recalls of a kind (``recall``, ``recall_at_2_percent``); None in results of earlier versions."""
    if name not in figures:
        return None
    return Recall(figures[name], figures[f"{name}_low"], figures[f"{name}_high"])
