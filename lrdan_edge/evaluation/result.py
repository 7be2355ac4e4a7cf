"""The result of an evaluation."""

from dataclasses import dataclass

import msgspec

from lrdan_edge.data.dataset import LabelledImage
from lrdan_edge.runtime.verdict import Verdict


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
        kinds: Per defect kind: count, AUROC against all good images, and miss rate.
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
    notes: list[str] = []

    def in_words(self) -> dict[str, str]:
        """Both rates in words, each with the promised rate."""
        rates = {
            "false-reject rate": (self.false_reject_rate, self.promised_false_reject_rate),
            "miss rate": (self.miss_rate, self.promised_miss_rate),
        }
        unpromised = "; the threshold's rule promises nothing" if all(promise is None for _, promise in rates.values()) else ""
        return {
            name: f"{rate:.2%}{unpromised}" if promise is None else f"{rate:.2%} (promised {promise:.2%})"
            for name, (rate, promise) in rates.items()
        }
