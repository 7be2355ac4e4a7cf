"""Verdicts (good, reject or fault), and the values that they are based on."""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from lrdan_edge.bundle.decision import GraphDecision
from lrdan_edge.bundle.view import RegionFractions
from lrdan_edge.errors import DataError

Outcome = Literal["good", "reject", "fault"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one frame.

    Attributes:
        outcome: ``good``, ``reject``, or ``fault`` if the frame could not be inspected; a fault is never a good part.
        score: The raw anomaly score, or None for a fault.
        threshold: The score above which a part is rejected.
        p_value: Fraction of good parts at least this anomalous, in (0, 1]: (1 + #{held-out good scores ≥ score}) / (n + 1)
            (Vovk et al., conformal p-value), or None without a score.
        heatmap: Per-pixel anomaly map, float32 [h, w], if requested.
        fault: Why the frame could not be inspected, or None.
        region: The part of the frame that the heatmap shows, as fractions of its width and height; None: the whole frame.
        frame_outcome: The outcome of only this frame, if a `lrdan_edge.runtime.rule.Rule` decided `outcome` from several frames
            or from the heatmap; else None.
        area: Number of the heatmap's pixels above their limit, if a rule counts them.
        exceeded: Regions in which the area is too large: names of the rule's regions, or ``elsewhere``.
        pixel_threshold: The heatmap value that good parts rarely exceed anywhere; None if it equals the threshold, or was not
            calibrated.
        typical: The median score of the good images that the threshold was fitted on, or None if it is not known.
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
    typical: float | None = None

    @property
    def own_outcome(self) -> Outcome:
        """The outcome of only this frame, without regard to other frames."""
        return self.frame_outcome or self.outcome

    @property
    def multiple(self) -> float | None:
        """The score as a multiple of the threshold, for people: 0 for a typical good part, 1 at the threshold, more for a reject.

        It is (score - typical) / (threshold - typical), so it rises with the score whatever the score's unit and sign are: log-odds
        are mostly below zero, where a plain ratio would fall. None without a score, or if the threshold is not above the typical score.
        """
        if self.score is None or self.typical is None or not self.threshold > self.typical:
            return None
        return (self.score - self.typical) / (self.threshold - self.typical)

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
    """The verdicts of a batch, in the order of its frames."""

    def __init__(self, verdicts: list[Verdict]) -> None:
        """Keep the list."""
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
        """Heatmaps, float32 [h, w] each; None where not requested, and for faults."""
        return [verdict.heatmap for verdict in self]


class Thresholder:
    """Compares scores with a threshold, and returns verdicts."""

    def __init__(self, decision: GraphDecision, threshold: float | None = None, region: RegionFractions | None = None) -> None:
        """Keep the threshold and the good scores.

        Args:
            decision: Calibrated threshold and held-out good scores.
            threshold: A threshold instead of the calibrated one.
            region: The part of the frame that heatmaps show, as fractions of its width and height; None: the whole frame.

        Raises:
            DataError: The threshold is not finite: no score exceeds NaN, so every part would be good.
        """
        if threshold is not None and not math.isfinite(threshold):
            raise DataError(f"the threshold must be finite, got {threshold}", "give another {threshold}")
        self.decision, self.region = decision, region
        self.threshold = decision.threshold if threshold is None else threshold
        self._good_scores = sorted(decision.good_scores)
        self._typical = median(self._good_scores) if self._good_scores else None

    def p_value(self, score: float) -> float:
        """Conformal p-value of a score, in (0, 1]."""
        n = len(self._good_scores)
        return (1 + n - bisect_left(self._good_scores, score)) / (n + 1)

    def verdict(self, score: float, heatmap: npt.NDArray[np.float32] | None = None) -> Verdict:
        """The verdict on a score; NaN and infinity are faults."""
        if not math.isfinite(score):
            return self.fault(f"the score is {score}: the backend's output cannot be trusted")
        outcome: Outcome = "reject" if score > self.threshold else "good"
        pixel = self.decision.pixel_threshold
        return Verdict(
            outcome,
            score,
            self.threshold,
            self.p_value(score),
            heatmap,
            region=self.region,
            pixel_threshold=pixel,
            typical=self._typical,
        )

    def fault(self, reason: str) -> Verdict:
        """The verdict on a frame without a score."""
        return Verdict("fault", None, self.threshold, None, None, reason, self.region)


class NothingInspected(Thresholder):
    """Makes every frame a fault: no score of a backend that inspects nothing may pass for that of a good part."""

    def verdict(self, score: float, heatmap: npt.NDArray[np.float32] | None = None) -> Verdict:  # noqa: ARG002
        """A fault, whatever the score."""
        return self.fault("nothing was inspected: the null backend only measures the loop")
