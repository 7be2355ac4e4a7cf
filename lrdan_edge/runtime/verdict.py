"""A verdict: good, reject or fault, and what it stands on."""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.decision import GraphDecision
from lrdan_edge.bundle.view import RegionFractions
from lrdan_edge.errors import DataError

Outcome = Literal["good", "reject", "fault"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one frame.

    Attributes:
        outcome: ``good``, ``reject``, or ``fault`` when nothing trustworthy can be said; a fault is never a good part.
        score: The raw anomaly score, or None where there is none.
        threshold: The score above which a part is rejected.
        p_value: Fraction of good parts at least this anomalous, in (0, 1]: (1 + #{held-out good scores ≥ score}) / (n + 1)
            (Vovk et al., conformal p-value), or None without a score.
        heatmap: Per-pixel anomaly map, float32 [h, w], when asked for.
        fault: Why nothing can be said, or None.
        region: The part of the frame that the heatmap shows, as shares of its width and height; None for all of it.
        frame_outcome: What this frame alone says, where a `lrdan_edge.runtime.rule.Rule` made `outcome` from more than that;
            else None, and `outcome` is it.
        area: Pixels of the heatmap above the limit of their place, where a rule looked at it.
        exceeded: Where those were too many: names of the rule's regions, or ``elsewhere``.
        pixel_threshold: The heatmap's value that good parts rarely exceed anywhere; None where it is the threshold itself, or
            was not calibrated.
    """

    outcome: Outcome
    score: float | None
    threshold: float
    p_value: float | None
    heatmap: npt.NDArray[np.float32] | None = None
    fault: str | None = None
    region: RegionFractions | None = None
    frame_outcome: Outcome | None = None
    area: int | None = None
    exceeded: tuple[str, ...] = ()
    pixel_threshold: float | None = None

    @property
    def own_outcome(self) -> Outcome:
        """What this frame alone says, whatever the frames around it."""
        return self.frame_outcome or self.outcome

    def as_dict(self) -> dict[str, Any]:
        """The verdict without its heatmap, ready for JSON."""
        record: dict[str, Any] = {"outcome": self.outcome, "score": self.score, "threshold": self.threshold}
        record["p_value"] = self.p_value
        if self.frame_outcome is not None:
            record["frame_outcome"] = self.frame_outcome
        if self.area is not None:
            record |= {"area": self.area, "exceeded": list(self.exceeded)}
        if self.fault is not None:
            record["fault"] = self.fault
        return record


class Verdicts(Sequence[Verdict]):
    """The verdicts of a batch, in the frames' order."""

    def __init__(self, verdicts: list[Verdict]) -> None:
        """Hold `verdicts`."""
        self._verdicts = verdicts

    @overload
    def __getitem__(self, index: int) -> Verdict: ...
    @overload
    def __getitem__(self, index: slice) -> "Verdicts": ...
    def __getitem__(self, index: int | slice) -> "Verdict | Verdicts":
        return Verdicts(self._verdicts[index]) if isinstance(index, slice) else self._verdicts[index]

    def __len__(self) -> int:
        return len(self._verdicts)

    def __iter__(self) -> Iterator[Verdict]:
        return iter(self._verdicts)

    def __repr__(self) -> str:
        counts = {outcome: sum(verdict.outcome == outcome for verdict in self) for outcome in ("good", "reject", "fault")}
        return f"Verdicts({', '.join(f'{count} {outcome}' for outcome, count in counts.items())})"

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """Raw scores, float32 [N]; NaN for a fault."""
        return np.array([math.nan if verdict.score is None else verdict.score for verdict in self], np.float32)

    @property
    def heatmaps(self) -> list[npt.NDArray[np.float32] | None]:
        """Heatmaps, float32 [h, w] each; None where not asked for or a fault."""
        return [verdict.heatmap for verdict in self]


class Judge:
    """Turns scores into verdicts by one graph's decision."""

    def __init__(self, decision: GraphDecision, threshold: float | None = None, region: RegionFractions | None = None) -> None:
        """Judge by `decision`, or by another `threshold` if one is given; `region` is what heatmaps show.

        Raises:
            DataError: The threshold is not finite: no score exceeds NaN, and every part would be good.
        """
        if threshold is not None and not math.isfinite(threshold):
            raise DataError(f"a threshold of {threshold} decides nothing: give a number")
        self.decision, self.region = decision, region
        self.threshold = decision.threshold if threshold is None else threshold
        self._good_scores = sorted(decision.good_scores)

    def p_value(self, score: float) -> float:
        """Conformal p-value of a score, in (0, 1]."""
        n = len(self._good_scores)
        return (1 + n - bisect_left(self._good_scores, score)) / (n + 1)

    def judge(self, score: float, heatmap: npt.NDArray[np.float32] | None = None) -> Verdict:
        """The verdict on a score; NaN and infinity are faults."""
        if not math.isfinite(score):
            return self.fault(f"the score is {score}: the backend's output cannot be trusted")
        outcome: Outcome = "reject" if score > self.threshold else "good"
        pixel = self.decision.pixel_threshold
        return Verdict(outcome, score, self.threshold, self.p_value(score), heatmap, region=self.region, pixel_threshold=pixel)

    def fault(self, reason: str) -> Verdict:
        """The verdict on a frame that has no score."""
        return Verdict("fault", None, self.threshold, None, None, reason, self.region)
